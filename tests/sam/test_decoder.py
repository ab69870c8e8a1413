"""SAM's two-way transformer against the segment_anything package, in values and gradients, and its sites."""

from __future__ import annotations

import pytest
import torch

from samunet.sam.backbones import backbone_named
from samunet.sam.build import build_sam
from samunet.sam.decoder import DecoderSites, _Prompts, _run_layer, dense_positions, run_two_way


@pytest.fixture
def setup():
    torch.manual_seed(0)
    transformer = build_sam(backbone_named("vit_nano"), (64, 96)).mask_decoder.transformer
    for parameter in transformer.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return transformer, torch.randn(2, 64, 4, 6), torch.randn(1, 64, 4, 6), torch.randn(2, 5, 64)


def test_it_equals_segment_anything_in_values_and_gradients(setup):
    transformer, planes, positions, tokens = setup
    expected = transformer(planes, positions.expand(2, -1, -1, -1), tokens)
    given = run_two_way(transformer, planes, positions, tokens)
    assert all(torch.allclose(a, b, atol=2e-5) for a, b in zip(given, expected, strict=True))
    weights = list(transformer.parameters())
    slopes = [
        torch.autograd.grad(sum(part.square().sum() for part in result), weights, allow_unused=True)
        for result in (expected, given)
    ]
    for a, b in zip(*slopes, strict=True):
        assert (a is None) == (b is None) and (
            a is None or (a - b).abs().max() <= 1e-4 * a.abs().max() + 1e-5
        )  # a bias of k has none but rounding


class Increments(DecoderSites):
    """Adds a known increment at one site and records the order of all."""

    def __init__(self, where=None, seen=None):
        super().__init__()
        self.where, self.seen = where, [] if seen is None else seen

    def update(self, attention, query, key, value):
        self.seen.append((attention, query.shape[1], key.shape[1], value.shape[1]))
        return None, None, None

    def beside_attention(self, attention, attended, prompts):
        self.seen.append((f"beside {attention}", attended.shape[1], prompts.shape[1]))
        return 0.5 * attended if attention == self.where else None

    def beside_mlp(self, tokens):
        self.seen.append(("mlp", tokens.shape[1]))
        return 0.5 * tokens if self.where == "mlp" else None


def test_sites_are_called_in_the_order_that_they_say(setup):
    seen = []
    run_two_way(*setup, sites=[Increments(seen=seen) for _ in range(3)])
    layer = [
        ("self", 5, 5, 5),
        ("beside self", 5, 5),
        ("token_to_image", 5, 24, 24),
        ("beside token_to_image", 5, 5),
        ("mlp", 5),
        ("image_to_token", 24, 5, 5),
        ("beside image_to_token", 24, 5),
    ]
    assert seen == [*layer, *layer, ("token_to_image", 5, 24, 24), ("beside token_to_image", 5, 5)]


@pytest.mark.parametrize("where", ["self", "token_to_image", "mlp", "image_to_token"])
def test_increments_enter_where_their_sites_say(setup, where):
    transformer, planes, positions, tokens = setup
    layer = transformer.layers[1]
    image, places = planes.flatten(2).transpose(1, 2), positions.flatten(2).transpose(1, 2)
    queries = torch.randn(2, 5, 64)
    given = _run_layer(layer, queries, image, tokens, places, Increments(where), _Prompts(tokens, None))
    factor = {name: 1.5 if name == where else 1.0 for name in ("self", "token_to_image", "image_to_token")}
    # The layer written out in the package's own attentions.
    x = layer.norm1(queries + factor["self"] * layer.self_attn(q=queries + tokens, k=queries + tokens, v=queries))
    x = layer.norm2(
        x + factor["token_to_image"] * layer.cross_attn_token_to_image(q=x + tokens, k=image + places, v=image)
    )
    x = layer.norm3(x + layer.mlp(x) + (0.5 * x if where == "mlp" else 0))
    y = layer.norm4(
        image + factor["image_to_token"] * layer.cross_attn_image_to_token(q=image + places, k=x + tokens, v=x)
    )
    assert torch.allclose(given[0], x, atol=2e-5) and torch.allclose(given[1], y, atol=2e-5)


def test_positions_keep_full_precision_under_autocast():
    encoding = build_sam(backbone_named("vit_nano"), (64, 96)).prompt_encoder.pe_layer
    with torch.autocast("cpu", dtype=torch.bfloat16):
        given = dense_positions(encoding, (4, 6))
    assert given.dtype == torch.float32 and torch.equal(given, encoding((4, 6)).unsqueeze(0))


def test_a_site_may_change_q_k_and_v(setup):
    class Doubled(DecoderSites):
        def update(self, attention, query, key, value):
            return None, None, torch.ones(value.shape[0], value.shape[1], 32) if attention == "token_to_image" else None

    plain, changed = run_two_way(*setup), run_two_way(*setup, sites=[DecoderSites(), DecoderSites(), Doubled()])
    # The last attention alone changes: its values grow by one everywhere, so its output by W_out 1.
    transformer = setup[0]
    assert torch.equal(plain[1], changed[1]) and not torch.allclose(plain[0], changed[0])
    assert transformer.final_attn_token_to_image.internal_dim == 32
