"""Dice and time of prediction against the distance between slabs, on models trained for it.

    python benchmarks/slab_stride.py slab_stride --work WORK   # two trainings side by side, one thread each
    python benchmarks/slab_stride.py measure --work WORK       # one after the other, nothing else running

The models are 3d_ma_sam (slabs of 5 slices, as its authors') and 3d_adapter (the plan's slab), fold 0 of Dataset035 at
3 x 1.25 x 1.25 mm. "votes" is the authors' way: stride 1, end slices repeated, softmax votes counted alike. All others
average logits with Gaussian weights, at the slab steps 1, 2, half a slab and a whole one, and in the plane at 0.5 and 1
where that makes other tiles. Passes are slabs through the encoder. The default runs in what the device multiplies
fastest in, and once in fp32. Needs WORK to stay. Writes benchmarks/results/slab_stride.json.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import study
import torch
from machine import processor_name

from samunet import pipeline
from samunet.core.codec import write_json
from samunet.core.geometry import shape3
from samunet.evaluation.score import score_case, targets_from_labels
from samunet.evaluation.summary import summarize
from samunet.inference.files import predict_cases
from samunet.inference.load import load_predictor
from samunet.inference.options import FileOptions
from samunet.inference.predictor import PredictionOptions
from samunet.machine.hardware import PRECISION_NAMES, choose_precision, keep_freed_memory

MINUTES = 18.0
ROWS = tuple(
    study.Row(name=name, minutes=MINUTES, configuration=configuration, **study.PROSTATE, **options)
    for name, configuration, options in (("3d_ma_sam", "3d_ma_sam", {}), ("3d_adapter", "3d_adapter", {}))
)
SAME = 0.001  # of Dice: a cheaper setting within this of stride 1 is as good


def main() -> None:
    if sys.argv[1:2] != ["measure"]:
        study.main({"slab_stride": ROWS}, __doc__)
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["measure"])
    parser.add_argument("--work", type=Path, required=True)
    arguments = parser.parse_args()
    keep_freed_memory()
    result: dict[str, Any] = {
        "machine": {"cpu": processor_name(), "threads": torch.get_num_threads()},
        "minutes_of_training": MINUTES,
    }
    result["models"] = {row.name: measure(row, arguments.work) for row in ROWS}
    write_json(study.RESULTS / "slab_stride.json", result)


def measure(row: study.Row, work: Path) -> dict[str, Any]:
    """Predict the validation cases with every setting."""
    shared = study.place(row, work)
    dataset = pipeline.open_dataset(shared, row.dataset)
    cases = study.validation_cases(row, shared, dataset)
    plans_name = f"samunetPlans_{study.key_of(row, '')}"
    folder = next((work / plans_name / dataset.spec.name).glob(f"*__{row.configuration}"))
    base = load_predictor(folder, folds=[row.fold], device="cpu", options=PredictionOptions(flips=False, quiet=True))
    depth = base.configuration.patch_size[0]
    settings: dict[str, dict] = {"default": {}, "default, fp32": {"precision": "fp32"}, "votes": {"slab_votes": True}}
    for plane in (0.5, 1.0):
        for step in sorted({1, 2, max(1, depth // 2), depth}):
            settings[f"step {step}, plane {plane}"] = {"slab_step": step, "step_size": plane}
    labels, rows, seen = dataset.spec.labels, [], set()
    for name, options in settings.items():
        predictor = replace(base, options=PredictionOptions(flips=False, quiet=True, **options))
        counter = Counter(base.networks[0])
        predictor = replace(predictor, networks=(counter,))
        with tempfile.TemporaryDirectory() as text:
            began = time.perf_counter()
            if failures := predict_cases(predictor, cases, Path(text), FileOptions(quiet=True)).failures:
                raise SystemExit(str(failures))
            seconds = time.perf_counter() - began
            scores = [
                score_case(
                    case.label,
                    Path(text) / f"{case.identifier}{dataset.spec.file_ending}",
                    targets=targets_from_labels(labels),
                    ignore=labels.ignore,
                    reader=dataset.reader,
                )
                for case in cases
            ]
        dice = summarize(scores).foreground_mean.dice
        tiles = (name.startswith(("default", "votes")), counter.passes)
        if tiles[0] or tiles not in seen:  # other steps may give the same tiles
            rows.append(
                {"setting": name, "dice": round(dice, 4), "passes": counter.passes, "seconds": round(seconds, 1)}
            )
            print(row.name, rows[-1], flush=True)
        seen.add(tiles)
    best = next(found["dice"] for found in rows if found["setting"] == "step 1, plane 0.5")
    precision = PRECISION_NAMES[choose_precision("auto", base.device)]
    cheapest = min(
        (found for found in rows if found["dice"] >= best - SAME), key=lambda found: (found["passes"], found["seconds"])
    )
    return {
        "patch": shape3(base.configuration.patch_size),
        "cases": len(cases),
        "precision": precision,
        "rows": rows,
        "cheapest_as_good_as_stride_1": cheapest["setting"],
    }


class Counter(torch.nn.Module):
    """A network that counts how many tiles it sees."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network, self.passes = network, 0

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        """See the network."""
        self.passes += len(tiles)
        return self.network(tiles)


if __name__ == "__main__":
    main()
