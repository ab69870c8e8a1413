"""A trained model that turns volumes into segmentations; no files, no environment variables."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from samunet.checkpoint import load_checkpoint, load_trainable_state
from samunet.core.dataset import DatasetSpec, read_dataset_json
from samunet.core.geometry import Geometry
from samunet.core.plan import Configuration, Plan, load_plan
from samunet.core.preprocessed import PreprocessedCase
from samunet.core.volume import Volume
from samunet.errors import CheckpointError, ConfigError, PredictionError, ShapeError
from samunet.hardware import autocast, choose_device, choose_precision
from samunet.imageio import reader_for
from samunet.imageio.objects import ImageLike, as_volume
from samunet.inference.sliding_window import sliding_window
from samunet.models.segmenter import SlabSegmenter
from samunet.network import build_network, check_frozen_weights
from samunet.ops.crop import crop
from samunet.ops.tiling import pad_to
from samunet.preprocessing.backward import probabilities_from_logits, segmentation_from_logits
from samunet.preprocessing.forward import preprocess
from samunet.progress import bar

logger = logging.getLogger(__name__)

DEFAULT_CHECKPOINT = "checkpoint_final"


@dataclass(frozen=True, kw_only=True)
class PredictionOptions:
    """How the sliding window runs."""

    step_size: float = 0.5
    """Distance between tiles as a share of the tile."""
    flips: bool = True
    """Average over the plan's mirror axes."""
    tile_batch: int = 1
    """Tiles in one forward pass."""
    quiet: bool = False
    """No progress bars."""

    def __post_init__(self) -> None:
        if not 0 < self.step_size <= 1:
            raise ConfigError(f"The step size must be above 0 and at most 1; got {self.step_size}. nnU-Net's default is 0.5.")


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a predictor returns, on the grid of the image."""

    segmentation: np.ndarray
    """(D, H, W) label values, uint8 or uint16."""
    geometry: Geometry
    probabilities: np.ndarray | None = None
    """(K, D, H, W) float32, when asked for."""


@dataclass(frozen=True, kw_only=True)
class Predictor:
    """One configuration's networks, one a fold, whose logits are averaged."""

    plan: Plan
    configuration: Configuration
    dataset: DatasetSpec
    folds: tuple[str, ...]
    networks: tuple[SlabSegmenter, ...]
    """One a fold."""
    device: torch.device
    options: PredictionOptions = field(default_factory=PredictionOptions)

    @classmethod
    def from_folder(
        cls,
        folder: Path | str,
        *,
        folds: Sequence[str] | None = None,
        checkpoint: str = DEFAULT_CHECKPOINT,
        device: str | None = None,
        options: PredictionOptions | None = None,
        weights_folders: Sequence[Path] = (),
    ) -> Predictor:
        """Load a model folder `<Trainer>__<plans>__<configuration>`.

        Args:
            folds: fold names such as ("0", "1"); None takes every fold that has the checkpoint.
            checkpoint: file name, with or without its ending.
            device: cuda, mps or cpu; None takes the best one present.
            weights_folders: where the frozen weights are looked for when they are not at the plan's path.

        Raises:
            CheckpointError: the folder holds no such model, or a fold is not trained.
        """
        folder = Path(folder)
        if not (folder / "plans.json").is_file():
            raise CheckpointError(f"Folder {folder} is not a trained model; it has no plans.json. Give a <Trainer>__<plans>__<configuration> folder.")
        plan = load_plan(folder / "plans.json")
        dataset = read_dataset_json(folder / "dataset.json")
        file_name = checkpoint.removesuffix(".safetensors") + ".safetensors"
        chosen = tuple(folds) if folds is not None else finished_folds(folder, file_name)
        if not chosen:
            raise CheckpointError(f"Model {folder} has no fold with {file_name}; train one first, or name another checkpoint with -chk.")
        on = choose_device(device)
        networks = []
        for fold in chosen:
            path = folder / f"fold_{fold}" / file_name
            if not path.is_file():
                raise CheckpointError(
                    f"Fold {fold} of {folder.name} is not trained: {path} does not exist. "
                    f"Folds with that checkpoint: {', '.join(finished_folds(folder, file_name)) or 'none'}."
                )
            stored = load_checkpoint(path, with_optimizer=False)
            configuration = plan.configuration(stored.state.configuration)
            check_frozen_weights(stored.state, configuration, path)
            network = build_network(plan, configuration, dataset.labels, weights_folders)
            load_trainable_state(network, stored.weights, path, pretrained=configuration.weights is not None)
            network.merge()
            networks.append(network.to(on).eval())
        return cls(
            plan=plan,
            configuration=configuration,
            dataset=dataset,
            folds=chosen,
            networks=tuple(networks),
            device=on,
            options=options or PredictionOptions(),
        )

    def preprocess(self, volume: Volume) -> PreprocessedCase:
        """Bring a volume to the network's grid."""
        return preprocess(volume, None, self.plan, self.configuration)

    def logits(self, case: PreprocessedCase) -> Tensor:
        """Return (K, D, H, W) float32 logits on the network's grid, averaged over folds."""
        padded, inside = pad_to(case.image, self.configuration.patch_size)
        image = torch.from_numpy(padded)
        total = sum(self._fold_logits(network, image) for network in self.networks)
        return crop(total, inside) / len(self.networks)

    def segmentation(self, logits: Tensor, case: PreprocessedCase) -> np.ndarray:
        """Return (D, H, W) label values on the grid of the input."""
        return segmentation_from_logits(logits, case.history, self.dataset.labels)

    def probabilities(self, logits: Tensor, case: PreprocessedCase) -> np.ndarray:
        """Return (K, D, H, W) float32 probabilities on the grid of the input."""
        return probabilities_from_logits(logits, case.history, self.dataset.labels)

    def predict(self, image: ImageLike, *, probabilities: bool = False) -> Prediction:
        """Segment one image; calls from several threads do not disturb each other.

        Args:
            image: a volume; a file, DICOM folder or list of channel files; a nibabel or SimpleITK image; or (array, spacing).
            probabilities: return them too.
        """
        volume = as_volume(image, reader_for(self.dataset.file_ending, self.plan.reader))
        if len(volume.array) != len(self.plan.channels):
            raise ShapeError(f"The image has {len(volume.array)} channels; the model was trained on {len(self.plan.channels)}.")
        case = self.preprocess(volume)
        logits = self.logits(case)
        return Prediction(
            segmentation=self.segmentation(logits, case),
            geometry=volume.geometry,
            probabilities=self.probabilities(logits, case) if probabilities else None,
        )

    def predict_many(self, images: Iterable[ImageLike], *, probabilities: bool = False) -> Iterator[Prediction]:
        """Segment images one by one, as they are asked for."""
        return (self.predict(image, probabilities=probabilities) for image in images)

    def _fold_logits(self, network: SlabSegmenter, image: Tensor) -> Tensor:
        precision = choose_precision("auto", self.device)

        def run(tiles: Tensor) -> Tensor:
            with autocast(self.device, precision):
                return network(tiles)

        tiles = self.options.tile_batch
        while True:
            try:
                return sliding_window(
                    run,
                    image,
                    outputs=self.dataset.labels.outputs,
                    tile=self.configuration.patch_size,
                    step=self.options.step_size,
                    mirror_axes=self.configuration.mirror_axes if self.options.flips else (),
                    tile_batch=tiles,
                    device=self.device,
                    progress=lambda batches: bar(batches, title="Tiles", quiet=self.options.quiet),
                )
            except torch.OutOfMemoryError:
                if tiles == 1:
                    patch = " x ".join(map(str, self.configuration.patch_size))
                    message = f"The memory of {self.device} does not hold one tile of {patch} voxels; free it, or predict with -device cpu."
                    raise PredictionError(message) from None
                tiles //= 2
                logger.info("The memory of %s ran out; going on with %d tiles at a time.", self.device, tiles)
                if self.device.type == "cuda":
                    torch.cuda.empty_cache()


def finished_folds(folder: Path, file_name: str = f"{DEFAULT_CHECKPOINT}.safetensors") -> tuple[str, ...]:
    """List the folds of a model folder that hold a checkpoint; numbered folds first, "all" only when there are none."""
    found = sorted(path.parent.name.removeprefix("fold_") for path in folder.glob(f"fold_*/{file_name}"))
    found = [fold for fold in found if fold == "all" or fold.isdecimal()]  # others are variations of a fold
    numbered = tuple(fold for fold in found if fold != "all")
    return numbered or tuple(found)
