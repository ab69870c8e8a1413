"""Medical SAM Adapter: its equations written out, published parameter counts, which slices meet, what trains."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from samunet.core.labels import parse_labels
from samunet.core.plan import Topology
from samunet.errors import ConfigError
from samunet.models.bottleneck import Bottleneck, BottleneckStyle
from samunet.models.spec import NetworkSpec
from samunet.sam.backbones import backbone_named
from samunet.sam.build import build_sam
from samunet.sam.encoder import attend_along_depth, embed_patches, encode
from samunet.variants import med_sa
from samunet.variants.med_sa.adapters import MedicalSites, PromptedBottleneck

NANO = backbone_named("vit_nano")
AT_RANDOM = BottleneckStyle(activation="relu", start_at_zero=False)
OF_ONE_ADAPTER = {"vit_b": 295_872, "vit_h": 820_800}


def spec_for(patch=(5, 64, 96), *, pretrained=True) -> NetworkSpec:
    topology = Topology(strides=((1, 1, 1),), kernels=((3, 3, 3),), widths=(8,))
    labels = parse_labels({"background": 0, "a": 1, "b": 2})
    return NetworkSpec(
        schemes=("ct",),
        labels=labels,
        spacing=(3.0, 1.0, 1.0),
        patch_size=patch,
        encoder_scale=1.0,
        topology=topology,
        pretrained=pretrained,
    )


def small(patch=(5, 64, 96), *, pretrained=True, **options):
    torch.manual_seed(0)
    network = med_sa.build(build_sam(NANO, patch[1:]), spec_for(patch, pretrained=pretrained), med_sa.Config(**options))
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad and not parameter.any():
                parameter.normal_(std=0.05)
    return network.eval()


def adapter(module: Bottleneck, x: torch.Tensor) -> torch.Tensor:
    return torch.relu(x @ module.down.weight.T + module.down.bias) @ module.up.weight.T + module.up.bias


@torch.no_grad()
def test_a_block_is_its_equations():
    """z = a + A_s(a) + A_d(attention along depth of u); x + z; y = LN(x); x + MLP(y) + 0.5 A_m(y).

    One sequence and one head at a time.
    """
    torch.manual_seed(0)
    encoder = build_sam(NANO, (64, 96)).image_encoder
    encoder.blocks = encoder.blocks[:1]
    block = encoder.blocks[0]
    width = encoder.pos_embed.shape[-1]
    site = MedicalSites(width, 8, AT_RANDOM, depth=True, scale=0.5)
    pixels = torch.randn(2, 3, 3, 64, 96)
    given = encode(encoder, embed_patches(encoder, pixels), [site], taps=(0,)).taps[0]

    x = embed_patches(encoder, pixels) + encoder.pos_embed
    u = block.norm1(x)
    a = attention_of(block, u)
    along = torch.zeros_like(a)
    heads = block.attn.num_heads
    for b in range(2):
        for row in range(x.shape[2]):
            for column in range(x.shape[3]):
                q, k, v = (block.attn.qkv(u[b, :, row, column])).unflatten(-1, (3, heads, -1)).unbind(1)
                mixed = [F.softmax(q[:, h] @ k[:, h].T / q.shape[-1] ** 0.5, dim=-1) @ v[:, h] for h in range(heads)]
                along[b, :, row, column] = block.attn.proj(torch.cat(mixed, dim=-1))
    z = a + adapter(site.space, a) + adapter(site.depth, along)
    x = x + z
    y = block.norm2(x)
    expected = x + block.mlp(y) + 0.5 * adapter(site.mlp, y)
    assert torch.allclose(given, expected, atol=1e-6, rtol=1e-5)


def attention_of(block, u: torch.Tensor) -> torch.Tensor:
    """SAM's own attention module, windows cut by the package."""
    from segment_anything.modeling.image_encoder import window_partition, window_unpartition

    planes = u.flatten(0, 1)
    if block.window_size == 0:
        return block.attn(planes).unflatten(0, u.shape[:2])
    windows, padded = window_partition(planes, block.window_size)
    return window_unpartition(block.attn(windows), block.window_size, padded, planes.shape[1:3]).unflatten(
        0, u.shape[:2]
    )


@torch.no_grad()
@pytest.mark.parametrize("layers", [1, 2])
def test_the_prompted_adapter_is_its_equation_token_by_token(layers):
    torch.manual_seed(1)
    module = PromptedBottleneck(16, 4, AT_RANDOM, layers=layers)
    tokens, prompts = torch.randn(2, 3, 16), torch.randn(2, 3, 16)
    given = module(tokens, prompts)
    for n in range(2):
        for t in range(3):
            e, p = module.down(tokens[n, t]), module.prompt(prompts[n, t])
            for made, norm in zip(module.maps, module.norms, strict=True):
                matrix = (made.weight @ p + made.bias).reshape(4, 4)
                e = torch.relu(norm(e @ matrix))
            assert torch.allclose(given[n, t], module.up(e), atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("form", ["add", "concat"])
def test_the_simpler_forms_of_the_ablation_use_the_prompt_too(form):
    torch.manual_seed(1)
    module = PromptedBottleneck(16, 4, AT_RANDOM, form=form)
    tokens, prompts = torch.randn(2, 3, 16), torch.randn(2, 3, 16)
    hidden, prompt = module.down(tokens), module.prompt(prompts)
    joined = hidden + prompt if form == "add" else module.join(torch.cat((hidden, prompt), -1))
    assert torch.allclose(module(tokens, prompts), module.up(torch.relu(joined)), atol=1e-6)


@pytest.mark.parametrize("name", ["vit_b", "vit_h"])
def test_parameter_counts_are_the_published_ones(name):
    backbone = backbone_named(name)
    with torch.device("meta"):
        network = med_sa.build(build_sam(backbone, (256, 256)), spec_for((4, 256, 256)), med_sa.Config())
    count = sum(parameter.numel() for parameter in network.sites.parameters())
    assert count == 3 * backbone.depth * OF_ONE_ADAPTER[name]
    assert not any(parameter.requires_grad for parameter in network.image_encoder.parameters())
    layers = network.head.mask_decoder.transformer.layers
    assert not any(parameter.requires_grad for parameter in layers[0].parameters())
    assert all(parameter.requires_grad for parameter in layers[1].parameters())


@torch.no_grad()
def test_slices_meet_in_a_windowed_block_alone_and_samples_do_not():
    torch.manual_seed(0)
    sam = build_sam(NANO, (128, 128), window=3)
    encoder = sam.image_encoder
    windowed = next(index for index, block in enumerate(encoder.blocks) if block.window_size)
    encoder.blocks = encoder.blocks[windowed : windowed + 1]
    width = encoder.pos_embed.shape[-1]
    site = MedicalSites(width, 8, AT_RANDOM, depth=True, scale=0.5)
    tokens = torch.randn(2, 6, 8, 8, width)
    moved = tokens.clone()
    moved[0, 3, 5, 6] += torch.randn(width)
    before, after = (encode(encoder, given, [site], taps=(0,)).taps[0] for given in (tokens, moved))
    changed = (before != after).any(-1)
    assert not changed[1].any()
    assert changed[0, :, 5, 6].all()  # the same place of every slice, slice 4 too
    others = changed[0, [0, 1, 2, 4, 5]]
    assert others.sum() == 5  # and no other place of other slices: windows are not taken for slices
    alone = MedicalSites(width, 8, AT_RANDOM, depth=False, scale=0.5)
    before, after = (encode(encoder, given, [alone], taps=(0,)).taps[0] for given in (tokens, moved))
    assert not (before != after).any(-1)[0, [0, 1, 2, 4, 5]].any()


@torch.no_grad()
def test_attention_along_depth_of_one_slice_is_its_value():
    torch.manual_seed(0)
    attention = build_sam(NANO, (64, 64)).image_encoder.blocks[0].attn
    qkv = torch.randn(1, 1, 2, 2, attention.qkv.out_features)
    value = qkv.chunk(3, dim=-1)[2]
    assert torch.allclose(attend_along_depth(attention, qkv), attention.proj(value), atol=1e-6)


def test_options_change_what_they_say():
    assert small(depth_attention=False).sites[0].depth is None and small((1, 64, 96)).sites[0].depth is None
    official = med_sa.build(build_sam(NANO, (64, 96)), spec_for(), med_sa.Config(initialization="official"))
    assert all(site.space.up.weight.any() for site in official.sites)
    assert isinstance(small(activation="gelu").sites[0].space.activation, torch.nn.GELU)
    for wrong in (
        {"activation": "swish"},
        {"prompted": "none"},
        {"ratio": 0.0},
        {"hyper_layers": 0},
        {"initialization": "random"},
    ):
        with pytest.raises(ConfigError, match="Option "):
            med_sa.Config(**wrong)


def test_one_token_steers_itself_only():
    network = small()
    prompted = network.head.sites[0].prompted
    tokens = torch.randn(2, 4, 64)
    prompts = torch.randn(2, 4, 64)
    moved = prompts.clone()
    moved[0, 1] += 1
    with torch.no_grad():
        changed = (prompted(tokens, prompts) != prompted(tokens, moved)).any(-1)
    assert changed.tolist() == [[False, True, False, False], [False] * 4]
