"""MA-SAM: published parameter counts, the plain loops of its equations, the authors' checkpoint format."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from samunet.checkpoints.ma_sam import load_official, official_state
from samunet.core.batch import Batch
from samunet.core.labels import parse_labels
from samunet.core.plan import Topology
from samunet.errors import CheckpointError, ConfigError
from samunet.models.spec import NetworkSpec
from samunet.sam.backbones import backbone_named
from samunet.sam.build import build_sam
from samunet.sam.encoder import embed_patches, encode
from samunet.variants import ma_sam

NANO = backbone_named("vit_nano")
ENCODERS = {"vit_b": 87_278_848, "vit_l": 305_099_776, "vit_h": 633_052_928}
ADAPTERS = {"vit_b": 24_818_688, "vit_l": 59_099_136, "vit_h": 91_414_528}
FACT = {"vit_b": 73_728, "vit_l": 114_688, "vit_h": 147_456}
TRAINABLE = {"vit_b": 30_142_361, "vit_l": 64_463_769, "vit_h": 96_811_929}


def spec_for(classes: int, patch=(5, 64, 64), *, scale=1.0, pretrained=True) -> NetworkSpec:
    labels = parse_labels({"background": 0} | {f"class {value}": value for value in range(1, classes + 1)})
    topology = Topology(strides=((1, 1, 1),), kernels=((3, 3, 3),), widths=(8,))
    return NetworkSpec(
        schemes=("ct",),
        labels=labels,
        spacing=(3.0, 1.0, 1.0),
        patch_size=patch,
        encoder_scale=scale,
        topology=topology,
        pretrained=pretrained,
    )


def small(classes=2, patch=(5, 64, 96), *, perturbed=False, **options):
    torch.manual_seed(0)
    spec = spec_for(classes, patch)
    network = ma_sam.build(build_sam(NANO, patch[1:]), spec, ma_sam.Config(adapter_width=24, rank=8, **options))
    if perturbed:
        with torch.no_grad():
            for parameter in network.parameters():
                if parameter.requires_grad and not parameter.any():
                    parameter.normal_(std=0.05)
    return network.eval()


def count(parameters) -> int:
    return sum(parameter.numel() for parameter in parameters)


@pytest.mark.parametrize("name", ["vit_b", "vit_l", "vit_h"])
@pytest.mark.parametrize(("classes", "decoder"), [(1, 3_768_042), (12, 5_243_725)])
def test_parameter_counts_are_the_published_ones(name, classes, decoder):
    with torch.device("meta"):
        network = ma_sam.build(
            build_sam(backbone_named(name), (512, 512)), spec_for(classes, (5, 512, 512)), ma_sam.Config()
        )
    assert count(network.image_encoder.parameters()) == ENCODERS[name]
    assert not any(parameter.requires_grad for parameter in network.image_encoder.parameters())
    adapters = [site for sites in network.sites for site in (sites.before, sites.after)]
    assert sum(count(adapter.parameters()) for adapter in adapters) == ADAPTERS[name]
    assert count(network.sites.parameters()) == ADAPTERS[name] + FACT[name]
    assert count(network.head.prompt_encoder.parameters()) == 6_220
    assert count(network.head.mask_decoder.parameters()) == decoder
    trainable = count(parameter for parameter in network.parameters() if parameter.requires_grad)
    assert trainable == TRAINABLE[name] - 5_243_725 + decoder


@pytest.mark.parametrize(("name", "width"), [("vit_h", 384), ("vit_b", 384), ("vit_tiny", 96), ("vit_nano", 24)])
def test_adapters_are_at_most_half_as_wide_as_tokens(name, width):
    with torch.device("meta"):
        sites = ma_sam.adapters(build_sam(backbone_named(name), (64, 64)), ma_sam.Config())
    assert sites[0].before.up.in_features == sites[0].after.up.in_features == width


def test_the_adapted_encoder_equals_its_equations_written_out():
    network = small(perturbed=True)
    pixels = torch.randn(2, 5, 3, 64, 96)
    with torch.no_grad():
        given = encode(network.image_encoder, embed_patches(network.image_encoder, pixels), network.sites).neck
        # The same with folded slices, the package's own attention and window functions, and FacT merged by hand.
        from segment_anything.modeling.image_encoder import window_partition, window_unpartition

        encoder = network.image_encoder
        x = encoder.patch_embed(pixels.flatten(0, 1)) + encoder.pos_embed

        def adapter(part, tokens):
            squeezed = F.linear(
                F.layer_norm(tokens, tokens.shape[-1:], part.norm.weight, part.norm.bias, 1e-6), part.down.weight
            )
            slab = squeezed.view(2, 5, *squeezed.shape[1:]).permute(0, 4, 1, 2, 3)
            mixed = F.conv3d(slab, part.depth.weight, part.depth.bias, padding=(1, 0, 0))
            return F.linear(F.gelu(mixed.permute(0, 2, 3, 4, 1).flatten(0, 1)), part.up.weight)

        for block, sites in zip(encoder.blocks, network.sites, strict=True):
            x = x + adapter(sites.before, x)
            kept = block.attn.qkv.weight.clone()
            width = x.shape[-1]
            u, v = sites.factors.down.weight, sites.factors.up.weight
            block.attn.qkv.weight[:width] += v @ sites.query.weight @ u
            block.attn.qkv.weight[2 * width :] += v @ sites.value.weight @ u
            y = block.norm1(x)
            if block.window_size:
                windows, padded = window_partition(y, block.window_size)
                y = window_unpartition(block.attn(windows), block.window_size, padded, x.shape[1:3])
            else:
                y = block.attn(y)
            block.attn.qkv.weight.copy_(kept)
            x = x + y
            x = x + adapter(sites.after, x)
            x = x + block.mlp(block.norm2(x))
        expected = encoder.neck(x.permute(0, 3, 1, 2))
    assert torch.allclose(given.flatten(0, 1), expected, atol=2e-5)


def test_with_closed_adapters_a_slab_is_its_slices_in_sam():
    network = small(initialization="zero")
    pixels = torch.randn(1, 5, 3, 64, 96)
    with torch.no_grad():
        given = encode(network.image_encoder, embed_patches(network.image_encoder, pixels), network.sites).neck[0]
        assert torch.allclose(given, network.image_encoder(pixels[0]), atol=2e-5)
    with torch.no_grad():
        open_ = small()
        different = encode(open_.image_encoder, embed_patches(open_.image_encoder, pixels), open_.sites).neck[0]
        assert not torch.allclose(different, open_.image_encoder(pixels[0]), atol=1e-3)  # the authors start at random


def test_permuting_slabs_permutes_logits():
    network = small(perturbed=True)
    image = torch.randn(3, 1, 5, 64, 96)
    with torch.no_grad():
        assert torch.allclose(network(image)[[2, 0, 1]], network(image[[2, 0, 1]]), atol=1e-5)


def test_merged_updates_give_the_same_logits():
    network = small(perturbed=True)
    image = torch.randn(1, 1, 5, 64, 96)
    with torch.no_grad():
        before = network(image)
        network.merge()
        assert torch.allclose(network(image), before, atol=1e-4)
        network.merge()  # a second time changes nothing
        assert torch.allclose(network(image), before, atol=1e-4)


def test_the_authors_format_has_their_names_and_comes_back():
    network = small(perturbed=True)
    stored = official_state(network)
    assert stored["q_FacTs_003"].shape == stored["v_FacTs_000"].shape == (8, 8)
    assert stored["image_encoder.FacTu.weight"].shape == (8, 48) and stored["image_encoder.FacTv.weight"].shape == (
        48,
        8,
    )
    block = "image_encoder.ImageEncoderViT.blocks.1.Block.adapter_"
    assert {name.removeprefix(block) for name in stored if name.startswith(block)} == {
        f"{part}{suffix}.{kind}"
        for suffix in ("", "_2")
        for part, kinds in {"norm": "wb", "linear_down": "w", "conv": "wb", "linear_up": "w"}.items()
        for kind in ({"w": "weight", "b": "bias"}[letter] for letter in kinds)
    }
    assert stored[block + "conv.weight"].shape == (24, 24, 3, 1, 1)
    assert {
        "prompt_encoder.no_mask_embed.weight",
        "mask_decoder.output_upscaling.9.weight",
        "mask_decoder.mask_tokens.weight",
    } <= set(stored)
    other = small()
    other.image_encoder.load_state_dict(network.image_encoder.state_dict())
    load_official(other, stored)
    image = torch.randn(1, 1, 5, 64, 96)
    with torch.no_grad():
        assert torch.equal(other(image), network(image))


def test_another_networks_file_is_refused_and_changes_nothing():
    network = small()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    stored = official_state(small(classes=3))
    with pytest.raises(CheckpointError, match=r"unexpected \(mask_decoder.output_hypernetworks_mlps.3"):
        load_official(network, stored)
    wider = {
        name: tensor if "FacTu" not in name else torch.zeros(9, 48) for name, tensor in official_state(network).items()
    }
    with pytest.raises(
        CheckpointError, match=r"'image_encoder.FacTu.weight' has shape \(9, 48\), the network needs \(8, 48\)"
    ):
        load_official(network, wider)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_the_first_loss_is_the_authors():
    # Their log: cross-entropy 2.561 for twelve classes, near ln 13 = 2.565, since logits start near zero. Then p = 1/13
    # everywhere, and labels drawn evenly give Dice 2/13^2 / (1/13^2 + 1/13) = 1/7 a class.
    network = small(classes=12)
    label = torch.randint(0, 13, (2, 5, 64, 96), generator=torch.Generator().manual_seed(1)).short()
    with torch.no_grad():
        terms = network.loss(Batch(image=torch.randn(2, 1, 5, 64, 96), label=label))
    assert terms["ce"].item() == pytest.approx(0.2 * 2.565, abs=0.01)
    assert terms["dice"].item() == pytest.approx(0.8 * 6 / 7, abs=0.005)


def test_options_out_of_range_are_refused():
    for options, word in (
        ({"initialization": "random"}, "official, zero"),
        ({"rank": -1}, "rank"),
        ({"dropout": 1.0}, "dropout"),
    ):
        with pytest.raises(ConfigError, match=word):
            ma_sam.Config(**options)
    with pytest.raises(ConfigError, match="upsampling must be 4 or 16; got 8"):
        small(upsampling=8)
    with pytest.raises(ConfigError, match="pixel_range must be one of sam, unit"):
        small(pixel_range="ct")
