"""Compare predictions of the same cases, case by case: prediction folders (--reference, --predictions, -djfile), or
what samunet's and nnU-Net's models of a dataset predicted for their validation cases (-d).

Next: open report.html in the output folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from samunet.cli.common import DEFAULT_FOLDS, DEFAULT_THREADS, Device, Folds, Threads, Tolerance, command
from samunet.core.names import DEFAULT_TOLERANCE_MM

if TYPE_CHECKING:
    from samunet.comparison.compare import Comparison
    from samunet.comparison.head_to_head import Settings

DEFAULT_CONFIGURATIONS = ("3d_adapter",)
OF_TRAINING = {
    "--match": "match",
    "--minutes": "minutes",
    "--num_train_cases": "train_cases",
    "--planner": "planner",
    "--nnunet_configuration": "nnunet_configuration",
    "--nnunet_trainer": "nnunet_trainers",
    "-device": "device",
}
"""Flags that say how is trained, and their fields of Training."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """Training nnU-Net, with -d."""

    wanted: Annotated[bool, "--run_nnunet"] = False
    """Plan, preprocess and train with nnU-Net and with samunet what is not trained yet."""
    configurations: Annotated[tuple[str, ...], "-c NAME"] = ()
    """samunet's configurations, or PLANS__CONFIGURATION (default: 3d_adapter); without --run_nnunet, those whose models
    are compared (default: all)."""
    folds: Folds = ()
    """Folds to train (default: 0 1 2 3 4); without --run_nnunet, to compare (default: all)."""
    match: Annotated[str, "--match WHAT"] = "none"
    """none: each tool's own length; epochs; or minutes."""
    minutes: Annotated[float, "--minutes N"] = 0.0
    """With --match minutes: minutes of each training."""
    epochs: Annotated[int | None, "--epochs N"] = None
    """With --match epochs: epochs of 250 steps of each training (default: samunet's)."""
    train_cases: Annotated[int, "--num_train_cases N"] = 0
    """Train both on the same N cases of each fold; 0 for all."""
    planner: Annotated[str, "--planner NAME"] = "ExperimentPlanner"
    """nnU-Net's planner, e.g. nnUNetPlannerResEncL."""
    nnunet_configuration: Annotated[str | None, "--nnunet_configuration NAME"] = None
    """nnU-Net's configuration (default: 3d_fullres, or 2d where there is none)."""
    nnunet_trainers: Annotated[tuple[str, ...], "--nnunet_trainer NAME"] = ("nnUNetTrainer",)
    """nnU-Net's trainers."""
    device: Device = None
    """Device to train on (default: the best one present)."""

    def settings(self) -> Settings:
        """Return who is trained, on what and for how long."""
        from samunet.comparison.head_to_head import Settings
        from samunet.comparison.nnunet import NNUNet
        from samunet.training.config import TrainingConfig

        return Settings(
            configurations=self.configurations or DEFAULT_CONFIGURATIONS,
            folds=self.folds or DEFAULT_FOLDS,
            match=self.match,
            minutes=self.minutes,
            epochs=TrainingConfig().epochs if self.epochs is None else self.epochs,
            train_cases=self.train_cases,
            nnunet=NNUNet(planner=self.planner, trainers=self.nnunet_trainers, configuration=self.nnunet_configuration),
            device=self.device,
        )


@dataclass(frozen=True, kw_only=True)
class Options:
    reference: Annotated[Path | None, "--reference FOLDER"] = None
    """Folder with reference segmentations."""
    predictions: Annotated[tuple[str, ...], "--predictions NAME=FOLDER"] = ()
    """Prediction folders, the baseline first."""
    dataset_json: Annotated[Path | None, "-djfile FILE"] = None
    """dataset.json that names labels and file ending."""
    images: Annotated[Path | None, "--images FOLDER"] = None
    """Images <case>_0000<ending>, for pictures of the cases to look at."""
    dataset: Annotated[str | None, "-d DATASET"] = None
    """Dataset id or name: compare its trained models."""
    models: Annotated[tuple[str, ...], "--models NAME"] = ()
    """With -d: model folders, the baseline first (default: all, nnU-Net's first)."""
    output: Annotated[Path, "-o FOLDER"]
    """Folder for the report and its tables."""
    tolerance: Tolerance = DEFAULT_TOLERANCE_MM
    threads: Threads = DEFAULT_THREADS
    training: Training


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


@command("samunet_compare", __doc__, Options)
def main(options: Options) -> None:
    from samunet.core.lock import held
    from samunet.errors import ConfigError

    folders = (options.reference, options.predictions, options.dataset_json)
    if (options.dataset is None) == (not any(folders)) or (options.dataset is None and not all(folders)):
        raise ConfigError(
            "Give either -d DATASET, or --reference FOLDER --predictions NAME=FOLDER NAME=FOLDER -djfile FILE."
        )
    _refuse_unused(options)
    with held(options.output):
        comparison = _compared(options)
    for verdict in comparison.verdicts():
        print(verdict)
    for name, origin in comparison.prompts.items():
        print(f"{name} was shown prompts ({origin}).")
    print(f"Wrote {options.output / 'report.html'}")


def _refuse_unused(options: Options) -> None:
    """Raise ConfigError for a flag that would change nothing."""
    from samunet.errors import ConfigError

    training, default = options.training, Training()
    if training.wanted and (options.dataset is None or options.models):
        raise ConfigError("--run_nnunet goes with -d DATASET and without --models.")
    of_models = {"--models": options.models, "-c": training.configurations, "-f": training.folds}
    if options.dataset is None and (given := [flag for flag, words in of_models.items() if words]):
        raise ConfigError(f"{given[0]} goes with -d DATASET, of whose models it chooses some.")
    if options.dataset is not None and options.images is not None:
        raise ConfigError("--images goes with --predictions; with -d the images are the dataset's own.")
    if options.models and training.configurations:
        raise ConfigError("--models and -c both choose models; give one of them.")
    given = [flag for flag, name in OF_TRAINING.items() if getattr(training, name) != getattr(default, name)]
    if not training.wanted and given:
        raise ConfigError(f"{given[0]} goes with --run_nnunet; without it nothing is trained.")
    if training.epochs is not None and (training.match != "epochs" or not training.wanted):
        raise ConfigError("--epochs goes with --run_nnunet --match epochs.")


def _compared(options: Options) -> Comparison:
    from samunet.comparison.from_folders import compare_folders, compare_trained
    from samunet.core.dataset import read_dataset_json
    from samunet.core.workspace import workspace_from_environment

    how: dict[str, Any] = {"tolerance": options.tolerance, "threads": options.threads}
    if options.reference is not None and options.dataset_json is not None:
        spec, predictions = read_dataset_json(options.dataset_json), parse_predictions(options.predictions)
        return compare_folders(options.reference, predictions, spec, options.output, images=options.images, **how)
    workspace = workspace_from_environment()
    dataset = workspace.dataset_name(str(options.dataset))
    if not options.training.wanted:
        chosen: dict[str, Any] = {"folds": options.training.folds, "configurations": options.training.configurations}
        return compare_trained(workspace, dataset, options.models, options.output, **chosen, **how)
    from samunet.comparison.head_to_head import run_against_nnunet  # loads torch, which comparing alone does not need

    return run_against_nnunet(workspace, dataset, options.training.settings(), options.output, **how)
