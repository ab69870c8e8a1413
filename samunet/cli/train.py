"""samunet_train: train one fold of one configuration."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from samunet.cli.common import make_parser, run
from samunet.cli.fields import add_fields, from_arguments
from samunet.training.config import TrainingConfig

TRAINERS = ("SAMTrainer",)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = make_parser(
        "samunet_train",
        "Train one fold of one configuration of a planned and preprocessed dataset, then predict and score its validation cases.",
        "Example: samunet_train 4 3d_adapter 0\n"
        "A short look on a CPU: samunet_train 4 3d_adapter 0 --epochs 10 --iterations 50 --batch_size 2\n"
        "Next: samunet_predict -i IMAGES -o PREDICTIONS",
    )
    parser.add_argument("dataset_name_or_id", help="dataset id or name, e.g. 4 or Dataset004_Hippocampus")
    parser.add_argument("configuration", help="configuration of the plan, e.g. 3d_adapter or 2d_adapter")
    parser.add_argument("fold", help="fold of the cross-validation, 0 to 4, or all")
    parser.add_argument("-tr", default=TRAINERS[0], metavar="NAME", help="trainer (default: %(default)s)")
    parser.add_argument("-p", default="samunetPlans", metavar="NAME", help="plan (default: %(default)s)")
    parser.add_argument("--npz", action="store_true", help="also save the probabilities of the validation cases")
    parser.add_argument("--c", action="store_true", dest="resume", help="continue the training in the fold's folder")
    parser.add_argument("--val", action="store_true", help="only validate a finished training")
    parser.add_argument("--val_best", action="store_true", help="validate checkpoint_best instead of checkpoint_final, into validation_best")
    parser.add_argument("--skip_validation", action="store_true", help="do not score the validation cases at the end; --val does it later")
    parser.add_argument("--disable_checkpointing", action="store_true", help="write no checkpoints (and so no validation); for timing")
    parser.add_argument("-device", metavar="NAME", help="cuda, cuda:1, mps or cpu (default: the best one present)")
    add_fields(parser.add_argument_group("training settings"), TrainingConfig)
    return run(parser, _command, argv)


def _command(arguments: argparse.Namespace) -> None:
    from samunet import pipeline
    from samunet.core.workspace import workspace_from_environment
    from samunet.errors import ConfigError, did_you_mean
    from samunet.hardware import keep_freed_memory

    if arguments.tr not in TRAINERS:
        raise ConfigError(f"There is no trainer '{arguments.tr}'.{did_you_mean(arguments.tr, TRAINERS)}")
    keep_freed_memory()
    workspace = workspace_from_environment()
    _ = workspace.preprocessed, workspace.results, workspace.raw  # complain before work begins
    config = from_arguments(TrainingConfig, arguments)
    options = pipeline.TrainOptions(
        configuration=arguments.configuration,
        fold=arguments.fold,
        plans_name=arguments.p,
        device=arguments.device,
        resume=arguments.resume,
        only_validate=arguments.val,
        validate_best=arguments.val_best,
        save_checkpoints=not arguments.disable_checkpointing,
        validate=not arguments.skip_validation,
        save_probabilities=arguments.npz,
    )
    folder = pipeline.train(workspace, workspace.dataset_name(arguments.dataset_name_or_id), config, options)
    print(f"Done: {folder}")
