"""sam_unet's options: each leaves out what it names, and the control is the U-Net alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from samunet.core.batch import Batch
from samunet.core.labels import parse_labels
from samunet.core.plan import Topology
from samunet.errors import ConfigError
from samunet.models.convolution import ConvNormAct
from samunet.models.depth_adapters import DepthAdapter
from samunet.models.spec import NetworkSpec
from samunet.models.unet import Decoder, Encoder, kaiming_block
from samunet.models.unet_rules import convolution_weights
from samunet.sam.backbones import backbone_named, encoder_size
from samunet.sam.build import build_sam
from samunet.variants import sam_unet
from samunet.variants.sam_unet.network import Gate

SPEC = NetworkSpec(
    schemes=("zscore",),
    labels=parse_labels({"background": 0, "a": 1}),
    spacing=(3.0, 1.0, 1.0),
    patch_size=(4, 32, 32),
    encoder_scale=4.0,
    topology=Topology(
        strides=((1, 1, 1), (1, 2, 2), (1, 2, 2), (2, 2, 2)), kernels=((1, 3, 3),) * 4, widths=(4, 8, 12, 16)
    ),
    pretrained=False,
)


def network_of(spec=SPEC, **options):
    torch.manual_seed(0)
    return sam_unet.build(
        build_sam(backbone_named("vit_nano"), encoder_size((32, 32), 4.0)), spec, sam_unet.Config(**options)
    )


@pytest.mark.parametrize(
    ("options", "absent"),
    [
        ({"class_tokens": False}, "head."),
        ({"depth_adapters": "no"}, "sam.sites."),
        ({"injection": "one"}, "injections.1."),
        ({"sam_path": False}, "sam."),
        ({"deep_supervision": False}, "outputs.1."),
    ],
)
def test_an_option_leaves_out_what_it_names_and_the_rest_trains(options, absent):
    whole, network = network_of(depth_adapters="yes"), network_of(**{"depth_adapters": "yes", **options})
    assert any(name.startswith(absent) for name, _ in whole.named_parameters())
    assert not any(name.startswith(absent) for name, _ in network.named_parameters())
    batch = Batch(image=torch.randn(1, 1, 4, 32, 32), label=torch.ones(1, 4, 32, 32).short())
    sum(network.loss(batch).values()).backward()
    grouped = [parameter for group in network.parameter_groups() for parameter in group.parameters]
    assert len(grouped) == len(list(network.parameters()))
    assert network.eval()(batch.image).shape == (1, 2, 4, 32, 32)


def test_the_control_is_the_network_at_its_start():
    whole, control = network_of().eval(), network_of(sam_path=False).eval()
    control.load_state_dict(
        {
            name: tensor
            for name, tensor in whole.state_dict().items()
            if not name.startswith(("sam.", "injections.", "head."))
        }
    )
    image = torch.randn(1, 1, 4, 32, 32)
    with torch.no_grad():
        assert torch.equal(whole(image), control(image))


def test_adapters_come_with_a_frozen_encoder_unless_told_otherwise():
    def adapted(pretrained, **options):
        network = network_of(replace(SPEC, pretrained=pretrained), **options)
        return any(isinstance(module, DepthAdapter) for module in network.modules())

    assert adapted(True) and not adapted(False)
    assert adapted(False, depth_adapters="yes") and not adapted(True, depth_adapters="no")


def test_wrong_options_are_refused():
    with pytest.raises(ConfigError, match="depth_adapters must be one of auto, yes, no"):
        sam_unet.Config(depth_adapters="maybe")
    with pytest.raises(ConfigError, match="injection must be one of deep, one"):
        sam_unet.Config(injection="two")
    with pytest.raises(ConfigError, match="token_source must be one of"):
        sam_unet.Config(token_source="image")


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "topology",
    [
        SPEC.topology,
        Topology(
            strides=((1, 1, 1), (1, 2, 2), (2, 2, 2)), kernels=((1, 3, 3), (3, 3, 3), (3, 3, 3)), widths=(8, 16, 32)
        ),
        Topology(strides=((1, 1, 1),), kernels=((3, 3, 3),), widths=(5,)),
    ],
)
def test_the_planner_counts_the_weights_that_the_network_has(topology, channels):
    paths = Encoder(channels, topology), Decoder(topology)
    assert convolution_weights(channels, topology) == sum(
        parameter.numel() for path in paths for parameter in path.parameters()
    )


def test_convolutions_of_the_u_net_start_by_kaimings_rule():
    """By hand: 27 * 32 inputs and a leaky slope of 0.01 give a deviation of sqrt(2 / (1 + 0.01**2) / 864) = 0.0481."""
    torch.manual_seed(0)
    convolution, norm, activation = kaiming_block(32, 64, (3, 3, 3))
    assert convolution.weight.std().item() == pytest.approx(0.0481, rel=0.02) and not convolution.bias.any()
    assert convolution.weight.abs().max() > 3.5 * 0.0481  # a normal distribution; a uniform one ends at 1.7
    assert norm.eps == 1e-5 and activation.negative_slope == 0.01
    paths = Encoder(1, SPEC.topology), Decoder(SPEC.topology)
    for path in paths:
        for block in path.modules():
            if isinstance(block, ConvNormAct):
                fan_in = block[0].weight[0].numel()
                assert block[0].weight.std().item() == pytest.approx((2 / 1.0001 / fan_in) ** 0.5, rel=0.35)


def test_a_gate_is_closed_and_opens_by_the_root_of_its_inputs():
    gate = Gate(16, 3)
    features = torch.ones(1, 16, 2, 2, 2)
    assert not gate(features).any()
    with torch.no_grad():
        gate.weight += 1e-3  # what a step of sign descent may do
    assert torch.allclose(gate(features), torch.full((1, 3, 2, 2, 2), 1e-3 * 16**0.5))
