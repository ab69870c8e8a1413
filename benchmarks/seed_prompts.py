"""What a network pretrained on procedural scenes makes of clicks and boxes on real images that it never saw.

    nnUNet_raw=... python benchmarks/seed_prompts.py --seed FOLDER [--cases 20] [--side 128]

Whole slices: of each case and structure the slice that shows most of it, of 2D images some components. They are
brought to --side voxels along the longer side, and scored on their own grid. Clicks: the first in the middle of the
structure or anywhere in it, each further one in the middle of the largest error; a box is tight. Beside it, with the
same prompts: region growing and the random walker of scikit-image, an ellipse in the box, and the network before
pretraining. Of region growing's tolerances the best on average counts, which helps it. Writes
benchmarks/results/seed_prompts.json.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from machine import processor_name
from scipy import ndimage
from skimage.segmentation import flood, random_walker

from samunet.checkpoints.transfer import transfer
from samunet.core.codec import write_json
from samunet.core.dataset import read_dataset_json, training_cases
from samunet.core.labels import parse_labels
from samunet.core.prompts import BOX, INSIDE, MASK, OUTSIDE
from samunet.core.workspace import workspace_from_environment
from samunet.imageio import reader_for
from samunet.pipeline.pretraining import CARD, SEED_WEIGHTS, plan_of
from samunet.pipeline.simulated_prompts import middle_of
from samunet.pretraining.recipe import Recipe
from samunet.sam.weights import read_tensors
from samunet.variants.network import build_network

RESULTS = Path(__file__).parent / "results"
LEAST_PIXELS = 12  # of a structure in a slice
COMPONENTS = 5  # of a 2D image
TOLERANCES = (0.1, 0.2, 0.3, 0.5, 0.75, 1.0)
CLICKS = (1, 3, 5)


@dataclass(frozen=True)
class Task:
    """One structure in one slice."""

    dataset: str
    structure: str
    case: str
    image: np.ndarray
    """(H, W) float32, z-scored."""
    target: np.ndarray
    """(H, W) bool."""


def tasks(folder: Path, cases: int) -> Iterator[Task]:
    spec = read_dataset_json(folder / "dataset.json")
    found = training_cases(folder, spec)
    reader = reader_for(spec.file_ending, spec.reader, found[0].images[0])
    rng = np.random.default_rng(0)
    for case in [found[index] for index in sorted(rng.choice(len(found), min(cases, len(found)), replace=False))]:
        volume, label = reader.read_image(case.images), reader.read_label(case.label)[0]
        array = volume.array.mean(0)
        if volume.geometry.planar:
            components, count = ndimage.label(label[0] > 0)
            sizes = np.bincount(components.ravel())
            fit = [number for number in range(1, count + 1) if sizes[number] >= LEAST_PIXELS]
            for number in rng.permutation(fit)[:COMPONENTS]:
                yield Task(folder.name, "component", case.identifier, normal(array[0]), components == number)
            continue
        structures = [(name, np.isin(label, values)) for name, values in spec.labels.foreground]
        for name, mask in [*structures, ("whole", label > 0)]:
            place = int(mask.sum((1, 2)).argmax())
            if mask[place].sum() >= LEAST_PIXELS:
                yield Task(folder.name, name, case.identifier, normal(array[place]), mask[place])


def normal(image: np.ndarray) -> np.ndarray:
    return ((image - image.mean()) / (image.std() + 1e-6)).astype(np.float32)


class Network:
    """A promptable network on whole slices of any size."""

    def __init__(self, folder: Path, side: int, *, trained: bool) -> None:
        recipe = Recipe(**json.loads((folder / CARD).read_text(encoding="utf-8"))["recipe"])
        self.side = side
        plan = plan_of(Recipe(**{**recipe.__dict__, "side": side}))
        torch.manual_seed(0)
        self.net = build_network(
            plan, next(iter(plan.configurations.values())), parse_labels({"background": 0, "object": 1})
        )
        if trained:
            print(transfer(self.net, read_tensors(folder / SEED_WEIGHTS)), flush=True)
        self.net.eval()

    def encode(self, image: np.ndarray) -> None:
        height, width = image.shape
        self.scale = self.side / max(image.shape)
        self.size = [max(1, round(height * self.scale)), max(1, round(width * self.scale))]
        plane = torch.from_numpy(image)[None, None]
        plane = F.interpolate(plane, size=self.size, mode="bilinear", antialias=self.scale < 1, align_corners=False)
        plane = (plane - plane.mean()) / (plane.std() + 1e-6)
        plane = F.pad(plane, (0, self.side - self.size[1], 0, self.side - self.size[0]))
        with torch.no_grad():
            self.encoded = self.net.encode_image(plane[:, :, None])
        self.shape = image.shape

    def answer(
        self, clicks: list[tuple[int, int, bool]], box: np.ndarray | None, before: np.ndarray | None
    ) -> np.ndarray:
        drawn = torch.zeros(1, 1, self.side, self.side, dtype=torch.uint8)
        for y, x, inside in clicks:
            drawn[0, 0, int((y + 0.5) * self.scale), int((x + 0.5) * self.scale)] |= INSIDE if inside else OUTSIDE
        for mask, bit in ((box, BOX), (before, MASK)):
            if mask is not None:
                small = F.interpolate(torch.from_numpy(mask)[None, None].float(), size=self.size, mode="area")
                drawn[0, 0, : self.size[0], : self.size[1]] |= (small[0, 0] >= 0.5).to(torch.uint8) * bit
        with torch.no_grad():
            logits = self.net.masks(self.encoded, drawn, torch.zeros(1, dtype=torch.long)).levels[0][:, :, 0]
        logits = logits[..., : self.size[0], : self.size[1]]
        return (F.interpolate(logits, size=self.shape, mode="bilinear", align_corners=False)[0, 0] > 0).numpy()


def middle(mask: np.ndarray) -> tuple[int, int]:
    """Return where a person would click at the largest piece of a (H, W) mask."""
    _, y, x = middle_of(mask[None])
    return y, x


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return float(2 * (one & other).sum() / max(1, one.sum() + other.sum()))


Answer = Callable[[list[tuple[int, int, bool]], "np.ndarray | None", "np.ndarray | None"], np.ndarray]


def clicked(answer: Answer, target: np.ndarray, first: tuple[int, int]) -> list[float]:
    """Return the Dice after CLICKS clicks."""
    clicks, before, scores = [(*first, True)], None, []
    for number in range(1, max(CLICKS) + 1):
        before = answer(clicks, None, before)
        if number in CLICKS:
            scores.append(dice(before, target))
        wrong = before != target
        if wrong.any():
            y, x = middle(wrong)
            clicks.append((y, x, bool(target[y, x])))
    return scores


def box_of(target: np.ndarray) -> tuple[slice, slice]:
    return ndimage.find_objects(target.astype(np.uint8))[0]


def ellipse(target: np.ndarray) -> np.ndarray:
    rows, columns = box_of(target)
    y, x = np.ogrid[: target.shape[0], : target.shape[1]]
    height, width = (rows.stop - rows.start) / 2, (columns.stop - columns.start) / 2
    center = ((rows.start + rows.stop - 1) / 2, (columns.start + columns.stop - 1) / 2)
    return ((y - center[0]) / height) ** 2 + ((x - center[1]) / width) ** 2 <= 1


def growing(image: np.ndarray, tolerance: float) -> Answer:
    smooth = ndimage.gaussian_filter(image, 1)

    def answer(clicks: list, box: np.ndarray | None, before: np.ndarray | None) -> np.ndarray:
        grown = np.zeros(image.shape, bool)
        for y, x, inside in clicks:
            region = flood(smooth, (y, x), tolerance=tolerance)
            grown = grown | region if inside else grown & ~region
        return grown

    return answer


def walking(image: np.ndarray) -> Answer:
    step = max(1, round(max(image.shape) / 128))

    def answer(clicks: list, box: np.ndarray | None, before: np.ndarray | None) -> np.ndarray:
        small = image[::step, ::step]
        seeds = np.zeros(small.shape, np.int32)
        seeds[0], seeds[-1], seeds[:, 0], seeds[:, -1] = 2, 2, 2, 2
        for y, x, inside in clicks:
            seeds[min(y // step, small.shape[0] - 1), min(x // step, small.shape[1] - 1)] = 1 if inside else 2
        if not (seeds == 1).any() or not (seeds == 2).any():
            return np.zeros(image.shape, bool)
        walked = random_walker(small, seeds, beta=130, mode="cg_j", prob_tol=0.1) == 1
        return np.kron(walked, np.ones((step, step), bool))[: image.shape[0], : image.shape[1]]

    return answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=Path, required=True, help="folder of samunet_pretrain")
    parser.add_argument("--cases", type=int, default=20)
    parser.add_argument("--side", type=int, nargs="+", default=[128])
    parser.add_argument("--datasets", nargs="+", default=["4", "35", "45"])
    parser.add_argument("--no_classical", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS / "seed_prompts.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    raw = workspace_from_environment().raw
    every = [
        task
        for number in arguments.datasets
        for folder in sorted(raw.glob(f"Dataset{int(number):03d}_*"))
        for task in tasks(folder, arguments.cases)
    ]
    rows: dict[tuple[str, str, str], list[dict[str, float]]] = {}

    def add(task: Task, method: str, scores: dict[str, float]) -> None:
        rows.setdefault((task.dataset, task.structure, method), []).append(scores)

    networks = {
        f"{name}, {side} voxels": Network(arguments.seed, side, trained=name == "seed")
        for side in arguments.side
        for name in ("seed", *(() if arguments.no_classical else ("untrained",)))
    }
    began = time.monotonic()
    for task in every:
        rng = np.random.default_rng(len(task.case) + int(task.target.sum()))
        places = np.argwhere(task.target)
        anywhere = tuple(int(value) for value in places[rng.integers(len(places))])
        starts = {"middle": middle(task.target), "anywhere": anywhere}
        box = np.zeros(task.target.shape, bool)
        box[box_of(task.target)] = True
        for name, network in networks.items():
            network.encode(task.image)
            scores = {"box": dice(network.answer([], box, None), task.target)}
            for start, first in starts.items():
                values = clicked(network.answer, task.target, first)
                scores |= {f"{start} {count}": value for count, value in zip(CLICKS, values, strict=True)}
            add(task, name, scores)
        if arguments.no_classical:
            continue
        answers: dict[str, Answer] = {f"region growing, {t}": growing(task.image, t) for t in TOLERANCES}
        answers["random walker"] = walking(task.image)
        for name, answer in answers.items():
            scores = {}
            for start, first in starts.items():
                values = clicked(answer, task.target, first)
                scores |= {f"{start} {count}": value for count, value in zip(CLICKS, values, strict=True)}
            add(task, name, scores)
        add(task, "ellipse in the box", {"box": dice(ellipse(task.target), task.target)})
    table = []
    for (dataset, structure, method), scores in rows.items():
        means = {key: round(float(np.mean([score[key] for score in scores])), 3) for key in scores[0]}
        table.append({"dataset": dataset, "structure": structure, "method": method, "n": len(scores), **means})
        print(table[-1], flush=True)
    for dataset in sorted({row["dataset"] for row in table}):
        for method in dict.fromkeys(row["method"] for row in table):
            of = [row for row in table if row["dataset"] == dataset and row["method"] == method]
            keys = [key for key in of[0] if key not in ("dataset", "structure", "method", "n")]
            print(
                dataset[:10], f"{method:28s}", {key: round(float(np.mean([row[key] for row in of])), 3) for key in keys}
            )
    card = json.loads((arguments.seed / CARD).read_text(encoding="utf-8"))
    write_json(
        arguments.out,
        {
            "machine": {"cpu": processor_name()},
            "network": {"recipe": card["recipe"], "minutes": card["training"]["minutes"], "steps": card["steps"]},
            "cases": arguments.cases,
            "seconds": round(time.monotonic() - began),
            "rows": table,
        },
    )


if __name__ == "__main__":
    main()
