"""MaskSAM: its adapters written out, published counts, which loss reaches which head, and which slices meet."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from samunet.core.batch import Batch
from samunet.core.labels import parse_labels
from samunet.core.plan import Topology
from samunet.errors import ConfigError
from samunet.models.bottleneck import Bottleneck, BottleneckStyle
from samunet.models.spec import NetworkSpec
from samunet.sam.backbones import backbone_named, encoder_size
from samunet.sam.build import build_sam
from samunet.sam.encoder import encode
from samunet.variants import masksam
from samunet.variants.masksam.adapters import (
    DepthConvolution,
    DepthOfTokens,
    MaskSites,
    SlabOfQueries,
    mask_decoder_adapters,
)
from samunet.variants.masksam.matching import tight_boxes
from samunet.variants.masksam.queries import along_depth

NANO = backbone_named("vit_nano")
AT_RANDOM = BottleneckStyle(start_at_zero=False)


def spec_for(patch=(4, 32, 48), *, classes=3, scale=2.0, pretrained=True) -> NetworkSpec:
    topology = Topology(strides=((1, 1, 1), (1, 2, 2)), kernels=((1, 3, 3), (3, 3, 3)), widths=(8, 16))
    labels = parse_labels({"background": 0} | {f"class {value}": value for value in range(1, classes + 1)})
    return NetworkSpec(
        schemes=("ct",),
        labels=labels,
        spacing=(3.0, 1.0, 1.0),
        patch_size=patch,
        encoder_scale=scale,
        topology=topology,
        pretrained=pretrained,
    )


def small(*, pretrained=True, patch=(4, 32, 48), **options):
    torch.manual_seed(0)
    spec = spec_for(patch, pretrained=pretrained)
    network = masksam.build(build_sam(NANO, encoder_size(patch[1:], 2.0)), spec, masksam.Config(**options))
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad and not parameter.any():
                parameter.normal_(std=0.05)
    return network


def batch_of(patch=(4, 32, 48), size=2) -> Batch:
    generator = torch.Generator().manual_seed(1)
    label = torch.randint(0, 4, (size, *patch), generator=generator).to(torch.int16)
    return Batch(image=torch.randn(size, 1, *patch, generator=generator), label=label)


@torch.no_grad()
def test_the_encoders_adapter_is_its_equation():
    """D(x) = W2 (g + GELU(LN(DWConv(g)))), g = GELU(W1 x), one channel at a time on the true depth axis."""
    torch.manual_seed(0)
    width, hidden = 12, 3
    module = Bottleneck(width, hidden, AT_RANDOM, DepthConvolution(hidden))
    x = torch.randn(2, 4, 5, 6, width)
    g = F.gelu(x @ module.down.weight.T + module.down.bias)
    padded = F.pad(g, (0, 0, 1, 1, 1, 1, 1, 1))
    mixed = torch.zeros_like(g)
    kernel = module.middle.convolution.weight[:, 0]
    for d in range(3):
        for row in range(3):
            for column in range(3):
                mixed += padded[:, d : d + 4, row : row + 5, column : column + 6] * kernel[:, d, row, column]
    mixed += module.middle.convolution.bias
    centered = mixed - mixed.mean(-1, keepdim=True)
    normed = (
        centered / (centered.square().mean(-1, keepdim=True) + 1e-6).sqrt() * module.middle.norm.weight
        + module.middle.norm.bias
    )
    expected = (g + F.gelu(normed)) @ module.up.weight.T + module.up.bias
    assert torch.allclose(module(x), expected, atol=1e-6)


@torch.no_grad()
def test_the_decoders_adapter_is_its_equation():
    """W2 (g + v), v = V2 GELU(V1 g) along depth, for every query, token and channel by itself."""
    torch.manual_seed(0)
    batch, depth, queries, tokens, width = 2, 3, 2, 4, 8
    adapters = mask_decoder_adapters(2, width, 2, AT_RANDOM, depth=depth)
    site = SlabOfQueries(adapters[0], (batch, depth, queries), (2, 2))
    module = adapters[0].attentions["self"]
    x = torch.randn(batch * depth * queries, tokens, width)
    given = site.beside_attention("self", x, x).reshape(batch, depth, queries, tokens, width)
    g = F.gelu(x @ module.down.weight.T + module.down.bias).reshape(batch, depth, queries, tokens, 2)
    first, _, second = module.middle.mix
    v = torch.zeros_like(g)
    for b in range(batch):
        for q in range(queries):
            for t in range(tokens):
                for c in range(2):
                    v[b, :, q, t, c] = (
                        second.weight @ F.gelu(first.weight @ g[b, :, q, t, c] + first.bias) + second.bias
                    )
    assert torch.allclose(given, (g + v) @ module.up.weight.T + module.up.bias, atol=1e-6)


@torch.no_grad()
def test_the_image_side_adapter_sees_the_volume_of_each_query():
    torch.manual_seed(0)
    adapters = mask_decoder_adapters(1, 8, 2, AT_RANDOM, depth=None)
    site = SlabOfQueries(adapters[0], (2, 3, 2), (2, 3))
    x = torch.randn(12, 6, 8)
    given = site.beside_attention("image_to_token", x, x).reshape(2, 3, 2, 2, 3, 8)
    volumes = x.reshape(2, 3, 2, 2, 3, 8)
    for b in range(2):
        for q in range(2):
            expected = adapters[0].attentions["image_to_token"](volumes[b, :, q].unsqueeze(0))[0]
            assert torch.allclose(given[b, :, q], expected, atol=1e-6)


@pytest.mark.parametrize(("name", "published"), [("vit_b", 7.24e6), ("vit_h", 53.15e6)])
def test_the_encoders_adapters_have_the_published_size(name, published):
    backbone = backbone_named(name)
    with torch.device("meta"):
        sites = [MaskSites(backbone.width, backbone.width // 4, BottleneckStyle()) for _ in range(backbone.depth)]
    count = sum(parameter.numel() for site in sites for parameter in site.parameters())
    assert count == pytest.approx(published, rel=1e-3)


@pytest.mark.parametrize("depth", [4, 9, 26])
def test_the_decoders_adapters_have_the_published_size(depth):
    adapter = Bottleneck(256, 64, BottleneckStyle(), DepthOfTokens(64, depth))
    assert sum(parameter.numel() for parameter in adapter.parameters()) == 33_088 + 8 * depth**2 + 5 * depth


@torch.no_grad()
def test_slices_meet_in_a_windowed_block_alone_and_samples_do_not():
    torch.manual_seed(0)
    encoder = build_sam(NANO, (128, 128), window=3).image_encoder
    windowed = next(index for index, block in enumerate(encoder.blocks) if block.window_size)
    encoder.blocks = encoder.blocks[windowed : windowed + 1]
    width = encoder.pos_embed.shape[-1]
    tokens = torch.randn(2, 6, 8, 8, width)
    moved = tokens.clone()
    moved[0, 3, 5, 6] += torch.randn(width)
    site = MaskSites(width, 8, AT_RANDOM)
    before, after = (encode(encoder, given, [site], taps=(0,)).taps[0] for given in (tokens, moved))
    changed = (before != after).any(-1)
    assert not changed[1].any()
    # Through attention the whole window of slice 3 moves; two convolutions carry it to slices 1 to 5, and nowhere near
    # the far corner.
    assert [bool(changed[0, depth].any()) for depth in range(6)] == [False, True, True, True, True, True]
    assert not changed[0, [1, 2, 4, 5], 0, 0].any()


def test_each_loss_reaches_the_heads_that_it_should():
    """Auxiliary masks and boxes are cut off before the decoder: only their own losses teach their heads."""
    network = small()
    heads = {
        "mask": network.generator.mask.weight,
        "box": network.generator.box[0].weight,
        "token": network.generator.token[0].weight,
    }
    reached = {}
    for name, term in network.loss(batch_of()).items():
        slopes = torch.autograd.grad(term, list(heads.values()), retain_graph=True, allow_unused=True)
        reached[name] = {head for head, slope in zip(heads, slopes, strict=True) if slope is not None and slope.any()}
    combined = {"combined ce": {"token"}, "combined dice": {"token"}}
    own = {"class": {"token"}, "mask": {"token"}, "auxiliary": {"mask"}, "box": {"box"}, "giou": {"box"}}
    assert reached == own | combined
    assert small(compat="paper").loss(batch_of()).keys() == own.keys()
    own = torch.autograd.grad(network.loss(batch_of())["auxiliary"], [network.generator.first[0][0].weight])[0]
    assert own.any()  # the trunk learns from the auxiliary masks


def test_everything_of_sam_is_frozen_around_the_adapters():
    network = small()
    names = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    frozen = ("image_encoder.", "head.prompt_encoder.", "head.mask_decoder.")
    assert not [name for name in names if name.startswith(frozen)]
    parts = {"pixels", "sites", "depth_embedding", "generator", "head", "refine"}
    assert {name.split(".")[0] for name in names} == parts


@torch.no_grad()
@pytest.mark.parametrize("compat", ["samunet", "paper"])
def test_prediction_is_the_sum_over_queries_of_class_times_mask(compat):
    """Background is a class like others in the paper; here it is where no query has a class."""
    network = small(compat=compat).eval()
    image = batch_of().image
    _, answers = network._answers(image)
    logits = network(image)
    masks = network._fit(answers.masks, image.shape[2:]).sigmoid()
    first = 0 if compat == "paper" else 1
    chances, nothing = torch.zeros(2, 4, *image.shape[2:]), torch.ones(2, *image.shape[2:])
    for query in range(masks.shape[1]):
        shares = answers.classes[:, :, query].softmax(-1)[..., None, None]
        assert shares.shape[2] == 5 - first  # the last is "no object"
        for c in range(first, 4):
            chances[:, c] += shares[:, :, c - first] * masks[:, query]
        nothing *= 1 - (1 - shares[:, :, -1]) * masks[:, query]
    if compat == "samunet":
        chances[:, 0] = nothing
    assert torch.allclose(logits.softmax(1), chances / chances.sum(1, keepdim=True), atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(("scale", "doublings"), [(1.0, 2), (2.0, 1), (4.0, 0)])
def test_masks_come_at_the_resolution_of_voxels_and_start_as_the_decoders(scale, doublings):
    torch.manual_seed(0)
    patch = (2, 32, 48)
    network = masksam.build(
        build_sam(NANO, encoder_size(patch[1:], scale)), spec_for(patch, scale=scale), masksam.Config()
    )
    image = torch.randn(1, 1, *patch)
    masks = network._answers(image)[1].masks
    assert torch.equal(network._fit(masks, image.shape[2:]), masks)
    assert masks.shape == (1, 8, *patch) and (network.refine is None) == (doublings == 0)
    network.refine = None
    coarse = network._answers(image)[1].masks
    assert torch.equal(masks, F.interpolate(coarse, size=patch, mode="trilinear"))


@torch.no_grad()
def test_the_number_of_slices_is_free_with_convolutions():
    network = small().eval()
    assert network(torch.randn(1, 1, 7, 32, 48)).shape == (1, 4, 7, 32, 48)
    assert torch.equal(along_depth(torch.arange(8.0).reshape(4, 2), 4), torch.arange(8.0).reshape(4, 2))
    assert torch.allclose(along_depth(torch.tensor([[0.0], [1.0]]), 4)[:, 0], torch.tensor([0.0, 0.25, 0.75, 1.0]))


def test_the_loss_of_a_batch_is_that_of_its_parts_together():
    network, batch = small(), batch_of()
    whole = network.loss(batch)
    parts = [network.sums(Batch(image=batch.image[i : i + 1], label=batch.label[i : i + 1])) for i in range(2)]
    joined = network.terms({name: parts[0][name] + parts[1][name] for name in parts[0]})
    assert all(torch.allclose(whole[name], joined[name], rtol=1e-4) for name in whole)


def test_two_discs_are_learned():
    patch = (2, 32, 32)
    torch.manual_seed(0)
    network = masksam.build(
        build_sam(NANO, patch[1:]), spec_for(patch, classes=2, scale=1.0, pretrained=False), masksam.Config()
    ).train()
    rows, columns = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    label = torch.zeros(1, *patch, dtype=torch.int16)
    for value, (row, column) in enumerate(((9, 10), (22, 21)), start=1):
        label[:, :, (rows - row) ** 2 + (columns - column) ** 2 < 50] = value
    batch = Batch(
        image=torch.tensor([0.0, 2.0, -2.0])[label.long()].unsqueeze(1) + 0.2 * torch.randn(1, 1, *patch), label=label
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    for _ in range(50):
        optimizer.zero_grad()
        sum(network.loss(batch).values()).backward()
        optimizer.step()
    network.eval()
    with torch.no_grad():
        found = network(batch.image).argmax(1)
    dice = [
        2 * ((found == value) & (label == value)).sum() / ((found == value).sum() + (label == value).sum())
        for value in (1, 2)
    ]
    assert min(dice) > 0.8, dice


def test_the_generator_joins_four_blocks_where_all_attend_globally_too():
    for window in (0, None):
        network = masksam.build(
            build_sam(backbone_named("vit_tiny"), (64, 96), window=window), spec_for(), masksam.Config()
        )
        assert network.taps == (2, 5, 8, 11) and len(network.generator.ups) == 4


@pytest.mark.parametrize(("outputs", "queries"), [(2, 8), (4, 8), (9, 16), (14, 24), (16, 24), (41, 64)])
def test_the_number_of_queries_follows_the_classes(outputs, queries):
    assert masksam.Config().queries_for(outputs) == queries and masksam.Config(queries=7).queries_for(outputs) == 7


def test_what_cannot_be_is_refused():
    sam = build_sam(NANO, (64, 96))
    with pytest.raises(ConfigError, match="queries is 2, and 3 structures of one slice need one each"):
        masksam.build(sam, spec_for(), masksam.Config(queries=2))
    with pytest.raises(ConfigError, match="queries is 3, and 4 structures"):  # with background
        masksam.build(sam, spec_for(), masksam.Config(queries=3, background="query"))
    masksam.build(sam, spec_for(), masksam.Config(queries=3, ratio=0.004))  # bottlenecks of one number
    with pytest.raises(ConfigError, match="encoder_scale must be 1, 2, 4"):
        masksam.build(sam, spec_for(scale=1.5), masksam.Config())
    for wrong in ({"match": "pixel"}, {"compat": "none"}, {"ratio": 2.0}, {"points": 0}, {"generator_doublings": 5}):
        with pytest.raises(ConfigError, match="Option "):
            masksam.Config(**wrong)


def test_encoder_scales_are_powers_of_two():
    topology = Topology(strides=((1, 1, 1),), kernels=((3, 3, 3),), widths=(8,))
    choices = masksam.preferred(topology, (8, 128, 128), 9.0)
    assert [choice.scale for choice in choices] == [2.0, 1.0] and all(
        math.log2(choice.scale).is_integer() for choice in choices
    )
    assert {(choice.depth, choice.slices) for choice in choices} == {(5, 8)}


@torch.no_grad()
@pytest.mark.parametrize("regions", [False, True])
def test_confident_queries_give_finite_logits_in_16_bits(regions):
    names = {"background": 0, "whole": [1, 2], "core": 2} if regions else {"background": 0, "a": 1, "b": 2}
    labels = parse_labels(names, [1, 2] if regions else None)
    torch.manual_seed(0)
    spec = replace(spec_for(), labels=labels)
    network = masksam.build(build_sam(NANO, (64, 96)), spec, masksam.Config()).eval()
    network.head.classify.bias[:] = torch.tensor([40.0, *[-40.0] * (len(network.head.classify.bias) - 1)])
    network.head.mask_decoder.output_hypernetworks_mlps[0].layers[-1].bias += 100
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(batch_of().image)
    assert logits.dtype == torch.float32 and logits.isfinite().all()


def test_what_lies_in_the_padding_is_neither_box_nor_prompt():
    network = small(patch=(2, 20, 40))  # 40 x 80 encoder pixels in 48 x 80
    assert network.encoder_size == (48, 80)
    with torch.no_grad():
        network.generator.mask.bias += 1000  # masks everywhere
        prompts, _ = network._answers(torch.randn(1, 1, 2, 20, 40))
    rows = prompts.shown.any(-1).any(0).any(0).any(0)
    assert rows.tolist() == [index < math.ceil(len(rows) * 40 / 48) for index in range(len(rows))]
    tight = tight_boxes(prompts.shown.movedim(1, 2))
    assert (tight[..., 3] <= 40 / 48 + 1 / len(rows)).all() and (tight[..., 2] == 1).all()
