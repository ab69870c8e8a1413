"""SAM's image encoder: ours against segment_anything's own, in time and peak memory, on the same random weights.

    python benchmarks/encoder.py                     # vit_b and vit_tiny at 512 and 1024 pixels
    python benchmarks/encoder.py --only vit_b:512

Both sides run in turns in one process and the fastest of the repeats counts; peak memory is taken in a process of its
own a side. Also prints the largest difference between the sides, the time of each form of attention, from which
`samunet.sam.attention.choose_form` was made, and that of linear layers as such and as `samunet.sam.encoder.linear` does
them. Writes benchmarks/results/encoder_<device>.json. Nothing else should run meanwhile.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch
from machine import processor_name

from samunet.core.codec import write_json
from samunet.core.memory import peak_mib, start_peak
from samunet.sam.attention import FORMS, relative_attention
from samunet.sam.backbones import backbone_named
from samunet.sam.build import build_sam
from samunet.sam.encoder import Sites, embed_patches, encode, linear

RESULTS = Path(__file__).parent / "results"
CASES = [(name, side) for name in ("vit_tiny", "vit_b") for side in (512, 1024)]
PEAK_H100 = 989e12  # dense bf16 FLOP/s, NVIDIA's data sheet; H200 has the same


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="BACKBONE:SIDE")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--peak", nargs=4, metavar=("BACKBONE", "SIDE", "MODE", "WHO"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        print(json.dumps(peak_growth(*arguments.peak)))
        return
    device = torch.device(arguments.device)
    cases = [tuple(arguments.only.split(":"))] if arguments.only else CASES
    result = {
        "machine": {
            "device": device.type,
            "name": processor_name(device.type),
            "cpu_threads": torch.get_num_threads(),
            "torch": torch.__version__,
        },
        "precision": "bf16" if device.type == "cuda" else "fp32",
        "encoder": [row for name, side in cases for row in compare(name, int(side), device, arguments.repeats)],
        "attention_ms": attention_forms(device, arguments.repeats),
        "linear_ms": linear_forms(device, arguments.repeats),
    }
    RESULTS.mkdir(exist_ok=True)
    write_json(RESULTS / f"encoder_{device.type}.json", result)
    print(json.dumps(result, indent=2))


def setup(name: str, side: int, device: torch.device) -> tuple[torch.nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    encoder = build_sam(backbone_named(name), (side, side)).image_encoder
    with torch.no_grad():
        for key, parameter in encoder.named_parameters():
            if "rel_pos" in key:
                parameter.normal_(std=0.02)
    return encoder.to(device), torch.randn(1, 3, side, side, device=device)


def ours(encoder: torch.nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    return encode(encoder, embed_patches(encoder, pixels.unsqueeze(0)), [Sites() for _ in encoder.blocks]).neck[0]


def checkpointed(encoder: torch.nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    tokens = embed_patches(encoder, pixels.unsqueeze(0))
    return encode(encoder, tokens, [Sites() for _ in encoder.blocks], checkpointing=True).neck[0]


SIDES: dict[str, Callable[[torch.nn.Module, torch.Tensor], torch.Tensor]] = {
    "segment_anything": lambda encoder, pixels: encoder(pixels),
    "ours": ours,
    "ours_checkpointed": checkpointed,
}


def step(run: Callable[[], torch.Tensor], mode: str, device: torch.device) -> torch.Tensor:
    """One forward pass, or one with backward; training needs gradients in every weight."""
    context = torch.autocast("cuda", dtype=torch.bfloat16) if device.type == "cuda" else nullcontext()
    with torch.set_grad_enabled(mode == "training"), context:
        output = run()
        if mode == "training":
            output.float().square().mean().backward()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return output.detach()


def compare(name: str, side: int, device: torch.device, repeats: int) -> list[dict]:
    encoder, pixels = setup(name, side, device)
    rows = []
    for mode in ("forward", "training"):
        who = [key for key in SIDES if mode == "training" or key != "ours_checkpointed"]
        seconds = {key: float("inf") for key in who}
        outputs = {}
        for _ in range(repeats):
            for key in who:
                encoder.zero_grad(set_to_none=True)
                began = time.perf_counter()
                outputs[key] = step(lambda key=key: SIDES[key](encoder, pixels), mode, device)
                seconds[key] = min(seconds[key], time.perf_counter() - began)
        memory = (
            {key: peak_of(name, side, mode, key) for key in who}
            if device.type == "cpu"
            else {key: cuda_peak(encoder, pixels, key, mode) for key in who}
        )
        row = {
            "backbone": name,
            "side": side,
            "mode": mode,
            "seconds": {key: round(value, 4) for key, value in seconds.items()},
            "peak_mib": memory,
            "speedup": round(seconds["segment_anything"] / seconds["ours"], 2),
            "memory_ratio": round(memory["ours"] / memory["segment_anything"], 2),
            "largest_difference": largest_difference(outputs),
        }
        if device.type == "cuda":
            row["share_of_peak"] = round(
                flops(name, side) * (3 if mode == "training" else 1) / seconds["ours"] / PEAK_H100, 3
            )
        print(json.dumps(row), flush=True)
        rows.append(row)
    return rows


def largest_difference(outputs: dict[str, torch.Tensor]) -> float:
    """Between the sides' embeddings; refuses to go on in fp32 where they are not equal."""
    difference = float((outputs["ours"].float() - outputs["segment_anything"].float()).abs().max())
    if outputs["ours"].device.type == "cpu" and difference > 2e-5:
        raise SystemExit(f"The encoders differ by {difference}.")
    return difference


def peak_of(name: str, side: int, mode: str, who: str) -> int:
    command = [sys.executable, __file__, "--peak", name, str(side), mode, who]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def peak_growth(name: str, side: str, mode: str, who: str) -> int:
    """Growth of this process's peak memory over one step, in MiB, with the weights already there."""
    device = torch.device("cpu")
    encoder, pixels = setup(name, int(side), device)
    before = start_peak()
    step(lambda: SIDES[who](encoder, pixels), mode, device)
    return round(peak_mib() - before)


def cuda_peak(encoder: torch.nn.Module, pixels: torch.Tensor, who: str, mode: str) -> int:
    encoder.zero_grad(set_to_none=True)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step(lambda: SIDES[who](encoder, pixels), mode, pixels.device)
    return round((torch.cuda.max_memory_allocated() - before) / 2**20)


def attention_forms(device: torch.device, repeats: int) -> list[dict]:
    """Time each form at the sizes of ViT-B's windows and global blocks, and of small planes."""
    rows = []
    kind = torch.bfloat16 if device.type == "cuda" else torch.float32
    for label, count, heads, side in (
        ("tiny plane", 16, 3, 8),
        ("windows at 512", 9, 12, 14),
        ("global at 512", 1, 12, 32),
        ("global at 1024", 1, 12, 64),
    ):
        generator = torch.Generator().manual_seed(0)
        shapes = [
            (count, heads, side, side, 64),
            *[(count, heads, side * side, 64)] * 2,
            (side, side, 64),
            (side, side, 64),
        ]
        tensors = [torch.randn(shape, generator=generator).to(device, kind).requires_grad_() for shape in shapes]
        for mode in ("forward", "training"):
            times = {form: float("inf") for form in FORMS}
            for _ in range(repeats + 1):
                for form in FORMS:
                    began = time.perf_counter()
                    with torch.set_grad_enabled(mode == "training"):
                        output = relative_attention(*tensors, form=form)
                        if mode == "training":
                            output.float().sum().backward()
                    if device.type == "cuda":
                        torch.cuda.synchronize()
                    times[form] = min(times[form], time.perf_counter() - began)
            rows.append({"size": label, "mode": mode} | {form: round(1e3 * value, 2) for form, value in times.items()})
            print(json.dumps(rows[-1]), flush=True)
    return rows


def linear_forms(device: torch.device, repeats: int) -> list[dict]:
    """Time the layers of vit_tiny's and vit_b's MLPs without a gradient, as linear layers and as `linear` does them."""
    rows = []
    for width in (192, 768):
        for inputs, outputs in ((width, 4 * width), (4 * width, width)):
            torch.manual_seed(0)
            layer, tokens = (
                torch.nn.Linear(inputs, outputs).to(device),
                torch.randn(1, 1, 32, 32, inputs, device=device),
            )
            times = {"linear": float("inf"), "ours": float("inf")}
            with torch.no_grad():
                for _ in range(5 * repeats):
                    for key, run in (("linear", layer), ("ours", lambda tokens, layer=layer: linear(layer, tokens))):
                        began = time.perf_counter()
                        run(tokens)
                        if device.type == "cuda":
                            torch.cuda.synchronize()
                        times[key] = min(times[key], time.perf_counter() - began)
            rows.append(
                {"inputs": inputs, "outputs": outputs} | {key: round(1e3 * value, 2) for key, value in times.items()}
            )
            print(json.dumps(rows[-1]), flush=True)
    return rows


def flops(name: str, side: int) -> float:
    """Count one forward pass's matrix products, a multiplication and an addition as two."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        encoder = build_sam(backbone_named(name), (side, side)).image_encoder
        with FlopCounterMode(display=False) as counter:
            encoder(torch.empty(1, 3, side, side))
    return float(counter.get_total_flops())


if __name__ == "__main__":
    main()
