"""A scripted annotator, over HTTP: clicks in the largest error, and how long a click takes.

    nnUNet_raw=... python benchmarks/annotator.py [--cases 5] [--datasets 4 35]

samunet_serve runs on one core with the seed that comes with samunet; images are sent, labels come back. Each structure
is annotated in three ways, from nothing, in axial planes, each click in the middle of the largest error:

carry on      1 click a round, in the plane with the most wrong voxels; then the object is carried on both ways
fill          5 planes from the first that shows it to the last, 1 click a round in each; then those between are filled
fill, boxes   the same with a tight box in place of each plane's first click

Seconds are processor time of the server, not a person's. Latency is that of clicks in a plane of 256 x 256 pixels
that is encoded, each in a draft of its own, by the clock; at a small object the model looks closer, and encodes its
surroundings at the first. Writes benchmarks/results/annotator.json.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from machine import processor_name
from scipy import ndimage

from samunet.core.codec import encode, read_json, write_json
from samunet.core.dataset import read_dataset_json, training_cases
from samunet.core.volume import Volume
from samunet.core.workspace import workspace_from_environment
from samunet.imageio import reader_for
from samunet.interaction.state import Block
from samunet.pipeline.simulated_prompts import middle_of

RESULTS = Path(__file__).parent / "results"
ROUNDS, PLANES = 5, 5
CLICKS = 50  # of which the latency is the median
LATENCY_SIDE = 256

Ask = Callable[..., dict[str, Any]]


class Annotation:
    """The labels of an open image, as a client keeps them."""

    def __init__(self, ask: Ask, name: str, volume: Volume) -> None:
        grid = volume.geometry
        self.ask, self.labels = ask, np.zeros(grid.shape, np.uint8)
        directions = [list(axis) for axis in grid.direction[::-1]]
        ask(
            "set_image",
            name=name,
            array=encode(Block.of(volume.array.mean(0))),
            spacing=grid.spacing[::-1],
            origin=grid.origin,
            direction=directions,
        )

    def do(self, verb: str, **body: Any) -> None:
        block = self.ask(verb, **body)["labels"]
        if block is not None:
            box = tuple(slice(*ends) for ends in block["box"])
            self.labels[box] = Block(box=block["box"], dtype=block["dtype"], data=block["data"]).array()

    def click(self, target: np.ndarray, index: int, value: int) -> None:
        """Click in the middle of the largest error of a plane, where there is one."""
        wrong = (self.labels[index] == value) != target[index]
        if wrong.any():
            _, y, x = middle_of(wrong[None])
            inside = bool(target[index, y, x])
            self.do("add_point_interaction", coordinates=[x, y, index], object=value, include_interaction=inside)

    def carry_on(self, target: np.ndarray, value: int) -> Iterator[None]:
        for _ in range(ROUNDS):
            index = int(((self.labels == value) != target).sum((1, 2)).argmax())
            self.click(target, index, value)
            if (self.labels[index] == value).any():
                for step in (1, -1):
                    self.do("propagate", index=index, step=step, object=value)
            yield

    def fill(self, target: np.ndarray, value: int, boxes: bool = False) -> Iterator[None]:
        there = np.flatnonzero(target.any((1, 2)))
        planes = np.unique(np.linspace(there[0], there[-1], PLANES).round().astype(int)).tolist()
        shown = np.zeros((ROUNDS, *target.shape), bool)
        for index in planes:  # all clicks of a plane, as a person would
            for number in range(ROUNDS):
                if number == 0 and boxes:
                    ends = [[side.start, side.stop] for side in ndimage.find_objects(target[index].view(np.uint8))[0]]
                    self.do("add_bbox_interaction", bbox=[*ends[::-1], [index, index + 1]], object=value)
                else:
                    self.click(target, index, value)
                shown[number, index] = self.labels[index] == value
        for mask in shown:
            self.do("add_initial_seg_interaction", initial_seg=encode(Block.of(mask)), object=value)
            if np.diff(np.flatnonzero(mask.any((1, 2)))).max(initial=1) > 1:
                self.do("interpolate", object=value)
            yield


WAYS: dict[str, Callable[[Annotation, np.ndarray, int], Iterator[None]]] = {
    "carry on": Annotation.carry_on,
    "fill": Annotation.fill,
    "fill, boxes": partial(Annotation.fill, boxes=True),
}


@contextmanager
def server(folder: Path) -> Iterator[tuple[Ask, Callable[[], float]]]:
    """Run samunet_serve on one core; gives what asks it, and what tells its processor time in seconds."""
    process = subprocess.Popen(
        [sys.executable, "-m", "samunet", "serve", "-o", folder],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: os.sched_setaffinity(0, {0}),
    )
    try:
        (address,) = re.findall(r"http\S+", next(iter(process.stdout or ())))

        def ask(verb: str, **body: Any) -> dict[str, Any]:
            data, headers = json.dumps(body).encode(), {"content-type": "application/json"}
            with urllib.request.urlopen(urllib.request.Request(address + verb, data, headers)) as answer:
                return json.load(answer)

        def spent() -> float:
            fields = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

        yield ask, spent
    finally:
        process.terminate()
        process.wait()


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


def annotated(ask: Ask, spent: Callable[[], float], folder: Path, count: int) -> Iterator[dict[str, Any]]:
    """Annotate cases of a dataset in all ways; yields a row a case and structure."""
    spec = read_dataset_json(folder / "dataset.json")
    cases = training_cases(folder, spec)
    reader = reader_for(spec.file_ending, spec.reader, cases[0].images[0])
    chosen = np.random.default_rng(0).choice(len(cases), min(count, len(cases)), replace=False)
    for case in [cases[index] for index in sorted(chosen)]:
        volume, label = reader.read_image(case.images), reader.read_label(case.label)[0]
        for (structure, values), way in itertools.product(spec.labels.foreground, WAYS):
            target = np.isin(label, values)
            if target.any():
                annotation = Annotation(ask, f"{case.identifier}_{structure}_{way}", volume)
                began, scores = spent(), []
                for _ in WAYS[way](annotation, target, 1):
                    scores.append(round(dice(annotation.labels == 1, target), 4))
                names = {"dataset": folder.name, "case": case.identifier, "structure": structure, "way": way}
                yield names | {"dice": scores, "seconds": round(spent() - began, 2)}


def latency(ask: Ask, spent: Callable[[], float]) -> dict[str, float]:
    """Return milliseconds of clicks in a plane, which is encoded at the first: at a large object, and at a small one
    that is looked at closer, for which its surroundings are encoded at the first.
    """
    rng = np.random.default_rng(0)
    array = rng.normal(size=(1, 1, LATENCY_SIDE, LATENCY_SIDE)).astype(np.float32)
    array[..., 80:160, 90:180] += 3
    array[..., 200:216, 30:46] += 3
    ask("set_image", name="latency", array=encode(Block.of(array[0])))

    def clicked(places: Sequence[Sequence[int]]) -> list[float]:
        seconds = []
        for x, y in places:
            began = time.perf_counter()
            ask("add_point_interaction", coordinates=[x, y, 0])
            seconds.append(1000 * (time.perf_counter() - began))
            ask("discard")
        return seconds

    first, used = clicked([[120, 120]])[0], spent()
    others = clicked(rng.integers(90, 160, (CLICKS, 2)).tolist())
    used = spent() - used
    closer, *again = clicked(rng.integers((34, 204), (42, 212), (1 + CLICKS, 2)).tolist())
    return {
        "median": round(statistics.median(others), 1),
        "slowest of twenty": round(sorted(others)[-len(others) // 20], 1),
        "with encoding": round(first, 1),
        "closer, first": round(closer, 1),
        "closer, median": round(statistics.median(again), 1),
        "processor of a click and its discarding": round(1000 * used / len(others), 1),
        "programs that wanted the processor": round(os.getloadavg()[0], 1),
    }


def summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return means over cases."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["dataset"], row["structure"], row["way"]), []).append(row)
    return [
        {"dataset": dataset, "structure": structure, "way": way, "n": len(group)}
        | {"dice": np.mean([row["dice"] for row in group], 0).round(3).tolist()}
        | {"seconds": round(statistics.mean(row["seconds"] for row in group), 1)}
        for (dataset, structure, way), group in groups.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=5)
    parser.add_argument("--datasets", type=int, nargs="*", default=[4, 35], help="none measures clicks alone")
    parser.add_argument("--out", type=Path, default=RESULTS / "annotator.json")
    arguments = parser.parse_args()
    raw = workspace_from_environment().raw
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder, server(Path(folder)) as (ask, spent):
        click = latency(ask, spent)
        for number in arguments.datasets:
            for row in annotated(ask, spent, next(raw.glob(f"Dataset{number:03d}_*")), arguments.cases):
                print(row, flush=True)
                rows.append(row)
    result = read_json(arguments.out) if arguments.out.is_file() else {}
    result |= {"machine": {"cpu": processor_name(), "cores": 1}, "click_ms": click}
    if rows:
        result |= {"cases": arguments.cases, "means": summary(rows), "rows": rows}
    print(click, *result.get("means", ()), sep="\n")
    write_json(arguments.out, result)


if __name__ == "__main__":
    main()
