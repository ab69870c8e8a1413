"""Logits of the encoder's plane come to the voxels that they were made of, at every scale."""

from __future__ import annotations

import pytest
import torch

from samunet.models.sam_with_sites import fit_to_patch


def ramp(rows: int, columns: int, pitch: float) -> torch.Tensor:
    """A (1, 2, 1, rows, columns) map of each cell's middle, in voxels; a cell is so many voxels wide."""
    axes = [(torch.arange(float(side)) + 0.5) * pitch - 0.5 for side in (rows, columns)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij")).view(1, 2, 1, rows, columns)


@pytest.mark.parametrize(
    ("scale", "encoder_size", "upsampling"),
    [(1.0, (48, 48), 4), (2.0, (80, 96), 4), (4.0, (160, 192), 4), (4.0, (160, 192), 16), (1.5, (64, 80), 4)],
)
def test_every_voxel_gets_the_logit_of_its_place(scale, encoder_size, upsampling):
    cells = [side * upsampling // 16 for side in encoder_size]
    logits = ramp(*cells, pitch=16 / upsampling / scale)
    found = fit_to_patch(logits, (1, 38, 46), scale, encoder_size)
    rows, columns = torch.meshgrid(torch.arange(38.0), torch.arange(46.0), indexing="ij")
    assert found.shape == (1, 2, 1, 38, 46)
    edge = (slice(4, 34), slice(4, 42))
    tolerance = 1e-3 if scale.is_integer() else 0.5  # pooling takes whole pixels
    assert torch.allclose(found[0, 0, 0][edge], rows[edge], atol=tolerance)
    assert torch.allclose(found[0, 1, 0][edge], columns[edge], atol=tolerance)


@pytest.mark.parametrize(("scale", "upsampling"), [(1.0, 16), (2.0, 8), (4.0, 4)])
def test_logits_of_voxels_stay_as_they_are(scale, upsampling):
    side = 96 * upsampling // 16
    logits = torch.randn(1, 2, 3, side, side)
    found = fit_to_patch(logits, (3, 23, 21), scale, (96, 96))
    assert torch.equal(found, logits[..., :23, :21])


def test_slices_and_classes_keep_their_places():
    logits = torch.arange(12.0).view(2, 3, 2, 1, 1).expand(-1, -1, -1, 8, 8)
    assert torch.equal(fit_to_patch(logits, (2, 32, 32), 1.0, (32, 32))[..., 5, 7], logits[..., 0, 0])
