"""SAM's mask decoder against the segment_anything package, in values and gradients, its sites and its switches."""

from __future__ import annotations

import pytest
import torch

from samunet.sam.backbones import backbone_named
from samunet.sam.build import build_sam
from samunet.sam.decoder import (
    DecoderSites,
    _run_layer,
    _Told,
    decode,
    dense_positions,
    mask_weights,
    masks_from,
    own_tokens,
    without_mask,
)


@pytest.fixture
def setup():
    torch.manual_seed(0)
    sam = build_sam(backbone_named("vit_nano"), (64, 96))
    transformer, encoding = sam.mask_decoder.transformer, sam.prompt_encoder.pe_layer
    for parameter in transformer.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return transformer, encoding, torch.randn(2, 64, 4, 6), torch.randn(2, 5, 64)


def run(transformer, encoding, planes, tokens, **options):
    """Tokens and places as the package's transformer gives them."""
    given = decode(transformer, encoding, planes, tokens, dense=torch.zeros(1, 64, 1, 1), **options)
    return given.tokens, given.places.flatten(2).transpose(1, 2)


def test_it_equals_segment_anything_in_values_and_gradients(setup):
    transformer, encoding, planes, tokens = setup
    expected = transformer(planes, dense_positions(encoding, (4, 6)).expand(2, -1, -1, -1), tokens)
    given = run(*setup)
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
    run(*setup, sites=[Increments(seen=seen) for _ in range(3)])
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
    transformer, encoding, planes, tokens = setup
    layer = transformer.layers[1]
    image, places = (part.flatten(2).transpose(1, 2) for part in (planes, dense_positions(encoding, (4, 6))))
    queries = torch.randn(2, 5, 64)
    given = _run_layer(layer, queries, image, tokens, places, Increments(where), _Told(tokens))
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

    plain, changed = run(*setup), run(*setup, sites=[DecoderSites(), DecoderSites(), Doubled()])
    # The last attention alone changes: its values grow by one everywhere, so its output by W_out 1.
    transformer = setup[0]
    assert torch.equal(plain[1], changed[1]) and not torch.allclose(plain[0], changed[0])
    assert transformer.final_attn_token_to_image.internal_dim == 32


@pytest.fixture
def sam():
    torch.manual_seed(0)
    sam = build_sam(backbone_named("vit_nano"), (64, 96))
    for parameter in (*sam.mask_decoder.parameters(), *sam.prompt_encoder.parameters()):
        torch.nn.init.normal_(parameter, std=0.2)
    return sam


def decoded(sam, embedding, **options):
    decoder, prompts = sam.mask_decoder, sam.prompt_encoder
    settings = {"dense": without_mask(prompts)} | options
    return decode(decoder.transformer, prompts.pe_layer, embedding, own_tokens(decoder), **settings)


@torch.no_grad()
def test_masks_with_prompts_are_those_of_segment_anything(sam):
    decoder, embedding = sam.mask_decoder, torch.randn(1, 64, 4, 6)
    sparse, dense = sam.prompt_encoder(
        points=(torch.tensor([[[20.0, 30.0]]]), torch.tensor([[1]])), boxes=None, masks=torch.randn(1, 1, 16, 24)
    )
    expected, _ = decoder.predict_masks(embedding, sam.prompt_encoder.get_dense_pe(), sparse, dense)
    given = decoded(sam, embedding, dense=dense, prompts=sparse)
    for mask in range(4):
        found = masks_from(decoder, given, mask_weights(decoder, given, mask))
        assert torch.allclose(found, expected[:, mask], atol=1e-5)


@torch.no_grad()
def test_prompts_that_fill_up_change_nothing(sam):
    embedding, prompts = torch.randn(2, 64, 4, 6), torch.randn(2, 3, 64)
    shown = torch.tensor([[True, True, False], [True, True, True]])
    filled = decoded(sam, embedding, prompts=prompts, shown=shown)
    alone = decoded(sam, embedding[:1], prompts=prompts[:1, :2])
    assert torch.allclose(filled.tokens[0, :7], alone.tokens[0], atol=1e-5)
    assert torch.allclose(filled.places[0], alone.places[0], atol=1e-5)


@torch.no_grad()
def test_a_guide_hides_places_from_tokens(sam):
    """Places that no token sees have a part in no token, so that they may hold anything."""
    embedding = torch.randn(2, 64, 4, 6)
    guide = torch.ones(2, 5, 4, 6, dtype=torch.bool)
    guide[0, :, :, 3:] = False
    other = embedding.clone()
    other[0, :, :, 3:] += 5
    one, two = (decoded(sam, planes, guide=guide.flatten(2)).tokens for planes in (embedding, other))
    plain, moved = (decoded(sam, planes).tokens for planes in (embedding, other))
    assert torch.allclose(one, two, atol=1e-5) and not torch.allclose(plain[0], moved[0], atol=1e-2)
    numbers = torch.zeros(2, 5, 24).masked_fill(~guide.flatten(2), -1e9)
    assert torch.allclose(decoded(sam, embedding, guide=numbers).tokens, one, atol=1e-5)


@torch.no_grad()
def test_what_is_added_along_depth_joins_the_positions_of_a_slice(sam):
    embedding, along = torch.randn(2, 64, 4, 6), torch.randn(2, 64)
    decoder, prompts = sam.mask_decoder, sam.prompt_encoder
    given = decoded(sam, embedding, along=along)
    positions = prompts.get_dense_pe() + along[:, :, None, None]
    tokens, places = decoder.transformer(
        embedding + without_mask(prompts), positions, own_tokens(decoder).expand(2, -1, -1)
    )
    assert torch.allclose(given.tokens, tokens, atol=1e-5)
    assert torch.allclose(given.places.flatten(2).transpose(1, 2), places, atol=1e-5)


def weighted(attention, query, key, value, factors):
    """An attention written out for each head, whose weights are multiplied after their softmax."""
    query, key, value = attention.q_proj(query), attention.k_proj(key), attention.v_proj(value)
    width = query.shape[-1] // attention.num_heads
    heads = []
    for head in range(attention.num_heads):
        q, k, v = (part[..., head * width : (head + 1) * width] for part in (query, key, value))
        heads.append(((q @ k.transpose(1, 2) / width**0.5).softmax(-1) * factors) @ v)
    return attention.out_proj(torch.cat(heads, dim=-1))


@torch.no_grad()
def test_tokens_may_attend_to_the_image_first_and_a_prior_multiplies_the_weights_of_the_layers(setup):
    transformer, encoding, planes, tokens = setup
    prior = torch.rand(2, 5, 24)
    given = run(*setup, prior=prior, cross_first=True)
    image, places = (part.flatten(2).transpose(1, 2) for part in (planes, dense_positions(encoding, (4, 6))))
    x = tokens
    for layer in transformer.layers:
        to_image, to_tokens = layer.cross_attn_token_to_image, layer.cross_attn_image_to_token
        x = layer.norm2(x + weighted(to_image, x + tokens, image + places, image, prior))
        if layer.skip_first_layer_pe:
            x = layer.norm1(layer.self_attn(q=x, k=x, v=x))
        else:
            x = layer.norm1(x + layer.self_attn(q=x + tokens, k=x + tokens, v=x))
        x = layer.norm3(x + layer.mlp(x))
        image = layer.norm4(image + weighted(to_tokens, image + places, x + tokens, x, prior.transpose(1, 2)))
    last = transformer.final_attn_token_to_image
    x = transformer.norm_final_attn(x + last(q=x + tokens, k=image + places, v=image))
    assert torch.allclose(given[0], x, atol=2e-5) and torch.allclose(given[1], image, atol=2e-5)


@torch.no_grad()
def test_a_prior_of_ones_changes_nothing_and_keeps_what_a_guide_hides(sam):
    embedding, ones = torch.randn(2, 64, 4, 6), torch.ones(2, 5, 24)
    hidden = torch.rand(2, 5, 24) > 0.3
    for guide in (None, hidden, torch.zeros(2, 5, 24).masked_fill(~hidden, -1e9)):
        one, two = decoded(sam, embedding, guide=guide), decoded(sam, embedding, guide=guide, prior=ones)
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(one, two, strict=True))


def test_sites_hear_the_tokens_and_what_is_told_beside(sam):
    heard = []

    class Listening(DecoderSites):
        def beside_attention(self, attention, attended, prompts):
            heard.append(prompts)

    mean = torch.randn(2, 1, 64)
    decoded(sam, torch.randn(2, 64, 4, 6), mean=mean, sites=[Listening(), DecoderSites(), DecoderSites()])
    assert all(torch.equal(prompts, own_tokens(sam.mask_decoder) + mean) for prompts in heard) and len(heard) == 3
