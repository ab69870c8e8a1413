"""Predictors of both tools whose network costs next to nothing, to measure everything around networks."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from samunet.core.dataset import DatasetSpec
from samunet.core.fingerprint import IntensityStatistics
from samunet.core.geometry import Shape, Triple
from samunet.core.plan import ChannelPlan, Configuration, Plan, Topology
from samunet.inference.predictor import PredictionOptions, Predictor

FIGURES = {"mean": 0.0, "median": 0.0, "std": 1.0, "percentile_00_5": -3.0, "percentile_99_5": 3.0}


class Cheap(nn.Module):
    """Logits by one multiplication: the first channel times a number per class."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.register_buffer("slope", torch.linspace(-1, 1, classes))

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, *shape) to (B, K, *shape)."""
        return image[:, :1] * self.slope.view(1, -1, *([1] * (image.ndim - 2)))


def our_predictor(spec: DatasetSpec, spacing: Triple, patch_size: Shape, scheme: str) -> Predictor:
    """Return ours for one channel, without flips."""
    configuration = Configuration(
        variant="sam_unet",
        dimensions=3,
        data_identifier="stand_in",
        spacing=spacing,
        median_shape=(1.0, 1.0, 1.0),
        patch_size=patch_size,
        batch_size=2,
        backbone="vit_nano",
        weights=None,
        weights_sha256=None,
        encoder_scale=1.0,
        topology=Topology(strides=((1, 1, 1),), kernels=((3, 3, 3),), widths=(8,)),
        mirror_axes=(),
        variant_options={},
    )
    channel = ChannelPlan(
        name="image",
        scheme=scheme,
        within_mask=False,
        intensities=IntensityStatistics(**FIGURES, minimum=-3.0, maximum=3.0),
    )
    plan = Plan(
        dataset=spec.name,
        plans_name="stand_in",
        reader="SimpleITKIO",
        memory_gib=8.0,
        precision="mixed",
        asked_spacing=None,
        transpose=(0, 1, 2),
        channels=(channel,),
        configurations={"3d_adapter": configuration},
        reasons={},
    )
    return Predictor(
        plan=plan,
        configuration=configuration,
        dataset=spec,
        folds=("0",),
        networks=(Cheap(spec.labels.outputs),),
        device=torch.device("cpu"),
        options=PredictionOptions(flips=False, quiet=True),
    )


def nnunet_plans(spacing: Triple, patch_size: Shape, scheme: str) -> Any:
    """Return nnU-Net's plan with the same numbers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
    rule = {"order_z": 0, "force_separate_z": None}
    configuration = {
        "data_identifier": "stand_in",
        "architecture": {},
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": list(patch_size),
        "spacing": list(spacing),
        "normalization_schemes": [scheme],
        "use_mask_for_norm": [False],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, **rule},
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_seg_kwargs": {"is_seg": True, "order": 1, **rule},
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": {"is_seg": False, "order": 1, **rule},
    }
    return PlansManager(
        {
            "dataset_name": "stand_in",
            "plans_name": "stand_in",
            "image_reader_writer": "SimpleITKIO",
            "transpose_forward": [0, 1, 2],
            "transpose_backward": [0, 1, 2],
            "label_manager": "LabelManager",
            "foreground_intensity_properties_per_channel": {"0": {**FIGURES, "min": -3.0, "max": 3.0}},
            "configurations": {"3d_fullres": configuration},
        }
    )
