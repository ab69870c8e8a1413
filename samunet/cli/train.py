"""Train one fold of one configuration of a planned and preprocessed dataset, then predict and score its validation
cases.

Example: samunet_train 4 3d_adapter 0
A short look on a CPU: samunet_train 4 3d_adapter 0 --epochs 10 --iterations 50 --batch_size 2
Ctrl-C, SIGTERM or a file named stop in the fold's folder end it after the step, with everything saved; --c goes on.
Next: samunet_predict -i IMAGES -o PREDICTIONS
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

from samunet.cli.common import command, images_to_predict, print_next
from samunet.cli.fields import parse_assignment
from samunet.core.names import DEFAULT_PLANS_NAME, DEFAULT_TRAINER
from samunet.pipeline.options import TrainOptions
from samunet.training.config import PRESETS, Preset, RunConfig, TrainingConfig

TRAINERS = (DEFAULT_TRAINER,)
STOPPED = "Stopped, nothing is lost. The same command with --c, and without --extend, goes on."


@dataclass(frozen=True, kw_only=True)
class Options:
    dataset: Annotated[str, "dataset_name_or_id"]
    """Dataset id or name, e.g. 4 or Dataset004_Hippocampus."""
    training: TrainOptions
    trainer: Annotated[str, "-tr NAME"] = DEFAULT_TRAINER
    """Trainer."""
    gpus: Annotated[int, "-num_gpus N"] = 1
    """Processes that share each batch, one per GPU."""
    add_new_cases: bool = False
    """First put cases that splits_final.json does not know into its folds."""
    seeds: Annotated[int, "--seeds N"] = 1
    """Train N times with seeds that count up; writes mean and spread of Dice."""
    slurm: bool = False
    """Train nothing; print a SLURM script that trains this and goes on after each time limit."""
    preset: Preset | None = None
    """Settings of a publication; options beside it override them."""
    assigned: Annotated[tuple[str, ...], "--set KEY=VALUE ..."] = ()
    """Any of the settings below, as KEY=VALUE."""
    settings: Annotated[dict[str, Any], TrainingConfig]
    run: Annotated[dict[str, Any], RunConfig]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    typed = list(sys.argv[1:] if argv is None else argv)
    return command("samunet_train", __doc__, Options)(lambda options: _command(options, typed))(typed)


def _command(options: Options, typed: list[str]) -> int | None:
    from samunet.errors import ConfigError, did_you_mean

    training = options.training
    if options.trainer not in TRAINERS:
        raise ConfigError(f"There is no trainer '{options.trainer}'.{did_you_mean(options.trainer, TRAINERS)}")
    if training.extend < 0 or (training.extend and not training.resume):
        raise ConfigError("--extend takes a number of epochs above 0 and goes with --c.")
    if training.overwrite and (training.resume or training.only_validate):
        raise ConfigError(
            "--overwrite trains from the beginning; leave out --c, which goes on, and --val, which trains nothing."
        )
    if options.slurm:
        if training.overwrite:
            raise ConfigError(
                "--overwrite would train again at every start of the job; move the trained fold away, and print the "
                "script without it."
            )
        if training.extend:
            raise ConfigError(
                "--extend would add epochs at every start of the job; extend once, and print the script without it."
            )
        from samunet.cli.slurm import script

        print(script(options, [word for word in typed if word != "--slurm"]))
        return None
    if options.add_new_cases and "WORLD_SIZE" not in os.environ:
        _add_new_cases(options.dataset)
    if options.gpus > 1 and "WORLD_SIZE" not in os.environ and not training.only_validate:
        return _with_torchrun(options.gpus, typed)
    _train(options, typed)
    return None


def _add_new_cases(wanted: str) -> None:
    from samunet import pipeline
    from samunet.core.workspace import workspace_from_environment

    workspace = workspace_from_environment()
    dataset = pipeline.open_dataset(workspace, wanted)
    pipeline.keep_up_splits(workspace, dataset.spec, [case.identifier for case in dataset.cases], add=True)


def _train(asked: Options, typed: list[str]) -> None:
    from samunet import pipeline
    from samunet.core.process import stop_with_parent
    from samunet.core.workspace import workspace_from_environment
    from samunet.errors import ConfigError
    from samunet.machine.hardware import keep_freed_memory

    rank, count = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if count > 1:
        stop_with_parent()  # which is torchrun's; killed, it takes nobody with it
    if rank:
        logging.getLogger("samunet").setLevel(logging.WARNING)
    keep_freed_memory()
    workspace = workspace_from_environment()
    _ = workspace.preprocessed, workspace.results, workspace.raw  # complain before work begins
    training = asked.training
    run_given = dict(asked.run)
    settings = {**(PRESETS[asked.preset] if asked.preset else {}), **asked.settings}
    for assignment in asked.assigned:
        name, value = parse_assignment(assignment, TrainingConfig, RunConfig)
        (settings if name in TrainingConfig.__dataclass_fields__ else run_given)[name] = value
    device = training.device
    if count > 1 and device in (None, "cuda"):
        device = _device_of_process(int(os.environ.get("LOCAL_RANK", "0")), device)
    options = replace(
        training,
        device=device,
        run=RunConfig(**run_given),
        rank=rank,
        processes=count,
        command=("samunet_train", *typed),
    )
    dataset = workspace.dataset_name(asked.dataset)
    if asked.seeds > 1:
        if count > 1 or training.only_validate or not training.save_checkpoints or not training.validate:
            raise ConfigError(
                "--seeds trains and validates in one process: not with --val, --skip_validation, "
                "--disable_checkpointing or -num_gpus."
            )
        report = pipeline.train_seeds(workspace, dataset, settings, options, asked.seeds)
        print(f"Done: {report}" if report else STOPPED)
        return
    folder = pipeline.train(workspace, dataset, settings, options)
    if rank == 0:
        finished = training.only_validate or not training.save_checkpoints or pipeline.is_finished(folder)
        print(f"Done: {folder}" if finished else STOPPED)
        if finished:
            plan = () if training.plans_name == DEFAULT_PLANS_NAME else ("-p", training.plans_name)
            model = ("-d", asked.dataset, "-c", training.configuration, *plan)
            images = images_to_predict(workspace, dataset)
            print_next("samunet_predict", *model, "-i", images, "-o", "PREDICTIONS")


def _device_of_process(local_rank: int, wanted: str | None) -> str:
    import torch

    return f"cuda:{local_rank}" if wanted == "cuda" or torch.cuda.is_available() else "cpu"


def _with_torchrun(count: int, typed: list[str]) -> int:
    """Start this command once per GPU; torchrun gives each its rank, passes signals on and ends all when one fails."""
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    try:
        torchrun.main(["--standalone", "--nproc_per_node", str(count), "-m", "samunet.cli.train", *typed])
    except SignalException:  # the processes have stopped after their step and saved
        return 0
    except ChildFailedError as error:
        return max(1, error.get_first_failure()[1].exitcode)
    return 0


if __name__ == "__main__":
    sys.exit(main())
