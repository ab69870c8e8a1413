"""Are the cases that samunet_choose_cases names better references than cases drawn at random?

    nnUNet_raw=... python benchmarks/first_cases.py 4 35 [--count 5] [--draws 20] [--pool 40] [--targets 12] [--side 48]

Of a pool of cases, some are chosen by what the shipped seed sees in them, and as many are drawn at random, again and
again. Each set labels the same other cases by registration, as `samunet_fewshot --method registration` does. Writes
benchmarks/results/first_cases.json, where the rows of other datasets stay.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from fewshot import RESULT as FEWSHOT
from fewshot import dice_of, drawn_examples
from machine import processor_name

from samunet.core.codec import read_json, write_json
from samunet.core.workspace import workspace_from_environment
from samunet.fewshot.choose import medoids, summary_of
from samunet.fewshot.examples import References
from samunet.fewshot.methods import REGISTRATION, FewShot
from samunet.fewshot.models import PlaneModel, model_named
from samunet.fewshot.registration import Registration

RESULT = FEWSHOT.with_name("first_cases.json")


def measure(folder: Path, model: PlaneModel, asked: argparse.Namespace) -> dict[str, Any]:
    """Return a dataset's row: the mean Dice that the chosen cases and each draw reach as references."""
    spec, cases, examples = drawn_examples(folder, asked.pool + asked.targets)
    pool, targets = examples[: -asked.targets], examples[-asked.targets :]
    references = References(spec=spec, cases=tuple(cases[: len(pool)]), examples=tuple(pool))
    few = FewShot(references=references, model=model, registration=Registration(side=asked.side))

    def reached(indices: list[int]) -> float:
        shown = [pool[index] for index in sorted(indices)]
        return float(np.nanmean([list(dice_of(few, REGISTRATION, target, shown).values()) for target in targets]))

    chosen = medoids([summary_of(model, one.volume, references.axis) for one in pool], asked.count)
    random, draws = np.random.default_rng(0), []
    for _ in range(asked.draws):
        draws.append(reached(random.choice(len(pool), asked.count, replace=False).tolist()))
        print(f"{folder.name}: draw {len(draws)}: {draws[-1]:.3f}", flush=True)
    settings = {"count": asked.count, "pool": len(pool), "targets": len(targets), "side": asked.side}
    return {"dataset": folder.name, **settings, "chosen": reached(chosen), "draws": draws}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", nargs="+")
    for name, number in {"count": 5, "draws": 20, "pool": 40, "targets": 12, "side": 48}.items():
        parser.add_argument(f"--{name}", type=int, default=number)
    asked = parser.parse_args()
    workspace, model = workspace_from_environment(), model_named("seed", device="cpu")
    for dataset in asked.datasets:
        row = measure(workspace.raw / workspace.dataset_name(dataset), model, asked)
        print(row)
        known = read_json(RESULT)["rows"] if RESULT.is_file() else []
        rows = sorted(
            [*(one for one in known if one["dataset"] != row["dataset"]), row], key=lambda one: one["dataset"]
        )
        write_json(RESULT, {"processor": processor_name(), "rows": rows})


if __name__ == "__main__":
    main()
