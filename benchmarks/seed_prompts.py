"""What a network pretrained on procedural scenes makes of clicks and boxes on real images that it never saw.

    nnUNet_raw=... python benchmarks/seed_prompts.py [--seed FILE] [--cases 20] [--sides 64 128 256]

Whole slices: of each case and structure the slice that shows most of it, of 2D images some components. They are
brought to each of --sides pixels along the longer side. The seed answers as samunet_annotate lets it, which looks at
small objects again and closer; at each of the sizes alone; and at all of them, of which that answer counts whose IoU it
expects to be the highest. All are scored on their own grid. Clicks: the first in the middle of the
structure or anywhere in it, each further one in the middle of the largest error; a box is tight. Beside it, with the
same prompts: region growing and the random walker of scikit-image, an ellipse in the box, and the network before
pretraining. Of region growing's tolerances the best on average counts, which helps it. Writes
benchmarks/results/seed_prompts.json.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from machine import processor_name
from scipy import ndimage
from skimage.segmentation import flood, random_walker

from samunet.checkpoints.seeds import Seed, load_seed, shipped_seed
from samunet.checkpoints.transfer import transfer
from samunet.core.codec import read_json, write_json
from samunet.core.dataset import read_dataset_json, training_cases
from samunet.core.geometry import Geometry
from samunet.core.labels import parse_labels
from samunet.core.prompts import BOX, INSIDE, MASK, OUTSIDE
from samunet.core.volume import Volume
from samunet.core.workspace import workspace_from_environment
from samunet.imageio import reader_for
from samunet.interaction.closer import ask_plane
from samunet.interaction.embeddings import Embeddings
from samunet.interaction.slices import SeedModel
from samunet.pipeline.pretraining import plan_of
from samunet.pipeline.simulated_prompts import middle_of
from samunet.pretraining.recipe import Recipe
from samunet.variants.network import build_network
from samunet.variants.sam_unet.network import EncodedImage

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


class Engine:
    """The seed as samunet_annotate shows it a plane."""

    def __init__(self, seed: Path) -> None:
        self.model = SeedModel(seed)

    def encode(self, image: np.ndarray) -> None:
        array = image[None, None]
        volume = Volume(array=array, geometry=Geometry(shape=array.shape[1:], spacing=(1.0, 1.0, 1.0)))
        self.looks = Embeddings(volume, self.model, "")

    def answer(
        self, clicks: list[tuple[int, int, bool]], box: np.ndarray | None, before: np.ndarray | None
    ) -> np.ndarray:
        drawn = np.zeros(self.looks.volume.geometry.shape[1:], np.uint8)
        for y, x, inside in clicks:
            drawn[y, x] |= INSIDE if inside else OUTSIDE
        for mask, bit in ((box, BOX), (before, MASK)):
            if mask is not None:
                drawn[mask] |= bit
        return ask_plane(self.looks, 0, 0, drawn).mask


class Network:
    """A promptable network on whole slices of any size, brought to one or several sizes.

    Of several the answer counts of which the network itself expects the highest IoU.
    """

    def __init__(self, seed: Seed, sides: Sequence[int], *, trained: bool) -> None:
        recipe = Recipe(**seed.card["recipe"])
        self.sides = sides
        plan = plan_of(recipe)
        torch.manual_seed(0)
        self.net = build_network(
            plan, next(iter(plan.configurations.values())), parse_labels({"background": 0, "object": 1})
        )
        if trained:
            transfer(self.net, seed.weights)
        self.net.eval()

    def encode(self, image: np.ndarray) -> None:
        self.shape, self.seen = image.shape, []
        for side in self.sides:
            size = [max(1, round(length * side / max(image.shape))) for length in image.shape]
            plane = torch.from_numpy(image)[None, None]
            smaller = side < max(image.shape)
            plane = F.interpolate(plane, size=size, mode="bilinear", antialias=smaller, align_corners=False)
            plane = (plane - plane.mean()) / (plane.std() + 1e-6)
            plane = F.pad(plane, (0, side - size[1], 0, side - size[0]))
            with torch.no_grad():
                self.seen.append((side, size, self.net.encode_image(plane[:, :, None])))

    def answer(
        self, clicks: list[tuple[int, int, bool]], box: np.ndarray | None, before: np.ndarray | None
    ) -> np.ndarray:
        answers = [self._answer(*seen, clicks, box, before) for seen in self.seen]
        return max(answers, key=lambda answer: answer[0])[1]

    @torch.no_grad()
    def _answer(
        self,
        side: int,
        size: list[int],
        encoded: EncodedImage,
        clicks: list[tuple[int, int, bool]],
        box: np.ndarray | None,
        before: np.ndarray | None,
    ) -> tuple[float, np.ndarray]:
        scale = side / max(self.shape)
        drawn = torch.zeros(1, 1, side, side, dtype=torch.uint8)
        for y, x, inside in clicks:
            drawn[0, 0, int((y + 0.5) * scale), int((x + 0.5) * scale)] |= INSIDE if inside else OUTSIDE
        for mask, bit in ((box, BOX), (before, MASK)):
            if mask is not None:
                small = F.interpolate(torch.from_numpy(mask)[None, None].float(), size=size, mode="area")
                drawn[0, 0, : size[0], : size[1]] |= (small[0, 0] >= 0.5).to(torch.uint8) * bit
        masks = self.net.masks(encoded, drawn, torch.zeros(1, dtype=torch.long))
        expected = self.net.quality(masks.features, masks.levels[0])
        logits = masks.levels[0][:, :, 0, : size[0], : size[1]]
        mask = F.interpolate(logits, size=self.shape, mode="bilinear", align_corners=False)[0, 0] > 0
        return float(expected), mask.numpy()


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


def measure(task: Task, network: Engine | Network) -> dict[str, float]:
    """Return the Dice of one network with a box, and after clicks from two starts."""
    network.encode(task.image)
    scores = {"box": dice(network.answer([], boxed(task.target), None), task.target)}
    return scores | started(network.answer, task)


def started(answer: Answer, task: Task) -> dict[str, float]:
    """Return the Dice after CLICKS clicks, of which the first is in the middle, or anywhere."""
    rng = np.random.default_rng(len(task.case) + int(task.target.sum()))
    places = np.argwhere(task.target)
    y, x = (int(value) for value in places[rng.integers(len(places))])
    return {
        f"{start} {count}": value
        for start, first in (("middle", middle(task.target)), ("anywhere", (y, x)))
        for count, value in zip(CLICKS, clicked(answer, task.target, first), strict=True)
    }


def boxed(target: np.ndarray) -> np.ndarray:
    box = np.zeros(target.shape, bool)
    box[box_of(target)] = True
    return box


def classical(task: Task) -> Iterator[tuple[str, dict[str, float]]]:
    for tolerance in TOLERANCES:
        yield f"region growing, {tolerance}", started(growing(task.image, tolerance), task)
    yield "random walker", started(walking(task.image), task)
    yield "ellipse in the box", {"box": dice(ellipse(task.target), task.target)}


def judged(datasets: Sequence[int], cases: int) -> list[Task]:
    """Return the tasks of datasets below nnUNet_raw."""
    raw = workspace_from_environment().raw
    folders = [folder for number in datasets for folder in sorted(raw.glob(f"Dataset{number:03d}_*"))]
    return [task for folder in folders for task in tasks(folder, cases)]


def table_of(scored: Iterable[tuple[Task, str, dict[str, float]]]) -> list[dict[str, object]]:
    """Return mean scores, a row for each dataset, structure and method."""
    rows: dict[tuple[str, str, str], list[dict[str, float]]] = {}
    for task, method, scores in scored:
        rows.setdefault((task.dataset, task.structure, method), []).append(scores)
    return [
        {"dataset": dataset, "structure": structure, "method": method, "n": len(scores)}
        | {key: round(float(np.mean([score[key] for score in scores])), 3) for key in scores[0]}
        for (dataset, structure, method), scores in rows.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=Path, default=shipped_seed(2), help="of samunet_pretrain")
    parser.add_argument("--cases", type=int, default=20)
    parser.add_argument("--sides", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument("--datasets", type=int, nargs="+", default=[4, 35, 45])
    parser.add_argument("--no_classical", action="store_true")
    parser.add_argument("--only_seed", action="store_true", help="its rows alone; the others stay as they are")
    parser.add_argument("--out", type=Path, default=RESULTS / "seed_prompts.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    seed = load_seed(arguments.seed)
    networks: dict[str, Engine | Network] = {"seed": Engine(arguments.seed)}
    kept = []
    if arguments.only_seed:
        kept = [row for row in read_json(arguments.out)["rows"] if row["method"] != "seed"]
    else:
        if len(arguments.sides) > 1:
            networks["seed, size by expected IoU"] = Network(seed, arguments.sides, trained=True)
            networks |= {f"seed, {side} pixels": Network(seed, [side], trained=True) for side in arguments.sides}
        networks["untrained"] = Network(seed, arguments.sides, trained=False)
    scored, began = [], time.monotonic()
    for task in judged(arguments.datasets, arguments.cases):
        scored += [(task, name, measure(task, network)) for name, network in networks.items()]
        if not (arguments.no_classical or arguments.only_seed):
            scored += [(task, name, scores) for name, scores in classical(task)]
    table = table_of(scored)
    order = list(dict.fromkeys(row["structure"] for row in table))
    for row in table:
        print(row)
    write_json(
        arguments.out,
        {
            "machine": {"cpu": processor_name()},
            "network": dict(seed.card),
            "cases": arguments.cases,
            "sides": arguments.sides,
            "seconds": round(time.monotonic() - began),
            "rows": sorted(table + kept, key=lambda row: (row["dataset"], order.index(row["structure"]))),
        },
    )


if __name__ == "__main__":
    main()
