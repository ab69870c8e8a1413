"""Prompts made from reference segmentations, so that promptable models can be scored as if somebody had clicked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import edt
import numpy as np

from samunet.core.dataset import Case, DatasetSpec
from samunet.core.plan import Plan
from samunet.core.prompts import CasePrompts, PromptFile, StructurePrompts
from samunet.errors import DatasetError
from samunet.imageio import ImageReader
from samunet.inference.prompted_predictor import PromptedPredictor
from samunet.machine.progress import each
from samunet.ops.components import largest_component
from samunet.ops.crop import bounding_box
from samunet.pipeline.datasets import RawDataset
from samunet.pipeline.options import Clicking


def prompts_from_references(
    cases: Sequence[Case],
    spec: DatasetSpec,
    reader: ImageReader,
    clicking: Clicking,
    *,
    plan: Plan | None = None,
    threads: int = 1,
) -> PromptFile:
    """Make prompts for every structure of cases from their references; one that a reference lacks gets none. Raises
    DatasetError where a case has no reference, or it cannot be read.

    Args:
        plan: takes the slices of each case as its models do, in the place of `clicking.axis`.
    """

    def of_case(case: Case) -> CasePrompts:
        if case.label is None:
            raise DatasetError(f"Case '{case.identifier}' has no reference; prompts are made from references.")
        label, geometry = reader.read_label(case.label)
        shown = clicking if plan is None else replace(clicking, axis=plan.axes_of(geometry)[0][0])
        structures = {}
        for number, (name, values) in enumerate(spec.labels.foreground):
            mask = np.isin(label, values)
            if mask.any():
                random = np.random.default_rng([clicking.seed, number, *case.identifier.encode()])
                structures[name] = _clicks(mask, shown, random) if shown.points else _box(mask, shown.relaxation)
        return CasePrompts(structures=structures)

    made = each(of_case, cases, threads=threads, title="Making prompts", quiet=True)
    names = [case.identifier for case in cases]
    return PromptFile(cases=dict(zip(names, made, strict=True)), origin=clicking.origin)


def prompts_for_validation(predictor: PromptedPredictor, cases: Sequence[Case], dataset: RawDataset) -> PromptFile:
    """Make the prompts that a model is validated with: a tight box for one trained on boxes alone, else one click, per
    structure or, where the model needs one in each slice, per structure and slice.
    """
    clicking = Clicking(points=0 if predictor.kind == "box" else 1, whole=predictor.whole_object)
    return prompts_from_references(cases, dataset.spec, dataset.reader, clicking, plan=predictor.plan)


def _box(mask: np.ndarray, relaxation: int) -> StructurePrompts:
    sides = [
        (max(0, a - relaxation), min(size, b + relaxation) - 1)
        for (a, b), size in zip(bounding_box(mask), mask.shape, strict=True)
    ]
    first, last = (tuple(float(side[end]) for side in reversed(sides)) for end in (0, 1))
    return StructurePrompts(box=(first, last))


def _clicks(mask: np.ndarray, clicking: Clicking, random: np.random.Generator) -> StructurePrompts:
    if clicking.whole:
        inside = np.argwhere(mask)
        chosen = [
            middle_of(mask, clicking.axis),
            *inside[random.choice(len(inside), min(clicking.points, len(inside)) - 1)],
        ]
        return StructurePrompts(points=tuple(tuple(float(x) for x in voxel[::-1]) for voxel in chosen))
    points = []
    planes = np.moveaxis(mask, clicking.axis, 0)
    for place in np.flatnonzero(planes.any((1, 2))):
        inside = np.argwhere(planes[place])
        clicked = [np.array(_deepest(planes[place]))]
        clicked += list(inside[random.choice(len(inside), min(clicking.points - 1, len(inside)), replace=False)])
        points += [tuple(float(x) for x in np.insert(voxel, clicking.axis, place)[::-1]) for voxel in clicked]
    return StructurePrompts(points=tuple(points))


def middle_of(mask: np.ndarray, axis: int = 0) -> tuple[int, ...]:
    """Return where a person would click at the largest piece of a (D, H, W) mask: in the slice across `axis` that shows
    most of it, the pixel farthest from its border.
    """
    planes = np.moveaxis(largest_component(mask), axis, 0)
    place = int(planes.sum((1, 2)).argmax())
    return tuple(int(index) for index in np.insert(_deepest(planes[place]), axis, place))


def _deepest(plane: np.ndarray) -> tuple[np.intp, ...]:
    """Return the pixel of a (H, W) mask that is farthest from its border."""
    return np.unravel_index(np.argmax(edt.edt(np.ascontiguousarray(plane), black_border=True)), plane.shape)
