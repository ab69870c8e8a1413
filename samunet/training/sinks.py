"""Logs of other programs, each an optional package: TensorBoard, MLflow in a local folder, Weights and Biases."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from samunet.errors import ConfigError


class Sink(ABC):
    """Takes the values of an epoch."""

    @abstractmethod
    def write(self, epoch: int, values: Mapping[str, float]) -> None:
        """Record values by name."""

    @abstractmethod
    def close(self) -> None:
        """Write what is still held."""


class TensorBoard(Sink):
    """Event files in <fold>/tensorboard."""

    def __init__(self, folder: Path, name: str, settings: Mapping[str, Any]) -> None:
        self.writer = _package("torch.utils.tensorboard", "tensorboard").SummaryWriter(str(folder / "tensorboard"))

    def write(self, epoch: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, epoch)

    def close(self) -> None:
        self.writer.close()


class MLflow(Sink):
    """Runs in <fold>/mlruns; nothing leaves the machine."""

    def __init__(self, folder: Path, name: str, settings: Mapping[str, Any]) -> None:
        self.mlflow = _package("mlflow", "mlflow")
        self.mlflow.set_tracking_uri((folder / "mlruns").absolute().as_uri())
        self.mlflow.set_experiment("samunet")
        self.mlflow.start_run(run_name=name)
        self.mlflow.log_params(dict(settings))

    def write(self, epoch: int, values: Mapping[str, float]) -> None:
        self.mlflow.log_metrics({key.replace(" ", "_"): value for key, value in values.items()}, step=epoch)

    def close(self) -> None:
        self.mlflow.end_run()


class WeightsAndBiases(Sink):
    """A run that continues under the same id when the training does; uses the network unless WANDB_MODE=offline."""

    def __init__(self, folder: Path, name: str, settings: Mapping[str, Any]) -> None:
        wandb = _package("wandb", "wandb")
        identifier = folder / "wandb_id.txt"
        known = identifier.read_text(encoding="utf-8").strip() if identifier.is_file() else None
        self.run = wandb.init(project="samunet", name=name, dir=str(folder), config=dict(settings), id=known, resume="allow")
        identifier.write_text(f"{self.run.id}\n", encoding="utf-8")

    def write(self, epoch: int, values: Mapping[str, float]) -> None:
        self.run.log(dict(values), step=epoch)

    def close(self) -> None:
        self.run.finish()


SINKS: dict[str, type[Sink]] = {"tensorboard": TensorBoard, "mlflow": MLflow, "wandb": WeightsAndBiases}


def open_sinks(names: tuple[str, ...], folder: Path, name: str, settings: Mapping[str, Any]) -> tuple[Sink, ...]:
    """Open logs by name.

    Args:
        folder: the fold's folder.
        name: of the run.
        settings: of the training, recorded with it.

    Raises:
        ConfigError: the package of a log is not installed.
    """
    return tuple(SINKS[kind](folder, name, settings) for kind in names)  # type: ignore[call-arg]


def _package(module: str, package: str) -> ModuleType:
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(f"--log {package} needs the package {package}, which is not installed ({error}): pip install {package}") from None
