"""samunet_compare: hold two or more sets of predictions against each other."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from samunet.cli.common import DEFAULT_FOLDS, DEFAULT_THREADS, DEFAULT_TOLERANCE_MM, TOLERANCE_HELP, make_parser, run

if TYPE_CHECKING:
    from samunet.comparison.compare import Comparison
    from samunet.comparison.head_to_head import Settings


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = make_parser(
        "samunet_compare",
        "Compare predictions of the same cases, case by case: prediction folders (--reference, --predictions, "
        "-djfile), or what samunet's and "
        "nnU-Net's models of a dataset predicted for their validation cases (-d).",
        "Next: open report.html in the output folder.",
    )
    parser.add_argument("--reference", type=Path, metavar="FOLDER", help="folder with reference segmentations")
    parser.add_argument(
        "--predictions", nargs="+", metavar="NAME=FOLDER", help="prediction folders, the baseline first"
    )
    parser.add_argument("-djfile", type=Path, metavar="FILE", help="dataset.json that names labels and file ending")
    parser.add_argument(
        "--images", type=Path, metavar="FOLDER", help="images <case>_0000<ending>, for pictures of the cases to look at"
    )
    parser.add_argument("-d", metavar="DATASET", help="dataset id or name: compare its trained models")
    parser.add_argument(
        "--models",
        nargs="+",
        metavar="NAME",
        help="with -d: model folders, the baseline first (default: all, nnU-Net's first)",
    )
    group = parser.add_argument_group("training nnU-Net, with -d")
    group.add_argument(
        "--run_nnunet",
        action="store_true",
        help="plan, preprocess and train with nnU-Net and with samunet what is not trained yet",
    )
    group.add_argument(
        "-c",
        nargs="+",
        default=["3d_adapter"],
        metavar="NAME",
        help="samunet's configurations, or PLANS__CONFIGURATION (default: 3d_adapter)",
    )
    group.add_argument(
        "-f", nargs="+", default=DEFAULT_FOLDS, metavar="FOLD", help="folds to train (default: 0 1 2 3 4)"
    )
    group.add_argument(
        "--match",
        default="none",
        metavar="WHAT",
        help="none: each tool's own length; epochs; or minutes (default: %(default)s)",
    )
    group.add_argument(
        "--minutes", type=float, default=0.0, metavar="N", help="with --match minutes: minutes of each training"
    )
    group.add_argument(
        "--epochs",
        type=int,
        metavar="N",
        help="with --match epochs: epochs of 250 steps of each training (default: samunet's)",
    )
    group.add_argument(
        "--num_train_cases",
        type=int,
        default=0,
        metavar="N",
        help="train both on the same N cases of each fold (default: all)",
    )
    group.add_argument(
        "--planner",
        default="ExperimentPlanner",
        metavar="NAME",
        help="nnU-Net's planner, e.g. nnUNetPlannerResEncL (default: %(default)s)",
    )
    group.add_argument(
        "--nnunet_configuration",
        metavar="NAME",
        help="nnU-Net's configuration (default: 3d_fullres, or 2d where there is none)",
    )
    group.add_argument(
        "--nnunet_trainer",
        nargs="+",
        default=["nnUNetTrainer"],
        metavar="NAME",
        help="nnU-Net's trainers (default: nnUNetTrainer)",
    )
    group.add_argument("-device", metavar="NAME", help="device to train on (default: the best one present)")
    parser.add_argument("-o", type=Path, required=True, metavar="FOLDER", help="folder for the report and its tables")
    parser.add_argument("--nsd_tolerance", type=float, default=DEFAULT_TOLERANCE_MM, metavar="MM", help=TOLERANCE_HELP)
    parser.add_argument(
        "-np", type=int, default=DEFAULT_THREADS, metavar="N", help="cases scored at a time (default: %(default)s)"
    )
    return run(parser, _compare, argv)


def parse_predictions(texts: Sequence[str]) -> dict[str, Path]:
    """Read NAME=FOLDER words; raises ConfigError for another form, or a name that comes twice."""
    from samunet.errors import ConfigError

    found: dict[str, Path] = {}
    for text in texts:
        name, equals, folder = text.partition("=")
        if not (name and equals and folder) or name in found:
            raise ConfigError(
                "--predictions takes NAME=FOLDER words with different names, e.g. nnunet=DIR_A adapter=DIR_B; got "
                f"'{text}'."
            )
        found[name] = Path(folder)
    return found


def _compare(arguments: argparse.Namespace) -> None:
    from samunet.core.lock import held
    from samunet.errors import ConfigError

    folders = (arguments.reference, arguments.predictions, arguments.djfile)
    if (arguments.d is None) == (not any(folders)) or (arguments.d is None and not all(folders)):
        raise ConfigError(
            "Give either -d DATASET, or --reference FOLDER --predictions NAME=FOLDER NAME=FOLDER -djfile FILE."
        )
    settings: dict[str, Any] = {"tolerance": arguments.nsd_tolerance, "threads": arguments.np}
    if arguments.run_nnunet and (arguments.d is None or arguments.models):
        raise ConfigError("--run_nnunet goes with -d DATASET and without --models.")
    of_training = {
        "--match": arguments.match != "none",
        "--minutes": arguments.minutes,
        "--num_train_cases": arguments.num_train_cases,
    }
    if not arguments.run_nnunet and any(of_training.values()):
        raise ConfigError(
            f"{next(name for name, given in of_training.items() if given)} goes with --run_nnunet; without it nothing "
            "is trained."
        )
    if arguments.epochs is not None and (arguments.match != "epochs" or not arguments.run_nnunet):
        raise ConfigError("--epochs goes with --run_nnunet --match epochs.")
    with held(arguments.o):
        comparison = _compared(arguments, settings)
    for verdict in comparison.verdicts():
        print(verdict)
    for name, origin in comparison.prompts.items():
        print(f"{name} was shown prompts ({origin}).")
    print(f"Wrote {arguments.o / 'report.html'}")


def _compared(arguments: argparse.Namespace, settings: dict[str, Any]) -> Comparison:
    from samunet.comparison.run import compare_folders, compare_trained
    from samunet.core.dataset import read_dataset_json
    from samunet.core.workspace import workspace_from_environment

    if arguments.run_nnunet:
        from samunet.comparison.head_to_head import (
            run_against_nnunet,  # loads torch, which comparing alone does not need
        )

        workspace = workspace_from_environment()
        return run_against_nnunet(
            workspace, workspace.dataset_name(arguments.d), _settings(arguments), arguments.o, **settings
        )
    if arguments.d is not None:
        workspace = workspace_from_environment()
        return compare_trained(
            workspace, workspace.dataset_name(arguments.d), arguments.models or (), arguments.o, **settings
        )
    spec = read_dataset_json(arguments.djfile)
    predictions = parse_predictions(arguments.predictions)
    return compare_folders(arguments.reference, predictions, spec, arguments.o, images=arguments.images, **settings)


def _settings(arguments: argparse.Namespace) -> Settings:
    from samunet.comparison.head_to_head import Settings
    from samunet.comparison.nnunet import NNUNet
    from samunet.training.config import TrainingConfig

    return Settings(
        configurations=tuple(arguments.c),
        folds=tuple(arguments.f),
        match=arguments.match,
        minutes=arguments.minutes,
        epochs=TrainingConfig().epochs if arguments.epochs is None else arguments.epochs,
        train_cases=arguments.num_train_cases,
        nnunet=NNUNet(
            planner=arguments.planner,
            trainers=tuple(arguments.nnunet_trainer),
            configuration=arguments.nnunet_configuration,
        ),
        device=arguments.device,
    )
