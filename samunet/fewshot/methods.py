"""The methods that make proposals of references, by one name each, and how good they are on the references themselves.

Leaving out one reference at a time, each method labels it by the others: what it reaches there is what to expect.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from scipy import ndimage
from torch import Tensor

from samunet.core.geometry import turn_between
from samunet.core.history import turned
from samunet.core.parts import is_full
from samunet.errors import PredictionError, in_words
from samunet.fewshot import mpa, per_sam
from samunet.fewshot.choose import directions, summary_of
from samunet.fewshot.examples import Example, References
from samunet.fewshot.guided import RELEASED
from samunet.fewshot.likeness import Likeness, ReferenceSlice, likeness_of, reference_slices, refuse_small
from samunet.fewshot.models import PlaneModel
from samunet.fewshot.registration import Pair, Registration, Warped, register_all
from samunet.machine.progress import bar
from samunet.ops.components import largest_component
from samunet.ops.overlap import overlap
from samunet.ops.resample import resample_label

logger = logging.getLogger(__name__)

PER_SAM, PER_SAM_F, SAM_MPA, REGISTRATION, NEAREST = "per_sam", "per_sam_f", "sam_mpa", "registration", "nearest"
METHODS = (PER_SAM, PER_SAM_F, SAM_MPA, REGISTRATION, NEAREST)
AUTO = "auto"
NEIGHBORS = 3  # references that are registered with an image
ONE_PIECE = 0.9  # share of a structure in its largest piece, in all references, above which other pieces are dropped

Scores = dict[str, dict[int, list[float]]]
"""By method and label value: the Dice of each reference in turn, labeled by the others; NaN where no other shows the
structure, or where it neither is nor is found."""


Learned = tuple[dict[int, Likeness], dict[int, Tensor] | None]
"""By label value: what structures look like; and of PerSAM-F, the weights of the candidates."""


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A label that a method proposes."""

    label: np.ndarray
    """(D, H, W) integers."""
    confidence: dict[int, float]
    """By label value, 0 to 1: of PerSAM, expected IoU times similarity; of SAM-MPA, expected IoU; else, how much the
    registered references agree, or alike the nearest one is."""


@dataclass
class FewShot:
    """References, a model, and what was found out about them."""

    references: References
    model: PlaneModel
    form: str = RELEASED
    registration: Registration = Registration()
    workers: int = 1
    """Pairs registered at a time."""
    _slices: dict[str, dict[int, list[ReferenceSlice]]] = field(default_factory=dict)
    _summaries: dict[str, np.ndarray] = field(default_factory=dict)
    _learned: dict[tuple[object, ...], Learned] = field(default_factory=dict)
    _warped: dict[tuple[str, str], Warped | None] = field(default_factory=dict)
    _largest: dict[tuple[str, int], float] = field(default_factory=dict)

    @property
    def values(self) -> tuple[int, ...]:
        """Label values, background left out."""
        return tuple(self.references.classes)

    def check(self, method: str) -> None:
        """Raise ConfigError where references show too little for a method."""
        if method in (PER_SAM, PER_SAM_F):
            refuse_small(self.model, self.references.examples, self.references.axis, self.references.classes)

    @property
    def untried(self) -> str:
        """The method to take where one reference leaves nothing to compare: registration places organs, not cells."""
        known = self.references.examples
        return REGISTRATION if all(self._one_piece(value, known) for value in self.values) else PER_SAM_F

    def propose(self, method: str, image: Example, examples: Sequence[Example] | None = None) -> Proposal:
        """Label an image.

        Args:
            method: one of `METHODS`.
            examples: to learn from; None takes all references.

        Raises:
            DatasetError: the image cannot be compared with the references.
            PredictionError: no reference could be registered in its time.
        """
        like_them = self.references.like_these(image)
        examples = self.references.examples if examples is None else examples
        if method in (PER_SAM, PER_SAM_F):
            proposal = self._by_likeness(like_them, examples, fitted=method == PER_SAM_F)
        elif method == NEAREST:
            proposal = self._copied(like_them, examples)
        else:
            proposal = self._by_registration(like_them, examples, decoded=method == SAM_MPA)
        if like_them is image:
            return proposal
        there, back = (example.volume.geometry.orientation for example in (like_them, image))
        return replace(proposal, label=np.ascontiguousarray(turned(proposal.label, *turn_between(there, back))))

    def leave_one_out(self, methods: Sequence[str], *, quiet: bool = False) -> Scores:
        """Label each reference by the others; one alone leaves no scores."""
        scores: Scores = {method: {value: [] for value in self.values} for method in methods}
        all_examples = self.references.examples if len(self.references.examples) > 1 else ()
        for left in bar(all_examples, title="Trying methods on the references", quiet=quiet):
            others = [example for example in self.references.examples if example is not left]
            shown = [value for value in self.values if any((example.known() == value).any() for example in others)]
            for method in methods:
                try:
                    label = self.propose(method, left, others).label
                except Exception as error:  # counts as nothing found, and other methods may
                    if is_full(error):
                        raise
                    logger.warning("%s fails on reference '%s': %s", method, left.identifier, in_words(error))
                    label = np.zeros_like(left.known())
                for value in self.values:
                    dice = overlap(left.known(), label, (value,), self.references.spec.labels.ignore).dice
                    scores[method][value].append(dice if value in shown else math.nan)
            self._forget_pairs(left.identifier)
        return scores

    def _by_likeness(self, image: Example, examples: Sequence[Example], *, fitted: bool) -> Proposal:
        axis, names = self.references.axis, (fitted, *(example.identifier for example in examples))
        if names not in self._learned:
            self._learned[names] = self._learn(examples, fitted=fitted)
        likenesses, weights = self._learned[names]
        label, scores = per_sam.find_all(self.model, image, axis, likenesses, form=self.form, weights=weights)
        for value in likenesses:
            mask = label == value
            if likenesses[value].one_piece and mask.any():
                mask = largest_component(mask)
            label[label == value] = 0
            filled = ndimage.binary_fill_holes(mask.squeeze()).reshape(mask.shape)  # of one slice, in its plane
            label[filled & (label == 0)] = value
        return Proposal(label=label, confidence={value: scores.get(value, 0.0) for value in self.values})

    def _learn(self, examples: Sequence[Example], *, fitted: bool) -> Learned:
        likenesses = {}
        for value in self.values:
            slices = [part for example in examples for part in self._slices_of(example)[value]]
            if slices:
                likenesses[value] = replace(
                    likeness_of(slices, peak=fitted), one_piece=self._one_piece(value, examples)
                )
        if not fitted:
            return likenesses, None
        return likenesses, per_sam.fit_weights(self.model, examples, self.references.axis, likenesses, form=self.form)

    def _by_registration(self, image: Example, examples: Sequence[Example], *, decoded: bool) -> Proposal:
        nearest = [examples[index] for index in self._nearest(image, examples)[:NEIGHBORS]]
        absent = [example for example in nearest if (image.identifier, example.identifier) not in self._warped]
        pairs = [
            Pair(
                fixed=image.volume,
                moving=example.volume,
                label=example.known(),
                values=self.values,
                settings=self.registration,
                name=f"'{image.identifier}' with '{example.identifier}'",
            )
            for example in absent
        ]
        for example, result in zip(absent, register_all(pairs, workers=self.workers), strict=True):
            self._warped[image.identifier, example.identifier] = result
        all_warped = [self._warped[image.identifier, example.identifier] for example in nearest]
        warped = [result for result in all_warped if result is not None]
        if not warped:
            raise PredictionError(
                f"Case '{image.identifier}': no reference could be registered ({len(nearest)} tried); where that "
                f"took {self.registration.seconds:g} s, give more with --seconds, or a smaller --side."
            )
        chances = mpa.combined(warped, image.volume.geometry.shape)
        if decoded:
            label, sure = mpa.segment(self.model, image, self.references.axis, chances, self.values)
        else:
            label, sure = mpa.most_likely(chances, self.values)
        return Proposal(label=label, confidence=sure)

    def forget(self, identifier: str) -> None:
        """Drop what is kept of an image that is done."""
        self._summaries.pop(identifier, None)
        self._forget_pairs(identifier)

    def _forget_pairs(self, identifier: str) -> None:
        for pair in [pair for pair in self._warped if pair[0] == identifier]:
            del self._warped[pair]

    def _copied(self, image: Example, examples: Sequence[Example]) -> Proposal:
        nearest = examples[self._nearest(image, examples)[0]]
        label = resample_label(nearest.known(), image.volume.geometry.shape, axis=None)
        label = np.where(np.isin(label, self.values), label, 0)
        one, other = self._summary(image), self._summary(nearest)
        alike = float(one @ other / max(np.linalg.norm(one) * np.linalg.norm(other), 1e-6))
        return Proposal(
            label=label, confidence={value: max(0.0, alike) * bool((label == value).any()) for value in self.values}
        )

    def _nearest(self, image: Example, examples: Sequence[Example]) -> list[int]:
        """Return the indices of examples, the most alike first."""
        if len(examples) == 1:
            return [0]
        own, *others = directions([self._summary(image), *map(self._summary, examples)])
        return [int(index) for index in np.argsort([-float(own @ other) for other in others], kind="stable")]

    def _summary(self, example: Example) -> np.ndarray:
        if example.identifier not in self._summaries:
            self._summaries[example.identifier] = summary_of(self.model, example.volume, self.references.axis)
        return self._summaries[example.identifier]

    def _slices_of(self, example: Example) -> dict[int, list[ReferenceSlice]]:
        if example.identifier not in self._slices:
            axis = self.references.axis
            self._slices[example.identifier] = reference_slices(self.model, example, axis, self.values)
        return self._slices[example.identifier]

    def _one_piece(self, value: int, examples: Sequence[Example]) -> bool:
        return min(self._share(example, value) for example in examples) >= ONE_PIECE

    def _share(self, example: Example, value: int) -> float:
        """Return the share of a structure that is in its largest piece; 1 where there is none."""
        if (example.identifier, value) not in self._largest:
            mask = example.known() == value
            share = largest_component(mask).sum() / mask.sum() if mask.any() else 1.0
            self._largest[example.identifier, value] = float(share)
        return self._largest[example.identifier, value]


def best_of(scores: Scores, otherwise: str) -> str:
    """Return the method whose Dice, the mean over classes of the means over references, is the highest.

    Args:
        otherwise: where there are no scores.
    """
    means = {method: mean_of(parts) for method, parts in scores.items()}
    known = {method: mean for method, mean in means.items() if not math.isnan(mean)}
    return max(known, key=lambda method: known[method]) if known else otherwise


def mean_of(parts: dict[int, list[float]]) -> float:
    """Return the mean over classes of the means over references; NaN where there are none."""
    means = [one for one in map(mean_dice, parts.values()) if not math.isnan(one)]
    return float(np.mean(means)) if means else math.nan


def mean_dice(dice: Sequence[float]) -> float:
    """Return the mean over the references that tell one; NaN where none does."""
    known = [one for one in dice if not math.isnan(one)]
    return float(np.mean(known)) if known else math.nan
