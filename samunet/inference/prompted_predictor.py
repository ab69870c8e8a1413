"""A trained model that segments what clicks and boxes show.

The networks take a prompt map (see `samunet.core.prompts`), one plane per structure, behind the image's channels. A
tile answers for a structure in a slice only where a prompt shows it there; scores are means over the tiles that answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from samunet.core.preprocessed import PreprocessedCase
from samunet.core.prompts import INSIDE, MASK, SHOWS, CasePrompts, PromptFile
from samunet.errors import ConfigError
from samunet.imageio.objects import ImageLike
from samunet.inference.predictor import Prediction, Predictor, Scores
from samunet.models.segmenter import ABSENT, PromptedSegmenter, SlabSegmenter
from samunet.preprocessing.prompt_map import prompt_map

MOST_PASSES = 10  # over an image that is larger than a tile; each reaches half a tile further
SETTLED = 0.01  # share of an answer's voxels that may still change
NO_PROMPTS = (
    "The model segments what prompts show; give clicks or boxes, --prompts FILE or prompts= "
    "(documentation/how-to/prompts.md)."
)
USELESS_PROMPTS = (
    "The model segments without prompts; leave --prompts out, or choose a model such as 3d_med_sa_prompted."
)


@dataclass(frozen=True, kw_only=True)
class PromptedPredictor(Predictor):
    """One configuration's networks that segment what prompts show, one per fold."""

    networks: tuple[PromptedSegmenter, ...]
    """One per fold."""

    def __post_init__(self) -> None:
        if self.options.slab_votes:
            raise ConfigError("Slab votes are for models that segment without prompts; leave --slab_votes out.")
        super().__post_init__()

    @property
    def kind(self) -> str:
        """Kind of prompts that the networks were trained with: "points", "iterative", "box" or "mixed"."""
        return self.networks[0].prompts

    @property
    def whole_object(self) -> bool:
        """Whether a click in one slice shows an object in all: networks of single slices see no other."""
        return self.networks[0].whole_object and self.configuration.patch_size[0] > 1

    @property
    def score_channels(self) -> int:
        """Volumes of scores, and as many weights, but background's, that count the tiles with a say."""
        return super().score_channels + self.map_planes + self.options.uncertainty

    @property
    def map_planes(self) -> int:
        """Planes of the prompt map, one per structure."""
        return len(self.dataset.labels.channels)

    def scores(
        self, case: PreprocessedCase, folder: Path | None = None, *, prompts: CasePrompts | None = None
    ) -> Scores:
        """Run the networks over a preprocessed case and its prompts; logits are averaged over folds and flips.

        Args:
            folder: where a file takes up the scores; None keeps them in memory.
            prompts: of the case.

        Raises:
            ConfigError: there are no prompts, or one lies outside the image.
            PredictionError: the device's memory does not hold one tile, or the network's values are not finite.
        """
        if prompts is None:
            raise ConfigError(NO_PROMPTS)
        drawn = prompt_map(prompts, self.dataset.labels, case.history)
        return self.scores_with(case.image, drawn, folder)

    def scores_with(self, image: np.ndarray, drawn: np.ndarray, folder: Path | None) -> Scores:
        """Return the scores of an image and its prompts.

        Objects reach beyond tiles: where the networks take a prompt for all of a tile, tiles without one are shown what
        their neighbors found, until it changes little; tiles of one slice have none in others.

        Args:
            image: (C, D, H, W) on the network's grid.
            drawn: (R, D, H, W) uint8 prompt map.
        """
        both, answered = np.concatenate([image, drawn]), np.zeros(drawn.shape, bool)
        scores = self._scores_of(both, folder)
        tile = self.configuration.patch_size
        within = [size <= side for size, side in zip(drawn.shape[1:], tile, strict=True)]
        beyond = not all(within[1:] if tile[0] == 1 else within)
        for _ in range(MOST_PASSES - 1 if beyond and self.networks[0].whole_object else 0):
            before, answered = answered, scores.logits[-len(drawn) :].numpy() > 0
            if np.count_nonzero(answered ^ before) <= SETTLED * np.count_nonzero(answered):
                break
            both[len(image) :] = drawn | answered * np.uint8(MASK)
            del scores  # memory is estimated for one set of them
            scores = self._scores_of(both, folder)
        return scores

    def predict(
        self, image: ImageLike, *, probabilities: bool = False, prompts: CasePrompts | None = None
    ) -> Prediction:
        """Segment what prompts show in one image; see `Predictor.predict`."""
        return self._predict(image, partial(self.scores, prompts=prompts), probabilities=probabilities)

    def predict_many(
        self, images: Iterable[ImageLike], *, probabilities: bool = False, prompts: Iterable[CasePrompts] = ()
    ) -> Iterator[Prediction]:
        """Segment images one by one, as they are asked for, until images or their `prompts` end."""
        pairs = zip(images, prompts, strict=False)
        return (self.predict(image, probabilities=probabilities, prompts=shown) for image, shown in pairs)

    def _finished(self, total: Tensor) -> Tensor:
        """Make weighted sums means over the tiles in which a prompt shows the structure, and drop the weights."""
        count = super().score_channels
        scores, shown = total[:count], total[count:]
        for index, (sums, weight) in enumerate(zip(scores[len(scores) - len(shown) :], shown, strict=True)):
            sums.copy_(torch.where(weight > 0, sums / weight, ABSENT if index < self.map_planes else 0.0))
        return scores

    def _example(self, count: int) -> Tensor:
        """Return tiles of ones in which every structure is clicked at in every slice."""
        tiles = super()._example(count)
        drawn = torch.zeros(count, self.map_planes, *tiles.shape[2:])
        drawn[..., 0, 0] = INSIDE
        return torch.cat([tiles, drawn], 1)

    def _run_tiles(self, tiles: Tensor, batch: int) -> Tensor:
        """Return scores that are zero where no prompt shows a structure, and behind them channels that are one where
        one does.

        Logits count in the slices where a prompt shows their structure, or in whole tiles where the networks take a
        prompt for all slices; the disagreement where any structure is shown.
        """
        scores = super()._run_tiles(tiles, batch)
        shown = (tiles[:, len(self.plan.channels) :].to(torch.uint8) & SHOWS > 0).flatten(3).any(3)
        if self.networks[0].whole_object:
            shown = shown.any(2, keepdim=True).expand_as(shown)
        shown = torch.cat([shown, shown.any(1, keepdim=True)], 1) if self.options.uncertainty else shown
        weights = shown[..., None, None].expand(-1, -1, -1, *tiles.shape[3:]).to(scores.dtype)
        scores[:, scores.shape[1] - weights.shape[1] :] *= weights
        return torch.cat([scores, weights], 1)

    def _answer(self, network: SlabSegmenter, tiles: Tensor) -> Tensor:
        channels = len(self.plan.channels)
        return cast(Tensor, network(tiles[:, :channels], tiles[:, channels:]))


def refuse_unfitting_prompts(predictor: Predictor, prompts: PromptFile | None) -> None:
    """Raise ConfigError where a predictor takes prompts and there are none, or the other way round."""
    prompted = isinstance(predictor, PromptedPredictor)
    if prompted != (prompts is not None):
        raise ConfigError(NO_PROMPTS if prompted else USELESS_PROMPTS)
