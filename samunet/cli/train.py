"""samunet_train: train one fold of one configuration."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from samunet.cli.common import make_parser, run
from samunet.cli.fields import add_fields, given_fields, parse_assignment
from samunet.core.names import DEFAULT_PLANS_NAME, DEFAULT_TRAINER
from samunet.training.config import PRESETS, RunConfig, TrainingConfig

TRAINERS = (DEFAULT_TRAINER,)
STOPPED = "Stopped, nothing is lost. The same command with --c, and without --extend, goes on."


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    typed = list(sys.argv[1:] if argv is None else argv)
    parser = make_parser(
        "samunet_train",
        (
            "Train one fold of one configuration of a planned and preprocessed dataset, then predict and score its "
            "validation cases."
        ),
        "Example: samunet_train 4 3d_adapter 0\n"
        "A short look on a CPU: samunet_train 4 3d_adapter 0 --epochs 10 --iterations 50 --batch_size 2\n"
        "Ctrl-C, SIGTERM or a file named stop in the fold's folder end it after the step, with everything saved; --c "
        "goes on.\n"
        "Next: samunet_predict -i IMAGES -o PREDICTIONS",
    )
    parser.add_argument("dataset_name_or_id", help="dataset id or name, e.g. 4 or Dataset004_Hippocampus")
    parser.add_argument("configuration", help="configuration of the plan, e.g. 3d_adapter or 2d_adapter")
    parser.add_argument("fold", help="fold of the cross-validation, 0 to 4, or all")
    parser.add_argument("-tr", default=TRAINERS[0], metavar="NAME", help="trainer (default: %(default)s)")
    parser.add_argument("-p", default=DEFAULT_PLANS_NAME, metavar="NAME", help="plan (default: %(default)s)")
    parser.add_argument(
        "-pretrained_weights",
        type=Path,
        metavar="FILE",
        help="start from the weights of another training, as far as they fit",
    )
    parser.add_argument(
        "-num_gpus",
        type=int,
        default=1,
        metavar="N",
        help="processes that share each batch, one per GPU (default: %(default)s)",
    )
    parser.add_argument("--npz", action="store_true", help="also save the probabilities of the validation cases")
    parser.add_argument(
        "--c", action="store_true", dest="resume", help="continue the training in the fold's folder, with its settings"
    )
    parser.add_argument(
        "--extend", type=int, default=0, metavar="EPOCHS", help="with --c: train this many epochs more than planned"
    )
    parser.add_argument(
        "--add_new_cases",
        action="store_true",
        help="first put cases that splits_final.json does not know into its folds",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="train a finished fold again; its model stays until the new one is there",
    )
    parser.add_argument(
        "--seeds",
        type=int,
        default=1,
        metavar="N",
        help="train N times with seeds that count up; writes mean and spread of Dice",
    )
    parser.add_argument("--val", action="store_true", help="only validate a finished training")
    parser.add_argument(
        "--val_best",
        action="store_true",
        help="validate checkpoint_best instead of checkpoint_final, into validation_best",
    )
    parser.add_argument(
        "--skip_validation",
        action="store_true",
        help="do not score the validation cases at the end; --val does it later",
    )
    parser.add_argument(
        "--disable_checkpointing", action="store_true", help="write no checkpoints (and so no validation); for timing"
    )
    parser.add_argument(
        "--slurm",
        action="store_true",
        help="train nothing; print a SLURM script that trains this and goes on after each time limit",
    )
    parser.add_argument("-device", metavar="NAME", help="cuda, cuda:1, mps or cpu (default: the best one present)")
    parser.add_argument(
        "--preset", choices=sorted(PRESETS), help="settings of a publication; options beside it override them"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="assigned",
        help="any of the settings below, as KEY=VALUE",
    )
    add_fields(parser.add_argument_group("training settings"), TrainingConfig)
    add_fields(parser.add_argument_group("the run"), RunConfig)
    return run(parser, lambda arguments: _command(arguments, typed), argv)


def _command(arguments: argparse.Namespace, typed: list[str]) -> int | None:
    from samunet.errors import ConfigError, did_you_mean

    if arguments.tr not in TRAINERS:
        raise ConfigError(f"There is no trainer '{arguments.tr}'.{did_you_mean(arguments.tr, TRAINERS)}")
    if arguments.extend < 0 or (arguments.extend and not arguments.resume):
        raise ConfigError("--extend takes a number of epochs above 0 and goes with --c.")
    if arguments.overwrite and (arguments.resume or arguments.val):
        raise ConfigError(
            "--overwrite trains from the beginning; leave out --c, which goes on, and --val, which trains nothing."
        )
    if arguments.slurm:
        if arguments.overwrite:
            raise ConfigError(
                "--overwrite would train again at every start of the job; move the trained fold away, and print the "
                "script without it."
            )
        if arguments.extend:
            raise ConfigError(
                "--extend would add epochs at every start of the job; extend once, and print the script without it."
            )
        from samunet.cli.slurm import script

        print(script(arguments, [word for word in typed if word != "--slurm"]))
        return None
    if arguments.add_new_cases and "WORLD_SIZE" not in os.environ:
        _add_new_cases(arguments.dataset_name_or_id)
    if arguments.num_gpus > 1 and "WORLD_SIZE" not in os.environ and not arguments.val:
        return _with_torchrun(arguments.num_gpus, typed)
    _train(arguments, typed)
    return None


def _add_new_cases(wanted: str) -> None:
    from samunet import pipeline
    from samunet.core.workspace import workspace_from_environment

    workspace = workspace_from_environment()
    dataset = pipeline.open_dataset(workspace, wanted)
    pipeline.keep_up_splits(workspace, dataset.spec, [case.identifier for case in dataset.cases], add=True)


def _train(arguments: argparse.Namespace, typed: list[str]) -> None:
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
    run_given = given_fields(RunConfig, arguments)
    settings: dict[str, Any] = {**PRESETS.get(arguments.preset, {}), **given_fields(TrainingConfig, arguments)}
    for assignment in arguments.assigned:
        name, value = parse_assignment(assignment, TrainingConfig, RunConfig)
        (settings if name in TrainingConfig.__dataclass_fields__ else run_given)[name] = value
    device = arguments.device
    if count > 1 and device in (None, "cuda"):
        device = _device_of_process(int(os.environ.get("LOCAL_RANK", "0")), device)
    options = pipeline.TrainOptions(
        configuration=arguments.configuration,
        fold=arguments.fold,
        plans_name=arguments.p,
        device=device,
        resume=arguments.resume,
        extend=arguments.extend,
        overwrite=arguments.overwrite,
        pretrained=arguments.pretrained_weights,
        only_validate=arguments.val,
        validate_best=arguments.val_best,
        save_checkpoints=not arguments.disable_checkpointing,
        validate=not arguments.skip_validation,
        save_probabilities=arguments.npz,
        run=RunConfig(**run_given),
        rank=rank,
        processes=count,
        command=("samunet_train", *typed),
    )
    dataset = workspace.dataset_name(arguments.dataset_name_or_id)
    if arguments.seeds > 1:
        if count > 1 or arguments.val or arguments.disable_checkpointing or arguments.skip_validation:
            raise ConfigError(
                "--seeds trains and validates in one process: not with --val, --skip_validation, "
                "--disable_checkpointing or -num_gpus."
            )
        report = pipeline.train_seeds(workspace, dataset, settings, options, arguments.seeds)
        print(f"Done: {report}" if report else STOPPED)
        return
    folder = pipeline.train(workspace, dataset, settings, options)
    if rank == 0:
        finished = arguments.disable_checkpointing or pipeline.is_finished(folder)
        print(f"Done: {folder}" if finished else STOPPED)


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
