"""nnU-Net's augmentation on (C, D, H, W) patches, by batchgeneratorsv2.

All slices of a slab get the same in-plane transform. Random numbers come from numpy's and torch's global generators, so
callers seed both before each sample (see samunet.data.loader).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from batchgeneratorsv2.helpers.scalar_type import RandomScalar
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.intensity.brightness import MultiplicativeBrightnessTransform
from batchgeneratorsv2.transforms.intensity.contrast import BGContrast, ContrastTransform
from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from batchgeneratorsv2.transforms.spatial.low_resolution import SimulateLowResolutionTransform
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.nnunet_masking import MaskImageTransform
from batchgeneratorsv2.transforms.utils.pseudo2d import Convert2DTo3DTransform, Convert3DTo2DTransform
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from batchgeneratorsv2.transforms.utils.remove_label import RemoveLabelTansform

from samunet.core.geometry import Shape, shape3
from samunet.core.preprocessed import OUTSIDE_NONZERO

FLAT_FROM = 3.0  # nnU-Net: from this ratio of patch sides on, depth is left out of spatial transforms
SMALLEST_SCALE = 0.85  # nnU-Net sizes the patch it reads for objects shrunk to this
BLUR_REACH = (
    3  # voxels a blur of sigma 1 looks to each side; thinner slabs are not blurred, since reflection needs as many
)


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Which spatial transforms a patch size allows."""

    patch_size: Shape
    mirror_axes: tuple[int, ...]
    """Patch axes that may be flipped."""
    masked_channels: tuple[int, ...]
    """Channels normalized inside a mask, reset to zero outside it."""

    @property
    def in_plane_only(self) -> bool:
        return max(self.patch_size) / self.patch_size[0] > FLAT_FROM

    @property
    def rotation(self) -> float:
        """Largest angle in radians (nnU-Net: 180 degrees in the plane, 15 for oblong 2D patches, 30 in 3D)."""
        if not self.in_plane_only:
            return math.radians(30)
        plane = self.patch_size[1:]
        return math.radians(15) if self.patch_size[0] == 1 and max(plane) / min(plane) > 1.5 else math.pi

    @property
    def read_size(self) -> Shape:
        """(D, H, W) to read so that rotated and shrunk patches have hardly any empty corners.

        nnU-Net's rule: the patch's diagonal is turned by the largest angle about each axis in turn, one way only.
        """
        angle = min(self.rotation, math.pi / 2)
        cos, sin = math.cos(angle), math.sin(angle)
        d, h, w = self.patch_size
        turned: list[tuple[float, float, float]] = [(d, h, w), (d, h * cos + w * sin, w * cos - h * sin)]
        if not self.in_plane_only:
            turned += [(d * cos - w * sin, h, d * sin + w * cos), (d * cos + h * sin, h * cos - d * sin, w)]
        size = np.abs(turned).max(axis=0) / SMALLEST_SCALE
        return shape3([d if self.in_plane_only else size[0], size[1], size[2]])

    @cached_property
    def pipeline(self) -> BasicTransform:
        """The transforms; they take and give {"image": (C, D, H, W), "segmentation": (1, D, H, W)} tensors, without D
        in 2D.
        """
        planar = self.patch_size[0] == 1
        steps: list[BasicTransform] = [self._spatial()]
        if self.in_plane_only and not planar:
            steps = [Convert3DTo2DTransform(), *steps, Convert2DTo3DTransform()]
        steps += _intensity(
            ignore_axes=(0,) if self.in_plane_only and not planar else None,
            blur=planar or self.patch_size[0] > BLUR_REACH,
        )
        if mirrored := tuple(axis - planar for axis in self.mirror_axes if axis >= planar):  # a single slice has no D
            steps.append(MirrorTransform(allowed_axes=mirrored))
        if self.masked_channels:
            steps.append(
                MaskImageTransform(apply_to_channels=list(self.masked_channels), channel_idx_in_seg=0, set_outside_to=0)
            )
        return ComposeTransforms([*steps, RemoveLabelTansform(OUTSIDE_NONZERO, 0)])

    def _spatial(self) -> SpatialTransform:
        return SpatialTransform(
            self.patch_size[1:] if self.in_plane_only else self.patch_size,
            patch_center_dist_from_border=0,
            random_crop=False,
            p_rotation=0.2,
            rotation=(-self.rotation, self.rotation),
            p_scaling=0.2,
            scaling=(0.7, 1.4),
            p_synchronize_scaling_across_axes=1,
            border_mode_seg="constant",
            padding_value_seg=OUTSIDE_NONZERO,
        )


def augment(
    pipeline: BasicTransform, image: np.ndarray, label: np.ndarray, masked_channels: tuple[int, ...]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Apply the transforms to one patch.

    Args:
        image: (C, D, H, W) float32 of the read size.
        label: (D, H, W) integers; OUTSIDE_NONZERO marks voxels outside the nonzero region.

    Returns:
        Image (C, D, H, W) float32 and label (D, H, W) int16 of the patch size, without OUTSIDE_NONZERO.
    """
    if masked_channels:  # what was padded around the case is outside too
        empty = (image[list(masked_channels)] == 0).all(axis=0)
        label = np.where(empty & (label == 0), OUTSIDE_NONZERO, label)
    planar = image.shape[1] == 1
    # Copies, since some transforms work in place.
    given = torch.from_numpy(np.array(image, order="C")), torch.from_numpy(np.array(label, np.int16, order="C"))[None]
    done = pipeline(
        **{
            name: tensor.squeeze(1) if planar else tensor
            for name, tensor in zip(("image", "segmentation"), given, strict=True)
        }
    )
    image_out, label_out = (done[name].unsqueeze(1) if planar else done[name] for name in ("image", "segmentation"))
    return image_out.float(), label_out[0].to(torch.int16)


def _intensity(*, ignore_axes: tuple[int, ...] | None, blur: bool) -> list[BasicTransform]:
    factor: RandomScalar = BGContrast((0.75, 1.25))
    gamma: RandomScalar = BGContrast((0.7, 1.5))
    # benchmark=True would choose the convolution by timing it, and equal seeds would no longer give equal samples.
    blurring = GaussianBlurTransform(
        blur_sigma=(0.5, 1.0), synchronize_channels=False, synchronize_axes=False, p_per_channel=0.5, benchmark=False
    )
    return [
        RandomTransform(
            GaussianNoiseTransform(noise_variance=(0, 0.1), p_per_channel=1, synchronize_channels=True),
            apply_probability=0.1,
        ),
        *([RandomTransform(blurring, apply_probability=0.2)] if blur else []),
        RandomTransform(
            MultiplicativeBrightnessTransform(multiplier_range=factor, synchronize_channels=False, p_per_channel=1),
            apply_probability=0.15,
        ),
        RandomTransform(
            ContrastTransform(contrast_range=factor, preserve_range=True, synchronize_channels=False, p_per_channel=1),
            apply_probability=0.15,
        ),
        RandomTransform(
            SimulateLowResolutionTransform(
                scale=(0.5, 1),
                synchronize_channels=False,
                synchronize_axes=True,
                ignore_axes=ignore_axes,
                allowed_channels=None,
                p_per_channel=0.5,
            ),
            apply_probability=0.25,
        ),
        RandomTransform(
            GammaTransform(
                gamma=gamma, p_invert_image=1, synchronize_channels=False, p_per_channel=1, p_retain_stats=1
            ),
            apply_probability=0.1,
        ),
        RandomTransform(
            GammaTransform(
                gamma=gamma, p_invert_image=0, synchronize_channels=False, p_per_channel=1, p_retain_stats=1
            ),
            apply_probability=0.3,
        ),
    ]
