"""SAM's encoder against the segment_anything package, and weights against state dicts of the official layout."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from segment_anything.modeling import ImageEncoderViT

from samunet.errors import CheckpointError, ConfigError, ShapeError, WeightsAbsentError
from samunet.sam.backbones import BACKBONES, Backbone, backbone_named
from samunet.sam.build import build_sam
from samunet.sam.encoder import Sites, _run_block, embed_patches, encode, linear
from samunet.sam.weights import load_weights

NANO = backbone_named("vit_nano")


def randomize(module: torch.nn.Module) -> None:
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))


def encode_pixels(encoder: ImageEncoderViT, pixels: torch.Tensor) -> torch.Tensor:
    tokens = embed_patches(encoder, pixels.unsqueeze(0))
    return encode(encoder, tokens, [Sites() for _ in encoder.blocks]).neck[0]


@pytest.mark.parametrize("size", [(64, 64), (96, 96), (80, 80)])
def test_the_encoder_equals_segment_anything_through_padded_windows(size):
    sam = build_sam(NANO, size)  # window 4: 96 pixels are 6 tokens, padded to 8
    randomize(sam)
    pixels = torch.randn(3, 3, *size)
    with torch.no_grad():
        expected = sam.image_encoder(pixels)
        assert torch.allclose(encode_pixels(sam.image_encoder, pixels), expected, atol=2e-5)


def test_gradients_equal_segment_anything():
    sam = build_sam(NANO, (96, 96))
    randomize(sam)
    pixels = torch.randn(2, 3, 96, 96)
    weight = torch.randn(2, 64, 6, 6)
    expected = torch.autograd.grad((sam.image_encoder(pixels) * weight).sum(), list(sam.image_encoder.parameters()))
    given = torch.autograd.grad(
        (encode_pixels(sam.image_encoder, pixels) * weight).sum(), list(sam.image_encoder.parameters())
    )
    for a, b in zip(expected, given, strict=True):
        assert (a - b).abs().max() <= 1e-4 * a.abs().max() + 1e-6


def test_planes_need_not_be_square():
    sam = build_sam(NANO, (64, 112))
    randomize(sam)
    pixels = torch.randn(2, 3, 64, 112)
    with torch.no_grad():
        assert torch.allclose(encode_pixels(sam.image_encoder, pixels), sam.image_encoder(pixels), atol=2e-5)


def test_sizes_of_the_embedded_backbones():
    nano, tiny = (build_sam(backbone_named(name), (64, 64)) for name in ("vit_nano", "vit_tiny"))
    assert sum(parameter.numel() for parameter in nano.parameters()) < 300_000
    assert 6.0e6 < sum(parameter.numel() for parameter in tiny.image_encoder.parameters()) < 6.5e6
    assert tiny.mask_decoder.transformer_dim == 256


@pytest.mark.parametrize(
    ("name", "tensors", "parameters"),
    [("vit_b", 314, 89_670_912), ("vit_l", 482, 308_278_272), ("vit_h", 594, 637_026_048)],
)
def test_official_backbones_have_the_published_tensors_and_parameters(name, tensors, parameters):
    with torch.device("meta"):
        sam = build_sam(backbone_named(name), (1024, 1024))
    assert len(sam.state_dict()) == tensors
    assert sum(parameter.numel() for parameter in sam.image_encoder.parameters()) == parameters


def test_a_size_that_is_no_multiple_of_16_is_refused():
    with pytest.raises(ShapeError, match=r"multiples of 16 pixels; got \(64, 40\)"):
        build_sam(NANO, (64, 40))


def test_an_unknown_backbone_names_the_nearest():
    with pytest.raises(ConfigError, match="no backbone 'vit_tyni'. Did you mean 'vit_tiny'"):
        backbone_named("vit_tyni")


@pytest.fixture
def official(tmp_path):
    """A file in the official layout at 1024 pixels, with random weights of the smallest backbone."""
    sam = build_sam(NANO, (1024, 1024))
    randomize(sam)
    path = tmp_path / "sam_vit_nano.pth"
    torch.save(sam.state_dict(), path)
    return path


def test_weights_load_and_position_tables_are_resized_as_published(official):
    stored = torch.load(official, weights_only=True)
    sam = build_sam(NANO, (512, 512))
    load_weights(sam, NANO, official)
    loaded = sam.state_dict()
    # 64 to 32 tokens, bilinear without antialiasing, is the mean of 2 x 2 neighbours.
    table = stored["image_encoder.pos_embed"]
    mean = table.unflatten(1, (32, 2)).unflatten(3, (32, 2)).mean((2, 4))
    assert torch.allclose(loaded["image_encoder.pos_embed"], mean, atol=1e-6)
    windowed, everywhere = "image_encoder.blocks.0.attn.rel_pos_h", "image_encoder.blocks.1.attn.rel_pos_h"
    assert torch.equal(loaded[windowed], stored[windowed]) and loaded[windowed].shape[0] == 7
    assert loaded[everywhere].shape[0] == 63
    assert torch.allclose(loaded[everywhere][31], stored[everywhere][63], atol=1e-6)  # the center row stays
    unchanged = "mask_decoder.iou_token.weight"
    assert torch.equal(loaded[unchanged], stored[unchanged])


def test_safetensors_with_the_same_names_load_too(official, tmp_path):
    stored = torch.load(official, weights_only=True)
    save_file(stored, tmp_path / "sam.safetensors")
    first, second = (build_sam(NANO, (96, 64)) for _ in range(2))
    load_weights(first, NANO, official)
    load_weights(second, NANO, tmp_path / "sam.safetensors")
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


def test_a_missing_file_says_so_and_has_exit_code_4(tmp_path):
    with pytest.raises(WeightsAbsentError, match="does not exist") as caught:
        load_weights(build_sam(NANO, (64, 64)), NANO, tmp_path / "absent.pth")
    assert caught.value.exit_code == 4


def test_another_backbones_file_is_refused_in_one_sentence(official):
    other = Backbone(name="vit_other", width=96, depth=4, heads=3, global_blocks=(1, 3))
    with pytest.raises(
        CheckpointError, match=r"holds backbone vit_nano \(width 48, 4 blocks\); the plan asks for vit_other"
    ):
        load_weights(build_sam(other, (64, 64)), other, official)


def test_truncated_and_foreign_files_are_refused(official, tmp_path):
    broken = tmp_path / "broken.pth"
    broken.write_bytes(official.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_weights(build_sam(NANO, (64, 64)), NANO, broken)
    foreign = tmp_path / "foreign.pth"
    torch.save(
        {"image_encoder.pos_embed": torch.zeros(1, 4, 4, 48)}
        | {f"image_encoder.blocks.{i}.x": torch.zeros(1) for i in range(4)},
        foreign,
    )
    with pytest.raises(CheckpointError, match=r"201 missing .*; 4 unexpected"):
        load_weights(build_sam(NANO, (64, 64)), NANO, foreign)


def test_a_pickle_that_runs_code_is_refused(tmp_path):
    import pickle

    canary = tmp_path / "canary"

    class Attack:
        def __reduce__(self):
            return (canary.touch, ())

    path = tmp_path / "attack.pth"
    path.write_bytes(pickle.dumps({"image_encoder.pos_embed": Attack()}, protocol=2))
    with pytest.raises(CheckpointError):
        load_weights(build_sam(NANO, (64, 64)), NANO, path)
    assert not canary.exists()


def test_backbone_names_are_unique():
    assert len({backbone.name for backbone in BACKBONES}) == len(BACKBONES)


@pytest.mark.parametrize("size", [(512, 512), (1024, 256)])
def test_vit_b_equals_segment_anything(size):
    # Two blocks of ViT-B's width, a windowed and a global one, and its 64 tokens in one direction keep this within
    # seconds; benchmarks/encoder.py checks all twelve, and all 64 x 64 tokens.
    backbone = Backbone(name="vit_b", width=768, depth=2, heads=12, global_blocks=(1,))
    sam = build_sam(backbone, size)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in sam.image_encoder.named_parameters():
            if "rel_pos" in name or "pos_embed" in name:
                parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))
        pixels = torch.randn(1, 3, *size, generator=generator)
        expected = sam.image_encoder(pixels)
        assert (encode_pixels(sam.image_encoder, pixels) - expected).abs().max() <= 2e-5
    assert (
        encode_pixels(sam.image_encoder, pixels) - expected
    ).abs().max() <= 2e-5  # with gradients attention takes another form


def test_checkpointing_changes_no_gradient():
    sam = build_sam(NANO, (96, 64))
    randomize(sam)
    pixels = torch.randn(1, 2, 3, 96, 64)
    slopes = []
    for checkpointing in (False, True):
        tokens = embed_patches(sam.image_encoder, pixels)
        result = encode(
            sam.image_encoder, tokens, [Sites() for _ in sam.image_encoder.blocks], checkpointing=checkpointing
        ).neck
        slopes.append(torch.autograd.grad(result.square().sum(), list(sam.image_encoder.parameters())))
    assert all(torch.allclose(a, b, rtol=1e-5, atol=1e-6) for a, b in zip(*slopes, strict=True))


def test_the_encoder_compiles_into_one_graph():
    sam = build_sam(NANO, (64, 64))
    sites = [Sites() for _ in sam.image_encoder.blocks]
    tokens = torch.randn(1, 2, 4, 4, 48)

    def run(tokens):
        return encode(sam.image_encoder, tokens, sites).neck

    compiled = torch.compile(run, backend="eager", fullgraph=True)
    for mode in (torch.no_grad, torch.enable_grad):
        with mode():
            assert torch.allclose(compiled(tokens), run(tokens), atol=1e-6)


class Everywhere(Sites):
    """Adds a known increment at every site."""

    def before_attention(self, tokens):
        return 0.1 * tokens

    def qkv_update(self, tokens):
        return torch.cat((tokens, 0 * tokens, tokens), dim=-1)

    def after_attention(self, tokens):
        return 0.2 * tokens

    def beside_mlp(self, tokens):
        return 0.3 * tokens


def test_sites_act_where_their_names_say():
    # Windows of one block are 14 wide and the grid is 4: with window 0 the block can be written out in the package's
    # own modules.
    sam = build_sam(NANO, (64, 64), window=0)
    randomize(sam)
    tokens = torch.randn(1, 1, 4, 4, 48)
    block = sam.image_encoder.blocks[0]
    with torch.no_grad():
        given = _run_block(block, tokens, Everywhere())[:, 0]
        x = 1.1 * tokens[:, 0]
        plain, y = block.attn.qkv, block.norm1(x)
        identity = torch.eye(48)
        update = torch.cat((identity, torch.zeros(48, 48), identity))
        weight = plain.weight.clone()
        plain.weight += update
        x = 1.2 * (x + block.attn(y))
        plain.weight.copy_(weight)
        y = block.norm2(x)
        assert torch.allclose(given, x + block.mlp(y) + 0.3 * y, atol=2e-5)


def test_a_load_report_counts_every_tensor(official):
    sam = build_sam(NANO, (512, 512))
    report = load_weights(sam, NANO, official)
    # One absolute table, and two relative tables in each of the two global blocks.
    assert len(report.resized) == 5 and len(report.loaded) == len(sam.state_dict()) - 5
    assert not report.missing and not report.unexpected and not report.misfitting
    assert str(report) == f"{len(sam.state_dict())} tensors loaded, 5 of them resized to the plan's token grid"


@pytest.mark.parametrize("shape", [(3, 512), (2, 3, 5, 4, 512), (1, 7, 6, 512)])
@pytest.mark.parametrize("outputs", [512, 640])
def test_a_wide_layer_gives_the_same_without_a_gradient_and_in_half_precision_too(shape, outputs):
    layer, tokens = torch.nn.Linear(512, outputs), torch.randn(shape)
    wanted = layer(tokens)
    assert torch.equal(linear(layer, tokens), wanted)
    with torch.no_grad():
        given = linear(layer, tokens)
        assert given.shape == wanted.shape and torch.allclose(given, wanted, atol=1e-5)
        strided = torch.randn(*shape[:-1], 1024)[..., ::2]
        assert torch.allclose(linear(layer, strided), layer(strided), atol=1e-5)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(linear(layer, tokens), layer(tokens)) and linear(layer, tokens).dtype is torch.bfloat16
