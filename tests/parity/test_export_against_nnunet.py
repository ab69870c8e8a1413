"""Segmentations and probabilities are nnU-Net's (nnunetv2 2.8.1 as the oracle), but for ties."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from samples import untouched

from samunet.core.geometry import Geometry
from samunet.core.labels import parse_labels
from samunet.preprocessing.backward import probabilities_from_logits, segmentation_from_logits

pytest.importorskip("nnunetv2")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # imports of nnU-Net's dependencies warn about their own deprecations
    from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

SHAPE, NEW_SHAPE = (10, 20, 24), (14, 33, 30)
CLASSES = {"background": 0, "a": 1, "b": 2, "c": 3}
REGIONS = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "tip": 3}
BOX = ((2, 16), (1, 34), (0, 30))
WHOLE = (18, 36, 30)
RESAMPLINGS = [((1.5, 1.5, 1.5), (1.07, 0.9, 1.2)), ((5.0, 1.0, 1.0), (3.6, 0.6, 0.8))]


def both(labels, order, spacing, new_spacing, transpose, transpose_back):
    """Their segmentation and probabilities, and ours, of noise."""
    rule = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}
    configuration = {
        "architecture": {},
        "spacing": list(spacing),
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
    }
    configuration["resampling_fn_probabilities_kwargs"] = rule
    axes = {"transpose_forward": list(transpose), "transpose_backward": list(transpose_back)}
    plans = PlansManager({**axes, "configurations": {"3d_fullres": configuration}, "label_manager": "LabelManager"})
    description = {"channel_names": {"0": "CT"}, "labels": labels, "regions_class_order": order}
    manager = plans.get_label_manager({key: value for key, value in description.items() if value is not None})
    file_spacing = [new_spacing[transpose.index(axis)] for axis in range(3)]
    properties = {
        "spacing": file_spacing,
        "shape_after_cropping_and_before_resampling": NEW_SHAPE,
        "shape_before_cropping": WHOLE,
        "bbox_used_for_cropping": [list(side) for side in BOX],
    }
    parsed = parse_labels(labels, order)
    logits = torch.from_numpy(np.random.default_rng(0).normal(size=(parsed.outputs, *SHAPE)).astype(np.float32))
    configured = plans.get_configuration("3d_fullres")
    theirs = convert_predicted_logits_to_segmentation_with_correct_shape(
        logits.clone(), plans, configured, manager, properties, True, 1
    )
    geometry = Geometry(shape=tuple(WHOLE[transpose.index(axis)] for axis in range(3)), spacing=tuple(file_spacing))
    history = replace(
        untouched(geometry),
        transpose=transpose,
        crop=BOX,
        shape_after_crop=NEW_SHAPE,
        spacing_after_transpose=new_spacing,
        shape_after_resample=SHAPE,
        spacing_after_resample=spacing,
    )
    return theirs, (
        segmentation_from_logits(logits, history, parsed),
        probabilities_from_logits(logits, history, parsed),
    )


@pytest.mark.parametrize("labels,order", [(CLASSES, None), (REGIONS, [1, 2, 3])], ids=["classes", "regions"])
@pytest.mark.parametrize(
    "spacing,new_spacing",
    [((1.5, 1.5, 1.5), (1.07, 0.9, 1.2)), ((5.0, 1.0, 1.0), (3.6, 0.6, 0.8))],
    ids=["cubic", "thick slices"],
)
@pytest.mark.parametrize("transpose", [((0, 1, 2), (0, 1, 2)), ((2, 0, 1), (1, 2, 0))], ids=["as it is", "transposed"])
def test_noise_becomes_the_same_segmentation_and_probabilities(labels, order, spacing, new_spacing, transpose):
    (segmentation, probabilities), (our_segmentation, our_probabilities) = both(
        labels, order, spacing, new_spacing, *transpose
    )
    assert our_segmentation.dtype == segmentation.dtype and our_segmentation.shape == segmentation.shape
    np.testing.assert_allclose(our_probabilities, probabilities, atol=1e-5)
    assert (our_segmentation != segmentation).sum() <= 2  # ties but for rounding
