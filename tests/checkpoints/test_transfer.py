"""Weights of one U-Net in another: what fits is loaded, and a slice alone gives what it gave."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from samunet.checkpoints.transfer import transfer
from samunet.core.labels import parse_labels
from samunet.core.plan import Topology
from samunet.core.prompts import INSIDE
from samunet.models.spec import NetworkSpec
from samunet.sam.backbones import backbone_named
from samunet.sam.build import build_sam
from samunet.variants.method import load_variant

FLAT = Topology(strides=((1, 1, 1), (1, 2, 2), (1, 2, 2)), kernels=((1, 3, 3),) * 3, widths=(4, 8, 12))
DEEP = Topology(strides=((1, 1, 1), (1, 2, 2), (2, 2, 2)), kernels=((3, 3, 3),) * 3, widths=(4, 8, 12))
SPEC = NetworkSpec(
    schemes=("zscore",),
    labels=parse_labels({"background": 0, "object": 1}),
    spacing=(1.0, 1.0, 1.0),
    patch_size=(1, 32, 32),
    encoder_scale=4.0,
    topology=FLAT,
    pretrained=False,
)


def made(seed, name="sam_unet_prompted", spec=SPEC, **options):
    torch.manual_seed(seed)
    method = load_variant(name)
    return method.build(build_sam(backbone_named("vit_nano"), (128, 128)), spec, method.read(options, "options")).eval()


def slab_spec(topology=DEEP, depth=4, **changes):
    return dataclasses.replace(SPEC, topology=topology, patch_size=(depth, 32, 32), **changes)


@torch.no_grad()
def test_equal_networks_take_over_everything():
    source, target = made(0), made(1)
    report = transfer(target, source.state_dict())
    assert not report.fresh and not report.adapted and not report.unused
    image = torch.randn(1, 1, 1, 32, 32)
    assert torch.equal(source(image), target(image))


@torch.no_grad()
def test_a_slab_of_equal_slices_gives_what_one_slice_gave():
    source, target = made(0, sam_path=False), made(1, sam_path=False, spec=slab_spec())
    report = transfer(target, source.state_dict())
    assert not report.fresh and any(name.startswith("decoder.upward") for name in report.adapted)
    image = torch.randn(1, 1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    one, slab = source(image), target(image.expand(-1, -1, 4, -1, -1))
    assert torch.allclose(slab, one.expand_as(slab), atol=1e-4)


@torch.no_grad()
def test_the_way_back_gives_what_the_middle_slices_kernels_give():
    source, target = made(0, sam_path=False, spec=slab_spec()), made(1, sam_path=False)
    report = transfer(target, source.state_dict())
    assert not report.fresh
    kernel = source.state_dict()["convolutions.stages.1.0.0.weight"]
    assert torch.equal(target.state_dict()["convolutions.stages.1.0.0.weight"], kernel[:, :, 1:2])


@torch.no_grad()
def test_levels_are_counted_from_full_resolution():
    deeper = Topology(strides=(*FLAT.strides, (1, 2, 2)), kernels=((1, 3, 3),) * 4, widths=(4, 8, 12, 12))
    spec = dataclasses.replace(SPEC, topology=deeper)
    source, target = made(0, sam_path=False), made(1, sam_path=False, spec=spec)
    report = transfer(target, source.state_dict())
    for level in ("decoder.levels.{}.0.weight", "decoder.upward.{}.weight"):
        assert torch.equal(target.state_dict()[level.format(2)], source.state_dict()[level.format(1)])
    assert {name for name in report.fresh if name.startswith("decoder")} >= {"decoder.levels.0.0.weight"}


@torch.no_grad()
def test_several_channels_share_the_weights_of_one():
    source, target = (
        made(0, sam_path=False),
        made(1, sam_path=False, spec=dataclasses.replace(SPEC, schemes=("zscore",) * 3)),
    )
    transfer(target, source.state_dict())
    image = torch.randn(1, 1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(source(image), target(image.expand(-1, 3, -1, -1, -1)), atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("widths", [(4, 8, 16), (6, 10, 20)])
def test_a_wider_network_gives_what_the_narrower_one_gave(widths):
    wide = dataclasses.replace(SPEC, topology=dataclasses.replace(FLAT, widths=widths))
    source, target = made(0, sam_path=False), made(1, sam_path=False, spec=wide)
    before = target.state_dict()["convolutions.stages.2.0.0.weight"].clone()
    report = transfer(target, source.state_dict())
    assert not report.fresh and not report.unused and "convolutions.stages.2.0.0.weight" in report.adapted
    after = target.state_dict()["convolutions.stages.2.0.0.weight"]
    assert torch.equal(after[12:], before[12:]) and not after[:12, 8:].any()
    image = torch.randn(2, 1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    drawn = torch.zeros(2, 1, 1, 32, 32, dtype=torch.uint8)
    drawn[:, :, :, 9, 9] = INSIDE
    assert torch.allclose(source(image, drawn), target(image, drawn), atol=1e-5)
    answers = [net.masks(net.encode_image(image), drawn[:, 0], torch.arange(2)) for net in (source, target)]
    expected = [
        net.quality(answer.features, answer.levels[0]) for net, answer in zip((source, target), answers, strict=True)
    ]
    assert torch.allclose(*expected, atol=1e-5)


def test_a_narrower_network_is_left_as_it_began():
    thin = dataclasses.replace(FLAT, widths=(4, 8, 8))
    source, target = made(0, sam_path=False), made(1, sam_path=False, spec=dataclasses.replace(SPEC, topology=thin))
    before = target.state_dict()["convolutions.stages.2.0.0.weight"].clone()
    report = transfer(target, source.state_dict())
    assert "convolutions.stages.2.0.0.weight" in report.fresh and "convolutions.stages.1.0.0.weight" in report.loaded
    assert torch.equal(target.state_dict()["convolutions.stages.2.0.0.weight"], before)
    assert "of another shape (convolutions.stages.2.0.0.bias, " in str(report)


@pytest.mark.parametrize("options", [{"sam_path": False}, {}])
def test_the_default_network_takes_convolutions_from_a_promptable_one(options):
    source, target = made(0, **options), made(1, name="sam_unet", **options)
    report = transfer(target, source.state_dict())
    fresh = {name.split(".")[0] for name in report.fresh}
    assert fresh <= {"outputs", "head"} and {name.split(".")[0] for name in report.unused} <= {
        "outputs",
        "stem",
        "quality",
        "tokens",
    }


@torch.no_grad()
def test_gates_of_sams_features_go_with_their_stage():
    strides, kernels = ((1, 1, 1), *((1, 2, 2),) * 4), ((1, 3, 3),) * 5
    topology = Topology(strides=strides, kernels=kernels, widths=(4, 8, 8, 8, 8))
    specs = [
        dataclasses.replace(SPEC, topology=topology, patch_size=(1, 64, 64), encoder_scale=scale)
        for scale in (2.0, 4.0)
    ]
    source, target = made(0, "sam_unet", specs[0]), made(1, "sam_unet", specs[1])
    first, second = source.stage, target.stage
    assert first != second and min(len(net.injections) for net in (source, target)) > 1
    for number, gate in enumerate(source.injections):
        gate.weight.fill_(first + number)
    report = transfer(target, source.state_dict())
    shared = range(max(first, second), 5)
    assert all((target.injections[stage - second].weight == stage).all() for stage in shared)
    for stage in range(second, first):
        assert f"injections.{stage - second}.weight" in report.fresh
    one = made(0, "sam_unet", specs[0], injection="one")
    assert any(name.startswith("injections.") for name in transfer(one, source.state_dict()).fresh)


def test_outputs_of_other_classes_are_left_as_they_began():
    classes = parse_labels({"background": 0, "one": 1, "other": 2})
    source, target = made(0), made(1, "sam_unet", slab_spec(labels=classes))
    before = {name: tensor.clone() for name, tensor in target.state_dict().items() if name.startswith("outputs.")}
    report = transfer(target, source.state_dict())
    assert before and set(before) <= set(report.fresh)
    assert all(torch.equal(tensor, target.state_dict()[name]) for name, tensor in before.items())
