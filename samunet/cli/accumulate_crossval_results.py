"""Copy the validation predictions of a model's folds into one folder and score them together.

Next: open summary.json in the output folder.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from samunet.cli.common import DEFAULT_FOLDS, DEFAULT_THREADS, Dataset, Folds, Model, Threads, command
from samunet.core.units import counted


@dataclass(frozen=True, kw_only=True)
class Options(Model):
    dataset: Dataset
    configuration: Annotated[str, "-c CONFIGURATION"]
    """Configuration of the model."""
    folds: Folds = DEFAULT_FOLDS
    output: Annotated[Path | None, "-o FOLDER"] = None
    """Folder to write (default: crossval_results_folds_... in the model's)."""
    threads: Threads = DEFAULT_THREADS


@command("samunet_accumulate_crossval_results", __doc__, Options)
def main(options: Options) -> None:
    from samunet.comparison.selection import accumulate, crossval_folder
    from samunet.core.lock import held
    from samunet.core.parts import is_part
    from samunet.errors import ConfigError
    from samunet.evaluation.summary import SUMMARY

    workspace, dataset, model = options.find(options.dataset, options.configuration)
    target = options.output or crossval_folder(model, options.folds)
    if options.output is not None and target.is_dir() and not all(map(is_part, target.iterdir())):
        raise ConfigError(f"{target} holds files already; give a new folder with -o.")
    with held(target.parent, name=target.name):  # the folder itself is made again
        summary = accumulate(model, workspace.raw / dataset, options.folds, target, threads=options.threads)
    print(
        f"Mean foreground Dice {summary.foreground_mean.dice:.4f} on {counted(len(summary.cases), 'case')}. Wrote "
        f"{target / SUMMARY}"
    )
