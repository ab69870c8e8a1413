"""Trained models that segment what prompts show, on whole volumes: folds of `*_prompted` configurations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from samunet.core.codec import file_sha256
from samunet.core.history import turned
from samunet.core.preprocessed import PreprocessedCase
from samunet.core.prompts import BOX, INSIDE, MASK, OUTSIDE, CasePrompts, StructurePrompts
from samunet.core.units import counted
from samunet.core.volume import Volume
from samunet.errors import ConfigError, ShapeError
from samunet.inference.load import load_predictor
from samunet.inference.options import PredictionOptions
from samunet.inference.prompted_predictor import PromptedPredictor
from samunet.interaction.slices import Answer
from samunet.models.segmenter import ABSENT
from samunet.ops.crop import crop
from samunet.ops.resample import resample_label
from samunet.preprocessing.backward import segmentation_from_logits
from samunet.preprocessing.forward import slice_axis
from samunet.preprocessing.prompt_map import prompt_map


class VolumeModel:
    """The folds of a trained model that takes prompts.

    Prompts of any object are given to it as those of its first structure: what a network of this kind segments is what
    prompts show, whatever its name.
    """

    def __init__(self, folder: Path, device: str | None = None, weights_folders: Sequence[Path] = ()) -> None:
        options = PredictionOptions(flips=False, quiet=True)
        predictor = load_predictor(folder, device=device, options=options, weights_folders=weights_folders)
        if not isinstance(predictor, PromptedPredictor):
            raise ConfigError(
                f"Model {folder.name} segments without prompts. Annotate with one such as 3d_adapter_prompted, or "
                "start from its predictions."
            )
        self.predictor, self.name = predictor, folder.name
        files = [
            file_sha256(path) for fold in predictor.folds for path in folder.glob(f"fold_{fold}/checkpoint_final*")
        ]
        self.sha256 = "-".join(files)

    def open(self, volume: Volume) -> PreprocessedCase:
        """Bring a volume to the networks' grid."""
        if len(volume.array) != len(self.predictor.plan.channels):
            raise ShapeError(
                f"The image has {counted(len(volume.array), 'channel')}; model {self.name} was trained on "
                f"{len(self.predictor.plan.channels)}."
            )
        return self.predictor.preprocess(volume)

    def answer(self, case: PreprocessedCase, drawn: np.ndarray) -> Answer:
        """Segment what a (D, H, W) uint8 map of prompts on the file's grid shows."""
        on_grid, predictor = self._on_grid(case, drawn), self.predictor
        slab = predictor.configuration.patch_size[0]
        shown = np.flatnonzero(on_grid.any((0, 2, 3)) | (slab > 1)).tolist()
        logits = torch.full((predictor.dataset.labels.outputs, *on_grid.shape[1:]), ABSENT)
        if not predictor.dataset.labels.has_regions:
            logits[0] = 0.0
        if shown:
            logits[:, shown] = predictor.scores_with(case.image[:, shown], on_grid[:, shown], None).logits
        return Answer(segmentation_from_logits(logits, case.history, predictor.dataset.labels) > 0, None)

    def _on_grid(self, case: PreprocessedCase, drawn: np.ndarray) -> np.ndarray:
        """Bring a map of prompts to the networks' grid: (R, D', H', W')."""
        labels, history = self.predictor.dataset.labels, case.history
        places = {bit: np.argwhere(drawn & bit)[:, ::-1].astype(float).tolist() for bit in (INSIDE, OUTSIDE)}
        box = np.argwhere(drawn & BOX)
        corners = (tuple(map(float, box.min(0)[::-1])), tuple(map(float, box.max(0)[::-1]))) if len(box) else None
        name = labels.channels[0][0]
        prompts = StructurePrompts(
            points=tuple(map(tuple, places[INSIDE])), background_points=tuple(map(tuple, places[OUTSIDE])), box=corners
        )
        on_grid = prompt_map(CasePrompts(structures={name: prompts}), labels, history)
        if (drawn & MASK).any():
            earlier = crop(turned(drawn & MASK, history.transpose, history.flips), history.crop).astype(np.int16)
            axis = slice_axis(history.geometry, history.spacing_after_transpose, history.spacing_after_resample)
            on_grid[0] |= resample_label(earlier, history.shape_after_resample, axis=axis).astype(np.uint8)
        return on_grid
