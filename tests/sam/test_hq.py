"""What HQ-SAM's checkpoints have beyond SAM's: their tensors' names and shapes, and where they go."""

from __future__ import annotations

import pytest
import torch

from samunet.errors import CheckpointError
from samunet.sam import hq
from samunet.sam.backbones import backbone_named
from samunet.sam.build import build_sam
from samunet.sam.weights import load_weights

OFFICIAL = {  # of sam_hq_vit_b.pth; E is 768 there, 1024 in vit_l, 1280 in vit_h
    "hf_token.weight": (1, 256),
    "hf_mlp.layers.0.weight": (256, 256),
    "hf_mlp.layers.0.bias": (256,),
    "hf_mlp.layers.1.weight": (256, 256),
    "hf_mlp.layers.1.bias": (256,),
    "hf_mlp.layers.2.weight": (32, 256),
    "hf_mlp.layers.2.bias": (32,),
    "compress_vit_feat.0.weight": (768, 256, 2, 2),
    "compress_vit_feat.0.bias": (256,),
    "compress_vit_feat.1.weight": (256,),
    "compress_vit_feat.1.bias": (256,),
    "compress_vit_feat.3.weight": (256, 32, 2, 2),
    "compress_vit_feat.3.bias": (32,),
    "embedding_encoder.0.weight": (256, 64, 2, 2),
    "embedding_encoder.0.bias": (64,),
    "embedding_encoder.1.weight": (64,),
    "embedding_encoder.1.bias": (64,),
    "embedding_encoder.3.weight": (64, 32, 2, 2),
    "embedding_encoder.3.bias": (32,),
    "embedding_maskfeature.0.weight": (64, 32, 3, 3),
    "embedding_maskfeature.0.bias": (64,),
    "embedding_maskfeature.1.weight": (64,),
    "embedding_maskfeature.1.bias": (64,),
    "embedding_maskfeature.3.weight": (32, 64, 3, 3),
    "embedding_maskfeature.3.bias": (32,),
}


@pytest.mark.parametrize(("backbone", "total"), [("vit_b", 1_071_104), ("vit_l", 1_333_248), ("vit_h", 1_595_392)])
def test_the_parts_are_those_of_the_official_files(backbone, total):
    with torch.device("meta"):
        sam = build_sam(backbone_named(backbone), (64, 64))
        parts = hq.parts_of(sam)
    width = sam.image_encoder.pos_embed.shape[-1]
    expected = OFFICIAL | {"compress_vit_feat.0.weight": (width, 256, 2, 2)}
    assert {name: tuple(tensor.shape) for name, tensor in parts.state_dict().items()} == expected
    assert sum(parameter.numel() for parameter in parts.parameters()) == total


def file_of(sam, folder, names):
    stored = dict(sam.state_dict())
    shapes = hq.new_parts(sam).state_dict()
    stored |= {f"mask_decoder.{name}": torch.randn(shapes[name].shape) for name in names}
    torch.save(stored, folder / "sam_hq.pth")
    return stored, folder / "sam_hq.pth"


def test_a_file_loads_without_leftovers_into_any_size_and_its_parts_are_handed_on(tmp_path):
    nano = backbone_named("vit_nano")
    stored, path = file_of(build_sam(nano, (64, 64)), tmp_path, OFFICIAL)
    sam = build_sam(nano, (96, 64))
    report = load_weights(sam, nano, path)
    assert len(report.loaded) + len(report.resized) == len(stored) and report.unexpected == report.missing == ()
    given = hq.parts_of(sam).state_dict()
    assert all(torch.equal(given[name], stored[f"mask_decoder.{name}"]) for name in OFFICIAL)


def test_a_file_that_lacks_one_of_them_is_refused(tmp_path):
    nano = backbone_named("vit_nano")
    _, path = file_of(build_sam(nano, (64, 64)), tmp_path, sorted(OFFICIAL)[1:])
    with pytest.raises(CheckpointError, match=r"1 missing \(hq\.compress_vit_feat\.0\.bias\)"):
        load_weights(build_sam(nano, (64, 64)), nano, path)
