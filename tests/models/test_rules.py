"""What methods around an adapted SAM ask of a plan."""

from __future__ import annotations

import pytest

from samunet.core.labels import parse_labels
from samunet.core.plan import Topology
from samunet.errors import ConfigError
from samunet.models.rules import PromptSimulation, kept_blocks, preferred, step_gib
from samunet.models.spec import NetworkSpec
from samunet.sam.backbones import backbone_named

TOPOLOGY = Topology(strides=((1, 1, 1),), kernels=((3, 3, 3),), widths=(8,))
SPEC = NetworkSpec(
    schemes=("ct",),
    labels=parse_labels({"background": 0, "a": 1}),
    spacing=(3.0, 1.0, 1.0),
    patch_size=(4, 64, 64),
    encoder_scale=2.0,
    topology=TOPOLOGY,
    pretrained=True,
)


def test_small_classes_get_a_finer_encoder_grid_within_512_pixels():
    def scales(side, diameter):
        return [choice.scale for choice in preferred(TOPOLOGY, (5, side, 96), diameter)]

    assert scales(128, 8.0)[0] == 4.0  # 4 * 8 = 32 pixels, two tokens
    assert scales(128, 2.0)[0] == 4.0  # 512 / 128 allows no more
    assert scales(256, 2.0) == [2.0, 1.75, 1.5, 1.25, 1.0]
    assert scales(128, 100.0) == scales(700, 3.0) == [1.0]


def test_blocks_that_are_run_again_are_not_kept():
    backbone = backbone_named("vit_b")
    assert kept_blocks(backbone, False) == 12 and kept_blocks(backbone, True) == pytest.approx(2.5 + 12 / 18)


def test_a_step_needs_more_for_whatever_keeps_more():
    backbone = backbone_named("vit_b")

    def gib(**options):
        return step_gib(SPEC, backbone, 2, **({"adapter_width": 64, "upsampling": 4} | options))

    assert gib(encoder_learns=False) < gib(checkpointing=True) < gib() < gib(upsampling=16)
    assert gib() < gib(adapter_width=256) and gib() < gib(decoder_runs=5)


@pytest.mark.parametrize(
    "wrong", [{"prompts": "scribble"}, {"points": 0}, {"rounds": 0}, {"box_overlap": 0.0}, {"box_relaxation": -1}]
)
def test_prompts_that_cannot_be_simulated_are_refused(wrong):
    with pytest.raises(ConfigError):
        PromptSimulation(**wrong)
