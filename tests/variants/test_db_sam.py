"""DB-SAM: deformable attention as loops, the start, the layouts' equations and published parameter counts."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from samunet.core.labels import parse_labels
from samunet.core.plan import Topology
from samunet.errors import ConfigError
from samunet.models.spec import NetworkSpec
from samunet.sam.backbones import backbone_named
from samunet.sam.build import build_sam
from samunet.sam.encoder import embed_patches, encode
from samunet.variants import db_sam
from samunet.variants.db_sam.branch import DualBranch, InTurn, SigmoidMix, SoftmaxMix
from samunet.variants.db_sam.deformable import POINTS, DeformableAttention

LAYOUTS = pytest.mark.parametrize("layout", ["plus", "two_branch"])
UNUSED_GATE, OPENING = 98_432, 768
WEIGHTS = {"plus": 66_141_824 - UNUSED_GATE, "two_branch": 69_370_049}
"""Of the released branch beside ViT-B, without a fifth gate of convolutions that it declares and leaves out."""


def small(patch=(3, 48, 80), **options):
    torch.manual_seed(0)
    spec = NetworkSpec(
        schemes=("ct",),
        labels=parse_labels({"background": 0, "a": 1, "b": 2}),
        spacing=(3.0, 1.0, 1.0),
        patch_size=patch,
        encoder_scale=1.0,
        topology=Topology(strides=((1, 1, 1),), kernels=((3, 3, 3),), widths=(8,)),
        pretrained=True,
    )
    network = db_sam.build(build_sam(backbone_named("vit_nano"), patch[1:]), spec, db_sam.Config(**options))
    return network.eval(), torch.randn(2, 1, *patch)


def attention(*, levels: int, width: int = 8, heads: int = 2) -> DeformableAttention:
    torch.manual_seed(0)
    layer = DeformableAttention(width, heads, levels)
    torch.nn.init.normal_(layer.offsets.weight, std=0.5)
    for start in (layer.shares.weight, layer.output.weight):
        torch.nn.init.normal_(start)
    return layer


def looked_up(plane: torch.Tensor, x: float, y: float) -> torch.Tensor:
    """(h, w, c) bilinear at a point in places, whose centers are halves; zero outside."""
    left, top = math.floor(x - 0.5), math.floor(y - 0.5)
    found = torch.zeros(plane.shape[2])
    for row, column in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
        if 0 <= row < plane.shape[0] and 0 <= column < plane.shape[1]:
            found += (1 - abs(y - 0.5 - row)) * (1 - abs(x - 0.5 - column)) * plane[row, column]
    return found


@torch.no_grad()
def test_deformable_attention_is_its_equation_in_loops():
    layer, (height, width) = attention(levels=3), (3, 5)
    queries, values = torch.randn(2, 2, height, width, 8), torch.randn(2, 3, height, width, 8)
    value, expected = layer.value(values), torch.zeros_like(queries)
    for plane, asking, row, column in torch.cartesian_prod(*map(torch.arange, queries.shape[:4])).tolist():
        query = queries[plane, asking, row, column]
        offsets = layer.offsets(query).view(2, 3, POINTS, 2)
        shares = layer.shares(query).view(2, 3 * POINTS).softmax(-1).view(2, 3, POINTS)
        for head, level, point in torch.cartesian_prod(torch.arange(2), torch.arange(3), torch.arange(POINTS)).tolist():
            x, y = (torch.tensor([column, row]) + 0.5 + offsets[head, level, point]).tolist()
            part = slice(4 * head, 4 * head + 4)
            found = looked_up(value[plane, level, ..., part], x, y)
            expected[plane, asking, row, column, part] += shares[head, level, point] * found
    assert torch.allclose(layer(queries, values), layer.output(expected), atol=1e-5)


@torch.no_grad()
def test_without_offsets_every_place_finds_the_mean_of_its_own_values():
    layer = attention(levels=2)
    for part in (layer.offsets, layer.shares):
        torch.nn.init.zeros_(part.weight)
        torch.nn.init.zeros_(part.bias)
    queries, values = torch.randn(1, 1, 5, 3, 8), torch.randn(1, 2, 5, 3, 8)
    assert torch.allclose(layer(queries, values)[:, 0], layer.output(layer.value(values).mean(1)), atol=1e-6)


def test_points_start_on_a_ray_of_each_head():
    """Four heads look right, down, left and up, one to four places far."""
    bias = DeformableAttention(8, 4, 2).offsets.bias.view(4, 2, POINTS, 2)
    rays = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    for level, point in ((0, 0), (0, 3), (1, 1)):
        assert torch.allclose(bias[:, level, point], (point + 1) * rays, atol=1e-6)


@LAYOUTS
@pytest.mark.parametrize("patch", [(3, 48, 80), (1, 16, 16)])
@torch.no_grad()
def test_the_encoder_starts_as_sam_bit_by_bit(layout, patch):
    network, image = small(patch, layout=layout)
    pixels, encoder = network.pixels(image), network.image_encoder
    plain = encode(encoder, embed_patches(encoder, pixels), network.sites).neck
    assert torch.equal(network.encode(pixels), plain)
    torch.nn.init.ones_(network.branch.fusion.opening)
    assert not torch.allclose(network.encode(pixels), plain, atol=1e-2)


@LAYOUTS
def test_the_branch_has_the_published_number_of_weights(layout):
    with torch.device("meta"):
        encoder = build_sam(backbone_named("vit_b"), (1024, 1024)).image_encoder
        branch = DualBranch(encoder, 1, layout, checkpointing=False)
    assert sum(parameter.numel() for parameter in branch.parameters()) == WEIGHTS[layout] + OPENING


def test_of_a_pretrained_encoder_the_neck_trains_and_the_blocks_do_not():
    encoder = small()[0].image_encoder
    trained = {name.split(".")[0] for name, parameter in encoder.named_parameters() if parameter.requires_grad}
    assert trained == {"neck"}


@torch.no_grad()
def test_in_turn_levels_look_at_the_tokens_before_those_look():
    torch.manual_seed(0)
    meeting = InTurn(8, 2).eval()
    for parameter in meeting.parameters():
        parameter.copy_(torch.randn(parameter.shape) / 4)
    tokens, levels = torch.randn(2, 3, 5, 8), torch.randn(2, 4, 3, 5, 8)
    normal = F.layer_norm(tokens, (8,), meeting.norm.weight, meeting.norm.bias, meeting.norm.eps)
    around = F.gelu(F.conv2d(normal.movedim(-1, 1), meeting.around.weight, padding=1, groups=8)).movedim(1, -1)
    first, _, second, _ = meeting.channels
    shares = (torch.relu(around.mean((1, 2)) @ first.weight.T) @ second.weight.T).sigmoid()
    convolved = (tokens + (around * shares[:, None, None]) @ meeting.out.weight.T).unsqueeze(1)
    found_tokens, found_levels = meeting(tokens, levels)
    assert torch.allclose(found_tokens, meeting.of_tokens(convolved, levels)[:, 0], atol=1e-5)
    assert torch.allclose(found_levels, meeting.of_levels(levels, convolved), atol=1e-5)


@torch.no_grad()
def test_fusions_mix_with_shares_that_add_up_to_one():
    torch.manual_seed(0)
    tokens, levels = torch.randn(2, 3, 5, 24), torch.randn(2, 4, 3, 5, 24)
    softmax, sigmoid = SoftmaxMix(24), SigmoidMix(24)
    shares = softmax.shares(tokens, levels)
    assert torch.allclose(shares.sum(1), torch.ones(2, 3, 5, 24)) and shares.std() > 1e-4
    same = torch.ones(2, 4, 3, 5, 24)
    assert torch.allclose(softmax(same[:, 0], same), same[:, 0])
    joined = sigmoid.joined(same.movedim(1, 3).flatten(3))
    assert torch.allclose(sigmoid(joined, same), joined, atol=1e-6)


def test_an_unknown_layout_is_refused():
    with pytest.raises(ConfigError, match="plus, two_branch; got 'both'"):
        db_sam.Config(layout="both")
