"""AutoSAM: the start, where the dense prompt lies and what it does, what the constant encoder sees, what trains."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from samunet.core.batch import Batch
from samunet.core.labels import parse_labels
from samunet.core.plan import Topology
from samunet.errors import ConfigError
from samunet.models.prompt_free import slicewise
from samunet.models.spec import NetworkSpec
from samunet.sam.backbones import backbone_named
from samunet.sam.build import build_sam
from samunet.variants import autosam

SPEC = NetworkSpec(
    schemes=("ct",),
    labels=parse_labels({"background": 0, "a": 1, "b": 2}),
    spacing=(3.0, 1.0, 1.0),
    patch_size=(4, 32, 48),
    encoder_scale=2.0,
    topology=Topology(
        strides=((1, 1, 1), (1, 2, 2), (2, 2, 2), (1, 2, 2)),
        kernels=((1, 3, 3), *((3, 3, 3),) * 3),
        widths=(4, 8, 12, 16),
    ),
    pretrained=True,
)


def small(*, prompting: bool = False, **options):
    torch.manual_seed(0)
    network = autosam.build(build_sam(backbone_named("vit_nano"), (64, 96)), SPEC, autosam.Config(**options)).eval()
    if prompting:
        torch.nn.init.normal_(network.prompt.out.weight)
    return network, torch.randn(2, 1, *SPEC.patch_size)


@pytest.mark.parametrize("encoder", ["sam", "constant"])
@torch.no_grad()
def test_the_network_starts_without_a_prompt(encoder):
    network, image = small(encoder=encoder)
    plain = slicewise(network.head, network.encode(network.pixels(image))).movedim(2, 1)
    assert torch.equal(network(image), network.fit(plain, image.shape[2:]))


@torch.no_grad()
def test_a_constant_encoder_leaves_the_image_to_the_prompt():
    for encoder in ("sam", "constant"):
        network, image = small(encoder=encoder)
        same = torch.equal(network(image), network(-image))
        assert same == (encoder == "constant")
    network, image = small(encoder="constant", prompting=True)
    assert not torch.allclose(network(image), network(-image))


@torch.no_grad()
def test_a_constant_encoder_sees_what_sam_makes_of_a_black_plane():
    network, image = small(encoder="constant")
    black = -torch.tensor([123.675, 116.28, 103.53]) / torch.tensor([58.395, 57.12, 57.375])  # SAM's mean and deviation
    expected = network.image_encoder(black.view(1, 3, 1, 1).expand(1, 3, 64, 96))
    embedding = network.encode(network.pixels(image))
    assert torch.allclose(embedding, expected.expand(2, 4, -1, -1, -1), atol=1e-5)


@torch.no_grad()
def test_features_are_taken_at_the_centers_of_tokens():
    """A token of 8 voxels, on features of 2 x 4 x 4 voxels that hold their own centers."""
    network, _ = small()
    axes = (torch.arange(count) * step + (step - 1) / 2 for count, step in ((2, 2.0), (8, 4.0), (12, 4.0)))
    features = torch.stack(torch.meshgrid(*axes, indexing="ij"))[None]
    found = network.prompt.at_tokens(features, torch.Size(SPEC.patch_size), (4, 6))
    assert found.shape == (1, 4, 4, 6, 3)
    assert torch.allclose(found[0, :, 0, 0, 0], torch.tensor([0.5, 1.0, 2.0, 2.5]))  # the outer half repeats
    assert torch.allclose(found[0, 0, :, 0, 1], torch.arange(4) * 8 + 3.5)
    assert torch.allclose(found[0, 0, 0, :, 2], torch.arange(6) * 8 + 3.5)


@torch.no_grad()
def test_a_prompt_lies_between_minus_one_and_one():
    network, image = small(prompting=True)
    prompt = network.prompt(image, (4, 6))
    assert prompt.shape == (2, 4, 64, 4, 6) and prompt.abs().max() <= 1 and prompt.std() > 0.1


@torch.no_grad()
def test_the_prompt_acts_as_that_of_a_mask():
    """Segment Anything's own decoder, asked with a mask, where the network's prompt is that mask's embedding."""
    network, image = small()
    prompts, decoder = network.head.prompt_encoder, network.head.mask_decoder
    network.prompt.forward = lambda image, grid: dense - prompts.no_mask_embed.weight.view(1, 1, -1, 1, 1)
    sparse, embedded = prompts(points=None, boxes=None, masks=torch.randn(8, 1, 16, 24))
    dense = embedded.unflatten(0, (2, 4))
    features = network.encode(network.pixels(image)).flatten(0, 1)
    places = prompts.pe_layer((4, 6))[None]
    masks = [
        decoder.predict_masks(features[i : i + 1], places, sparse[i : i + 1], embedded[i : i + 1])[0] for i in range(8)
    ]
    expected = network.fit(torch.cat(masks).unflatten(0, (2, 4)).movedim(2, 1), image.shape[2:])
    assert torch.allclose(network(image), expected, atol=1e-5)
    assert not torch.allclose(small()[0](image), expected, atol=1e-3)


def test_of_empty_planes_it_learns_an_empty_prediction():
    network, image = small()
    empty = Batch(image=image, label=torch.zeros(2, *SPEC.patch_size, dtype=torch.int16))
    trained = [parameter for parameter in network.train().parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trained, 1e-2)
    assert network(image).argmax(1).any()
    for _ in range(30):
        optimizer.zero_grad()
        sum(network.loss(empty).values()).backward()
        optimizer.step()
    assert not network.eval()(image).argmax(1).any()


@torch.no_grad()
def test_kept_embeddings_give_the_same_logits(tmp_path):
    network, image = small(prompting=True)
    expected = network(image)
    assert network.keep_embeddings(tmp_path)
    assert torch.allclose(network(image), expected, atol=1e-5) and torch.equal(network(image), network(image))
    assert len([*tmp_path.rglob("*.safetensors")]) == 8 and not small(encoder="constant")[0].keep_embeddings(tmp_path)


@pytest.mark.parametrize("channels", [1, 2])
def test_of_a_pretrained_sam_only_what_knows_the_classes_trains(channels):
    spec = replace(SPEC, schemes=("ct",) * channels)
    network = autosam.build(build_sam(backbone_named("vit_nano"), (64, 96)), spec, autosam.Config())
    assert not network.embed(network.pixels(torch.zeros(1, channels, *SPEC.patch_size)))[0].requires_grad
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    parts = {".".join(name.split(".")[:3]) for name in trained if not name.startswith("prompt.")}
    new = {f"head.mask_decoder.{part}" for part in ("mask_tokens", "output_hypernetworks_mlps")}
    assert parts - {"head.mask_decoder.iou_prediction_head"} == new  # the quality head has no loss
    assert trained > {name for name, _ in network.named_parameters() if name.startswith("prompt.")}


@pytest.mark.parametrize(("scale", "stage"), [(0.5, 3), (1.0, 3), (2.0, 2), (4.0, 1), (8.0, 0), (16.0, 0)])
def test_the_unet_goes_up_to_two_steps_a_token(scale, stage):
    """Stages are 1, 2, 4 and 8 voxels apart; a token covers 16 voxels over the scale."""
    assert autosam.last_stage(replace(SPEC, encoder_scale=scale)) == stage


def test_an_unknown_encoder_is_refused():
    with pytest.raises(ConfigError, match="sam, constant; got 'none'"):
        autosam.Config(encoder="none")
