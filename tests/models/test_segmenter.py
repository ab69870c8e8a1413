"""Which parameters train alike, and at which share of the rate."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from samunet.core.batch import Batch
from samunet.models.segmenter import SlabSegmenter, groups_around
from samunet.sam.backbones import backbone_named
from samunet.sam.build import build_sam


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = build_sam(backbone_named("vit_nano"), (64, 64)).image_encoder
        self.head = nn.Linear(2, 2)


def rates(network: Network, decay: float) -> dict[str, float]:
    groups = groups_around(network, network.encoder, layer_decay=decay)
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    assert sum(len(group.parameters) for group in groups) == len(names)
    backbone = {id(parameter) for parameter in network.encoder.parameters()}
    for group in groups:
        assert {id(parameter) in backbone for parameter in group.parameters} == {group.part == "backbone"}
    return {names[id(parameter)]: group.scale for group in groups for parameter in group.parameters}


def test_earlier_layers_train_more_slowly():
    """By hand: four blocks; the neck and the head at the whole rate, the patch embedding before the first block."""
    found = rates(Network(), 0.5)
    blocks = [found[f"encoder.blocks.{index}.norm1.weight"] for index in range(4)]
    assert blocks == [0.5**4, 0.5**3, 0.5**2, 0.5]
    assert found["encoder.pos_embed"] == found["encoder.patch_embed.proj.weight"] == 0.5**5
    assert found["encoder.neck.0.weight"] == found["head.weight"] == 1.0


def test_without_decay_the_encoder_is_one_group():
    network = Network()
    groups = groups_around(network, network.encoder)
    assert [group.part for group in groups] == ["head", "backbone"] and set(rates(network, 1.0).values()) == {1.0}


def test_what_is_frozen_is_in_no_group():
    network = Network()
    network.encoder.requires_grad_(False)
    (group,) = groups_around(network, network.encoder)
    assert group.part == "head" and len(group.parameters) == 2


def test_the_loss_is_made_of_the_sums():
    class Summed(SlabSegmenter):
        def sums(self, batch):
            return {"n": torch.tensor(float(batch.label.numel()))}

        def terms(self, sums):
            return {"half": sums["n"] / 2}

    batch = Batch(image=torch.zeros(1, 1, 2, 3, 3), label=torch.zeros(1, 2, 3, 3))
    assert Summed().loss(batch) == {"half": torch.tensor(9.0)}


def test_a_network_without_the_verbs_says_so():
    for verb in ("forward", "sums", "terms"):
        with pytest.raises(NotImplementedError):
            getattr(SlabSegmenter(), verb)(torch.zeros(1))
    with pytest.raises(NotImplementedError):
        SlabSegmenter().parameter_groups()
