"""Where the loss of a network without prompts is taken, and when embeddings may be kept."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from samunet.core.labels import parse_labels
from samunet.core.plan import Topology
from samunet.models.heads import linear_head
from samunet.models.prompt_free import PromptFreeSAM, slicewise
from samunet.models.spec import NetworkSpec
from samunet.sam.backbones import backbone_named
from samunet.sam.build import build_sam

SPEC = NetworkSpec(
    schemes=("zscore",),
    labels=parse_labels({"background": 0, "a": 1}),
    spacing=(3.0, 1.0, 1.0),
    patch_size=(2, 38, 46),
    encoder_scale=4.0,
    topology=Topology(strides=((1, 1, 1),), kernels=((3, 3, 3),), widths=(8,)),
    pretrained=True,
)


def network_of(spec=SPEC, **options) -> PromptFreeSAM:
    sam = build_sam(backbone_named("vit_nano"), (160, 192))
    return PromptFreeSAM(sam, spec, None, head=linear_head(sam.mask_decoder.transformer_dim, 2), **options)


def test_logits_at_low_resolution_lose_the_padding_of_the_plane():
    rows, columns = torch.meshgrid(torch.arange(40.0), torch.arange(48.0), indexing="ij")
    logits = torch.stack((rows, columns)).view(1, 2, 1, 40, 48)
    assert torch.equal(network_of()._cut(logits, (38, 46)), logits[..., :38, :46])


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({}, True),
        ({"train_encoder": True}, False),
        ({"pixel_range": "unit"}, False),  # a slice's pixels depend on its slab
    ],
)
def test_embeddings_are_kept_where_a_slice_always_has_the_same(tmp_path, options, kept):
    assert network_of(**options).keep_embeddings(tmp_path) == kept


def test_embeddings_of_single_slices_are_kept_in_unit_range_too(tmp_path):
    assert network_of(replace(SPEC, patch_size=(1, 38, 46)), pixel_range="unit").keep_embeddings(tmp_path)
    mixed = network_of(replace(SPEC, schemes=("zscore",) * 2))
    assert not mixed.keep_embeddings(tmp_path)  # the map from two channels to three learns


def test_a_layer_for_planes_runs_on_every_slice():
    slab = torch.randn(2, 3, 4, 5)
    assert torch.equal(slicewise(lambda planes: planes.flip(1), slab), slab.flip(2))
