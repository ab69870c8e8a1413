"""The class-token decoder against SAM's own decoder, and SAM's dense positions against their formula."""

from __future__ import annotations

import math

import torch

from samunet.models.heads import ClassTokenMasks
from samunet.sam.backbones import backbone_named
from samunet.sam.build import build_sam

NANO = backbone_named("vit_nano")


def test_with_sams_four_tokens_the_decoder_is_sams():
    sam = build_sam(NANO, (64, 96))
    torch.manual_seed(0)
    for parameter in sam.mask_decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    own = {name: tensor.clone() for name, tensor in sam.mask_decoder.state_dict().items()}
    embedding = torch.randn(3, 64, 4, 6)
    with torch.no_grad():
        sparse, dense = sam.prompt_encoder(points=None, boxes=None, masks=None)
        positions = sam.prompt_encoder.get_dense_pe()
        expected = [
            sam.mask_decoder.predict_masks(plane.unsqueeze(0), positions, sparse, dense)[0] for plane in embedding
        ]
        head = ClassTokenMasks(sam, 4, upsampling=4)
        head.mask_decoder.load_state_dict(own)
        assert torch.allclose(head(embedding), torch.cat(expected), atol=1e-5)


def test_what_has_a_twin_in_sam_starts_from_it():
    sam = build_sam(NANO, (64, 64))
    old = {name: tensor.clone() for name, tensor in sam.mask_decoder.state_dict().items()}
    new = ClassTokenMasks(sam, 3, upsampling=16).mask_decoder.state_dict()
    kept = {
        name for name in old if name in new and old[name].shape == new[name].shape and torch.equal(old[name], new[name])
    }
    assert {"iou_token.weight"} | {
        f"output_upscaling.{i}.{kind}" for i in (0, 1, 3) for kind in ("weight", "bias")
    } <= kept
    assert {name for name in old if name.startswith("transformer.")} <= kept
    assert new["mask_tokens.weight"].shape[0] == 3 and new["output_upscaling.9.weight"].shape == (4, 2, 2, 2)


def test_dense_positions_follow_their_formula_on_planes_that_are_not_square():
    encoder = build_sam(NANO, (48, 80)).prompt_encoder
    matrix = encoder.pe_layer.positional_encoding_gaussian_matrix
    dense = encoder.get_dense_pe()[0]
    assert dense.shape == (64, 3, 5)
    for i in range(3):
        for j in range(5):
            angles = 2 * math.pi * ((2 * torch.tensor([(j + 0.5) / 5, (i + 0.5) / 3]) - 1) @ matrix)
            assert torch.allclose(dense[:, i, j], torch.cat((angles.sin(), angles.cos())), atol=1e-4)
