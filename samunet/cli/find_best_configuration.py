"""Score trained models, and ensembles of two, on the validation cases of their folds; mark the best, which
samunet_predict then takes.

Next: the commands in inference_instructions.txt
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from samunet.cli.common import DEFAULT_FOLDS, DEFAULT_THREADS, Folds, Threads, command


@dataclass(frozen=True, kw_only=True)
class Options:
    dataset: Annotated[str, "dataset_name_or_id"]
    """Dataset id or name."""
    configurations: Annotated[tuple[str, ...] | None, "-c CONFIGURATION"] = None
    """Configurations to consider (default: all that are trained)."""
    plans: Annotated[tuple[str, ...] | None, "-p NAME"] = None
    """Plans to consider (default: all)."""
    trainers: Annotated[tuple[str, ...] | None, "-tr NAME"] = None
    """Trainers to consider (default: all of samunet's)."""
    folds: Folds = DEFAULT_FOLDS
    ensembling: Annotated[bool, "--disable_ensembling"] = True
    """Consider ensembles of two models."""
    threads: Threads = DEFAULT_THREADS


@command("samunet_find_best_configuration", __doc__, Options)
def main(options: Options) -> None:
    from samunet.comparison.selection import find_best
    from samunet.core.lock import held
    from samunet.core.results import trained_models
    from samunet.core.workspace import workspace_from_environment
    from samunet.errors import ConfigError

    workspace = workspace_from_environment()
    dataset = workspace.dataset_name(options.dataset)
    wanted = (options.trainers, options.plans, options.configurations)
    names = [folder.name for folder in trained_models(workspace) if folder.parent.name == dataset]
    models = [
        name
        for name in names
        if all(given is None or part in given for given, part in zip(wanted, name.split("__"), strict=True))
    ]
    if names and not models:
        raise ConfigError(f"No trained model of {dataset} fits these options. Trained: {', '.join(names)}.")
    with held(workspace.results / dataset, name="find_best"):
        choice = find_best(
            workspace, dataset, models, options.folds, ensembling=options.ensembling, threads=options.threads
        )
    width = max(len(candidate.name) for candidate in choice.candidates)
    for candidate in choice.candidates:
        print(f"{candidate.name:<{width}}  {candidate.dice:.4f}")
    print(f"\n{choice.instructions}Wrote {workspace.results / dataset / 'inference_instructions.txt'}")
