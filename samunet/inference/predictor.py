"""A trained model that turns volumes into segmentations; no files, no environment variables."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from torch import Tensor

from samunet.core.dataset import DatasetSpec
from samunet.core.memory import peak_mib, start_peak
from samunet.core.plan import Configuration, Plan
from samunet.core.preprocessed import PreprocessedCase
from samunet.core.units import counted
from samunet.core.volume import Volume
from samunet.errors import ConfigError, PredictionError, ShapeError
from samunet.imageio import READERS, reader_of_image
from samunet.imageio.objects import ImageLike, as_volume
from samunet.inference.accumulators import Place, accumulators, best_place
from samunet.inference.options import PredictionOptions as PredictionOptions
from samunet.inference.passes import combine, flips_of, logits_from, passes
from samunet.inference.prediction import Prediction as Prediction
from samunet.inference.sliding_window import sliding_window
from samunet.inference.unlike import refuse_absurd_spacing, remarks_on_grid, remarks_on_intensities
from samunet.machine.hardware import autocast, choose_precision, is_out_of_memory
from samunet.machine.progress import bar
from samunet.models.segmenter import SlabSegmenter
from samunet.preprocessing.backward import probabilities_from_logits, resize_to_input_grid, segmentation_from_logits
from samunet.preprocessing.forward import preprocess

logger = logging.getLogger(__name__)

CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What the networks say of a volume, on their own grid, on the CPU or in a file."""

    logits: Tensor
    """(K, D, H, W) float32."""
    disagreement: Tensor | None
    """(D, H, W) float32 in [0, 1]."""


@dataclass(frozen=True, kw_only=True)
class Predictor:
    """One configuration's networks, one per fold, whose logits are averaged."""

    plan: Plan
    configuration: Configuration
    dataset: DatasetSpec
    folds: tuple[str, ...]
    networks: tuple[SlabSegmenter, ...]
    """One per fold."""
    device: torch.device
    options: PredictionOptions = field(default_factory=PredictionOptions)

    def __post_init__(self) -> None:
        if self.options.uncertainty and len(self.networks) * len(self._flips) < 2:
            raise ConfigError(
                "Uncertainty is how much folds and flips disagree; here is one fold without flips. "
                "Allow flips, or give several folds."
            )

    @property
    def precision(self) -> torch.dtype | None:
        """Autocast type of the networks; None for fp32."""
        return choose_precision(self.options.precision, self.device)

    @property
    def score_channels(self) -> int:
        """Volumes of scores: one per class or region, and one more for uncertainty."""
        return self.dataset.labels.outputs + self.options.uncertainty

    @property
    def map_planes(self) -> int:
        """Planes that lie behind the image's channels when it is predicted; here there are none."""
        return 0

    @property
    def extra_slices(self) -> int:
        """Slices that are added before prediction, on both ends together."""
        return 2 * (self.configuration.patch_size[0] // 2) if self.options.slab_votes else 0

    @property
    def _flips(self) -> tuple[tuple[int, ...], ...]:
        return flips_of(self.configuration.mirror_axes if self.options.flips else ())

    def preprocess(self, volume: Volume) -> PreprocessedCase:
        """Bring a volume to the network's grid; raises PredictionError for a spacing that must be in another unit."""
        refuse_absurd_spacing(volume.geometry, self.plan)
        return preprocess(volume, None, self.plan, self.configuration)

    def remarks(self, volume: Volume) -> tuple[str, ...]:
        """Say in a sentence each where a volume is unlike training cases: orientation, spacing, size, intensities."""
        return (*remarks_on_grid(volume.geometry, self.plan), *remarks_on_intensities(volume.array, self.plan))

    def scores(self, case: PreprocessedCase, folder: Path | None = None) -> Scores:
        """Run the networks over a preprocessed case; logits are averaged over folds and flips. Raises PredictionError
        where the device's memory does not hold one tile, or the network's values are not finite.

        Args:
            folder: where a file takes up the scores; None keeps them in memory.
        """
        return self._scores_of(case.image, folder)

    def _scores_of(self, image: np.ndarray, folder: Path | None) -> Scores:
        """Return the scores of (C, D, H, W) on the network's grid; see `scores`."""
        padded, inside = self._padded(image)
        total = self._finished(self._sum_within_memory(padded, folder).cpu()[inside])
        if not all(torch.isfinite(plane.sum()) for plane in total):
            raise PredictionError(
                "The network gave values that are not finite; its weights are damaged, "
                "or the image holds extreme values."
            )
        logits = total[: self.dataset.labels.outputs]
        if self.options.slab_votes:
            logits = logits_from(logits, regions=self.dataset.labels.has_regions)
        return Scores(logits=logits, disagreement=total[-1] if self.options.uncertainty else None)

    def _finished(self, total: Tensor) -> Tensor:
        """Turn what the sliding window summed up, (channels, D, H, W), into scores."""
        return total

    def _sum_within_memory(self, image: np.ndarray, folder: Path | None) -> Tensor:
        """Sum up the scores of a padded image; where memory runs out, with fewer tiles at a time and then in RAM."""
        shape = (self.score_channels, *image.shape[1:])
        place: Place = folder or best_place(shape, self.device if self.options.sums_on_device else CPU)
        batch = self.options.tile_batch
        while (total := self._try_to_sum_up(image, shape, place, batch)) is None:
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            if batch > 1:
                batch //= 2
                at_a_time = counted(batch, "tile")
                logger.info("The memory of %s ran out; going on with %s at a time.", self.device, at_a_time)
            elif isinstance(place, torch.device) and place.type != "cpu":
                place = CPU
                logger.info("The memory of %s ran out; going on with sums in RAM.", self.device)
            else:
                patch = " x ".join(map(str, self.configuration.patch_size))
                way_out = (
                    "free it, or keep sums in a file with --max_ram"
                    if self.device.type == "cpu"
                    else "free it, or predict with -device cpu"
                )
                raise PredictionError(
                    f"The memory of {self.device} does not hold one tile of {patch} voxels beside the sums; {way_out}."
                )
        return total

    def working_memory(self) -> int:
        """Measure how many bytes of RAM the networks work with; 0 where they run elsewhere or it cannot be told."""
        if self.device.type != "cpu" or sys.platform != "linux":
            return 0
        options = self.options
        tiles = self._example(options.tile_batch)
        before = start_peak()
        with torch.no_grad():
            held = self._run_tiles(tiles, options.tile_batch)
            # Beside the first: freed pieces are not always where the next ones fit.
            self._run_tiles(tiles, options.tile_batch)
        del held
        return int((peak_mib() - before) * 2**20)

    def predict(self, image: ImageLike, *, probabilities: bool = False) -> Prediction:
        """Segment one image; calls from several threads do not disturb each other.

        Args:
            image: a volume; a file, DICOM folder or list of channel files; a nibabel or SimpleITK image; (array,
                spacing) or (tensor, spacing); or a MetaTensor. Results have their axes in the image's order.
            probabilities: return them too.
        """
        return self._predict(image, self.scores, probabilities=probabilities)

    def predict_many(self, images: Iterable[ImageLike], *, probabilities: bool = False) -> Iterator[Prediction]:
        """Segment images one by one, as they are asked for."""
        return (self.predict(image, probabilities=probabilities) for image in images)

    def _predict(
        self, image: ImageLike, scores_of: Callable[[PreprocessedCase], Scores], *, probabilities: bool
    ) -> Prediction:
        """Segment one image by the scores that `scores_of` gives for it on the network's grid."""
        first = image[0] if isinstance(image, (list, tuple)) and image else image
        reader = reader_of_image(Path(first), self.plan.reader) if isinstance(first, (str, Path)) else READERS[0]
        volume = as_volume(image, reader)
        if len(volume.array) != len(self.plan.channels):
            raise ShapeError(
                f"The image has {counted(len(volume.array), 'channel')}; the model was trained on "
                f"{len(self.plan.channels)}."
            )
        case = self.preprocess(volume)
        for remark in self.remarks(volume):
            logger.warning("The image is unlike the training cases: %s.", remark)
        scores, labels = scores_of(case), self.dataset.labels
        uncertainty = None
        if scores.disagreement is not None:
            uncertainty = resize_to_input_grid(scores.disagreement, case.history)
        return Prediction.of(
            image,
            volume.geometry,
            segmentation_from_logits(scores.logits, case.history, labels),
            probabilities_from_logits(scores.logits, case.history, labels) if probabilities else None,
            uncertainty,
            tuple((name, values[0]) for name, values in labels.values if values != (0,)),
        )

    def _example(self, count: int) -> Tensor:
        """Return `count` tiles to measure the networks on."""
        return torch.ones(count, len(self.plan.channels), *self.configuration.patch_size)

    def _padded(self, image: np.ndarray) -> tuple[np.ndarray, tuple[slice, ...]]:
        """Pad to a tile at least; for slab votes repeat the end slices first, so that slabs are centered on them."""
        half = self.extra_slices // 2
        if half:
            image = np.pad(image, [(0, 0), (half, half), (0, 0), (0, 0)], mode="edge")
        padded, (_, depth, *plane) = pad_nd_image(image, self.configuration.patch_size, return_slicer=True)
        return padded, (slice(None), slice(depth.start + half, depth.stop - half), *plane)

    def _try_to_sum_up(self, image: np.ndarray, shape: tuple[int, ...], place: Place, batch: int) -> Tensor | None:
        """Return the scores of the padded image, or None when memory ran out."""
        try:
            return self._sum_up(torch.from_numpy(image), accumulators(shape, place), batch)
        except RuntimeError as error:
            if is_out_of_memory(error):
                return None
            raise

    def _sum_up(self, image: Tensor, total: Tensor, batch: int) -> Tensor:
        """Fill the accumulators with what `_run_tiles` gives."""
        options, tile = self.options, self.configuration.patch_size
        slab_step = 1 if options.slab_votes else options.slab_step
        depth_step = options.step_size if slab_step is None else min(1.0, slab_step / tile[0])
        return sliding_window(
            lambda tiles: self._run_tiles(tiles, batch),
            image,
            total,
            tile=tile,
            steps=(depth_step, options.step_size, options.step_size),
            tile_batch=max(1, batch // len(self._flips)),
            device=self.device,
            uniform=options.slab_votes,
            progress=lambda batches: bar(batches, title="Tiles", quiet=options.quiet),
        )

    def _run_tiles(self, tiles: Tensor, batch: int) -> Tensor:
        """Return mean logits or probabilities over folds and flips; with uncertainty the disagreement behind them."""
        precision = self.precision

        def run(network: SlabSegmenter, part: Tensor) -> Tensor:
            with autocast(self.device, precision):
                return self._answer(network, part)

        return combine(
            passes([partial(run, network) for network in self.networks], tiles, self._flips, batch),
            regions=self.dataset.labels.has_regions,
            votes=self.options.slab_votes,
            uncertainty=self.options.uncertainty,
        )

    def _answer(self, network: SlabSegmenter, tiles: Tensor) -> Tensor:
        """Run one network over (B, C, D, H, W) tiles; returns its (B, K, D, H, W) logits."""
        return cast(Tensor, network(tiles))
