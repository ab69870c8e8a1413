"""Logs of other programs, each an optional package: TensorBoard, MLflow in a local folder, Weights and Biases."""

from __future__ import annotations

import importlib
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from samunet.errors import ConfigError

WANDB_ID = "wandb_id.txt"


class Sink(ABC):
    """Takes the values of an epoch.

    Args:
        folder: the fold's folder.
        name: of the run.
        settings: of the training, recorded with it.
    """

    module: ClassVar[str]
    """What it imports, and no other part of samunet does."""

    @abstractmethod
    def __init__(self, folder: Path, name: str, settings: Mapping[str, Any]) -> None: ...

    @abstractmethod
    def write(self, epoch: int, values: Mapping[str, float]) -> None:
        """Record values by name."""

    @abstractmethod
    def close(self) -> None:
        """Write what is still held."""


class TensorBoard(Sink):
    """Event files in <fold>/tensorboard."""

    module = "torch.utils.tensorboard"

    def __init__(self, folder: Path, name: str, settings: Mapping[str, Any]) -> None:
        self.writer = importlib.import_module(self.module).SummaryWriter(str(folder / "tensorboard"))

    def write(self, epoch: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, epoch)

    def close(self) -> None:
        self.writer.close()


class MLflow(Sink):
    """Runs in <fold>/mlruns; nothing leaves the machine."""

    module = "mlflow"

    def __init__(self, folder: Path, name: str, settings: Mapping[str, Any]) -> None:
        self.mlflow = importlib.import_module(self.module)
        self.mlflow.set_tracking_uri((folder / "mlruns").absolute().as_uri())
        self.mlflow.set_experiment("samunet")
        self.mlflow.start_run(run_name=name)
        self.mlflow.log_params(dict(settings))

    def write(self, epoch: int, values: Mapping[str, float]) -> None:
        self.mlflow.log_metrics({re.sub(r"[^\w\-./]", "_", key): value for key, value in values.items()}, step=epoch)

    def close(self) -> None:
        self.mlflow.end_run()


class WeightsAndBiases(Sink):
    """A run that continues under the same id when the training does; uses the network unless WANDB_MODE=offline."""

    module = "wandb"

    def __init__(self, folder: Path, name: str, settings: Mapping[str, Any]) -> None:
        wandb = importlib.import_module(self.module)
        identifier = folder / WANDB_ID
        earlier_id = identifier.read_text(encoding="utf-8").strip() if identifier.is_file() else None
        self.run = wandb.init(
            project="samunet", name=name, dir=str(folder), config=dict(settings), id=earlier_id, resume="allow"
        )
        identifier.write_text(f"{self.run.id}\n", encoding="utf-8")

    def write(self, epoch: int, values: Mapping[str, float]) -> None:
        self.run.log(dict(values), step=epoch)

    def close(self) -> None:
        self.run.finish()


SINKS: dict[str, type[Sink]] = {"tensorboard": TensorBoard, "mlflow": MLflow, "wandb": WeightsAndBiases}


def require_sinks(names: Sequence[str]) -> None:
    """Raise ConfigError when the package of a log is not installed."""
    for name in names:
        try:
            importlib.import_module(SINKS[name].module)
        except ImportError as error:
            raise ConfigError(
                f"--log {name} needs the package {name}, which is not installed ({error}): pip install {name}"
            ) from None


def open_sinks(names: Sequence[str], folder: Path, name: str, settings: Mapping[str, Any]) -> list[Sink]:
    """Open logs; see `Sink`. Raises ConfigError when one cannot be opened, for example for lack of a login."""
    sinks = []
    for kind in names:
        try:
            sinks.append(SINKS[kind](folder, name, settings))
        except Exception as error:  # other packages raise anything
            raise ConfigError(f"--log {kind} cannot be opened: {error}") from None
    return sinks
