"""SAMed and full fine-tuning: what starts as SAM, what trains at which rate, and where the loss is taken."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from samunet.core.batch import Batch
from samunet.core.labels import parse_labels
from samunet.core.plan import Topology
from samunet.errors import ConfigError
from samunet.models.spec import NetworkSpec
from samunet.sam.backbones import backbone_named
from samunet.sam.build import build_sam
from samunet.variants import frozen, full, samed

NANO = backbone_named("vit_nano")
SPEC = NetworkSpec(
    schemes=("zscore",),
    labels=parse_labels({"background": 0, "a": 1, "b": 2}),
    spacing=(3.0, 1.0, 1.0),
    patch_size=(3, 64, 64),
    encoder_scale=1.0,
    topology=Topology(strides=((1, 1, 1),), kernels=((3, 3, 3),), widths=(8,)),
    pretrained=True,
)


def network_of(variant, spec=SPEC, **options):
    torch.manual_seed(0)
    return variant.build(build_sam(NANO, (64, 64)), spec, variant.Config(**options)).eval()


def test_lora_trains_the_published_number_of_weights():
    with torch.device("meta"):
        spec = dataclasses.replace(SPEC, patch_size=(1, 512, 512))
        network = samed.build(build_sam(backbone_named("vit_b"), (512, 512)), spec, samed.Config())
    assert sum(parameter.numel() for parameter in network.sites.parameters()) == 147_456


def test_lora_acts_on_q_and_v_and_merges():
    network = network_of(samed)
    torch.manual_seed(1)
    with torch.no_grad():
        for sites in network.sites:
            for _, up in (sites.query, sites.value):
                up.weight.normal_(std=0.1)
        update = network.sites[0].qkv_update(torch.randn(2, 48))
        assert update[:, :48].any() and not update[:, 48:96].any() and update[:, 96:].any()
        image = torch.randn(1, 1, 3, 64, 64)
        before = network(image)
        network.merge()
        assert network.sites[0].qkv_update(torch.randn(2, 48)) is None
        assert torch.allclose(network(image), before, atol=1e-4)


def test_samed_takes_its_loss_on_the_decoders_logits():
    network = network_of(samed)
    torch.manual_seed(2)
    batch = Batch(image=torch.randn(2, 1, 3, 64, 64), label=torch.randint(0, 3, (2, 3, 64, 64)).short())
    with torch.no_grad():
        logits = network._planes(batch.image)
        terms = network.loss(batch)
    assert logits.shape == (2, 3, 3, 16, 16)
    # By hand, as SAMed writes it: labels to the logits' grid by nearest neighbor, Dice over the batch with squares.
    label = F.interpolate(batch.label.float(), size=(16, 16), mode="nearest-exact").long()
    probability, target = logits.softmax(1), F.one_hot(label, 3).movedim(-1, 1).float()
    dice = [
        (2 * (probability[:, k] * target[:, k]).sum() + 1e-5)
        / (probability[:, k].square().sum() + target[:, k].sum() + 1e-5)
        for k in range(3)
    ]
    assert terms["dice"].item() == pytest.approx(0.8 * (1 - sum(dice).item() / 3), rel=1e-5)
    assert terms["ce"].item() == pytest.approx(0.2 * F.cross_entropy(logits, label).item(), rel=1e-5)


def test_full_fine_tuning_trains_everything_and_early_layers_slowly():
    network = network_of(full, layer_decay=0.5)
    assert all(parameter.requires_grad for parameter in network.parameters())
    groups = network.parameter_groups()
    rates = {
        id(parameter): group.scale for group in groups if group.part == "backbone" for parameter in group.parameters
    }
    encoder = network.image_encoder
    assert rates[id(encoder.neck[0].weight)] == 1.0
    assert [rates[id(block.norm1.weight)] for block in encoder.blocks] == [0.5**4, 0.5**3, 0.5**2, 0.5]
    assert rates[id(encoder.pos_embed)] == rates[id(encoder.patch_embed.proj.weight)] == 0.5**5
    assert sum(len(group.parameters) for group in groups) == len(list(network.parameters()))
    with pytest.raises(ConfigError, match="layer_decay must be from 0.001 to 1"):
        full.Config(layer_decay=0.0)


@pytest.mark.parametrize(("head", "side"), [("class_tokens", 64), ("cnn", 16), ("linear", 4)])
def test_frozen_heads_train_alone(head, side):
    network = network_of(frozen, head=head)
    assert not any(parameter.requires_grad for parameter in network.image_encoder.parameters())
    batch = Batch(image=torch.randn(1, 1, 3, 64, 64), label=torch.ones(1, 3, 64, 64).short())
    assert network._planes(batch.image).shape[3:] == (side, side)
    sum(network.loss(batch).values()).backward()
    assert all(parameter.grad is None for parameter in network.image_encoder.parameters())
    assert any(parameter.grad is not None for parameter in network.head.parameters())


def test_a_frozen_random_encoder_is_refused_unless_asked_for():
    spec = dataclasses.replace(SPEC, pretrained=False)
    with pytest.raises(ConfigError, match="would stay random. Plan with pretrained weights"):
        network_of(frozen, spec)
    assert not any(
        parameter.requires_grad
        for parameter in network_of(frozen, spec, random_encoder=True).image_encoder.parameters()
    )
    with pytest.raises(ConfigError, match="head must be one of class_tokens, cnn, linear"):
        frozen.Config(head="mlp")


def test_samed_s_trains_low_rank_updates_instead_of_the_transformer():
    network = network_of(samed, adapt_decoder=True)
    plain = network_of(samed)
    plain.load_state_dict(
        {name: tensor for name, tensor in network.state_dict().items() if not name.startswith("head.sites.")}
    )
    image = torch.randn(1, 1, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(network(image), plain(image), atol=1e-6)
    assert not any(parameter.requires_grad for parameter in network.head.mask_decoder.transformer.parameters())
    with torch.no_grad():
        for sites in network.head.sites:
            for low_rank in (*sites.query.values(), *sites.value.values()):
                low_rank[1].weight.normal_(std=0.1)
    label = torch.ones(1, 3, 64, 64).short()
    sum(network.loss(Batch(image=image, label=label)).values()).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in network.head.sites.parameters())
