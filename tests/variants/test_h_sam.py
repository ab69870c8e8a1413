"""H-SAM: both decoders after its equations, its gate, its noise, its losses over time, and its authors' files."""

from __future__ import annotations

import math
import re

import pytest
import torch
import torch.nn.functional as F

from samunet.core.batch import Batch
from samunet.core.labels import parse_labels
from samunet.core.plan import Topology
from samunet.errors import CheckpointError, ConfigError
from samunet.models.losses import nearest
from samunet.models.spec import NetworkSpec
from samunet.sam.backbones import backbone_named
from samunet.sam.build import build_sam
from samunet.sam.decoder import decode, own_tokens, without_mask
from samunet.variants.h_sam import METHOD
from samunet.variants.h_sam.network import class_deviations, second_share
from samunet.variants.h_sam.released import load_released

TOPOLOGY = Topology(strides=((1, 1, 1),), kernels=((3, 3, 3),), widths=(8,))


def spec_for(patch, classes=2, pretrained=True):
    labels = parse_labels({"background": 0} | {f"class {value}": value for value in range(1, classes + 1)})
    return NetworkSpec(
        schemes=("zscore",),
        labels=labels,
        spacing=(3.0, 1.0, 1.0),
        patch_size=patch,
        encoder_scale=1.0,
        topology=TOPOLOGY,
        pretrained=pretrained,
    )


def network_of(backbone="vit_nano", patch=(1, 64, 96), classes=2, **options):
    torch.manual_seed(0)
    sam = build_sam(backbone_named(backbone), patch[1:])
    return METHOD.build(sam, spec_for(patch, classes), METHOD.read(options, "options")).eval()


def strong(network):
    """The same with weights so large that every part of it matters."""
    for parameter in network.head.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    return network


def doubled(layer, planes):
    """A transposed convolution of stride 2, place by place."""
    blocks = torch.einsum("nchw,cdij->ndhiwj", planes, layer.weight).flatten(4, 5).flatten(2, 3)
    return blocks + layer.bias.view(-1, 1, 1)


def normalized(layer, planes):
    """A norm over the channels of each place."""
    mean, variance = planes.mean(1, keepdim=True), planes.var(1, unbiased=False, keepdim=True)
    return layer.weight.view(-1, 1, 1) * (planes - mean) / (variance + layer.eps).sqrt() + layer.bias.view(-1, 1, 1)


def read(mlps, tokens, features):
    """Masks whose weights over the features perceptrons with ReLU make of the tokens."""
    masks = []
    for mlp, token in zip(mlps, tokens.unbind(1), strict=True):
        for layer in mlp.layers[:-1]:
            token = (token @ layer.weight.T + layer.bias).relu()
        weights = token @ mlp.layers[-1].weight.T + mlp.layers[-1].bias
        masks.append((weights[..., None, None] * features).sum(1))
    return torch.stack(masks, 1)


@torch.no_grad()
def test_both_decoders_follow_their_equations():
    head = strong(network_of(gate="released")).head
    first, second, encoding = head.mask_decoder, head.second, head.prompt_encoder.pe_layer
    embedding, no_mask = torch.randn(2, 64, 4, 6), without_mask(head.prompt_encoder)
    tokens, places = decode(first.transformer, encoding, embedding, own_tokens(first), dense=no_mask, cross_first=True)
    up = first.output_upscaling
    shallow = F.gelu(doubled(up[3], F.gelu(normalized(up[1], doubled(up[0], places)))))
    one = read(first.output_hypernetworks_mlps, tokens[:, 1:], shallow)
    prior = one.unflatten(3, (6, 4)).unflatten(2, (4, 4))[:, :, :, 1:3, :, 1:3].mean((3, 5)).softmax(1)  # to a quarter
    tokens, places = decode(
        second.transformer,
        encoding,
        2 * (embedding + no_mask),  # the released gate is a softmax over one channel
        second.mask_tokens.weight,
        dense=torch.zeros(1, 64, 1, 1),
        prior=prior.flatten(2),
        cross_first=True,
    )
    up, skip = second.output_upscaling, second.skip_connect
    deep = F.gelu(doubled(up[3], F.gelu(normalized(up[1], doubled(up[0], places)))))
    fine = F.gelu(normalized(skip[1], doubled(skip[0], torch.cat((deep, shallow), 1))))
    fine = F.gelu(normalized(skip[4], doubled(skip[3], fine)))
    two = read(second.output_hypernetworks_mlps, tokens, fine)
    given = head.stages(embedding)
    assert given[0].shape == (2, 3, 16, 24) and given[1].shape == (2, 3, 64, 96)
    for ours, written in zip(given, (one, two), strict=True):
        assert torch.allclose(ours, written, atol=2e-5 * float(written.abs().max()) + 2e-5)


@torch.no_grad()
def test_a_class_reads_nothing_where_the_first_decoder_sees_another_one():
    head = strong(network_of()).head
    second, encoding = head.second, head.prompt_encoder.pe_layer
    there = torch.arange(24) % 3  # one class a place
    prior = F.one_hot(there, 3).T.expand(1, -1, -1).float()
    attention, read_by = second.transformer.layers[0].cross_attn_token_to_image, []
    attention.out_proj.register_forward_hook(lambda module, given, output: read_by.append(output))
    for parameter in attention.k_proj.parameters():
        torch.nn.init.zeros_(parameter)  # or the softmax, which is over all places, would tell of the others' keys
    planes = torch.randn(1, 64, 4, 6)
    changed = planes.clone()
    changed.flatten(2)[:, :, there == 1] += torch.randn(64, 8)
    for image in (planes, changed):
        decode(
            second.transformer,
            encoding,
            image,
            second.mask_tokens.weight,
            dense=0 * image,
            prior=prior,
            cross_first=True,
        )
    assert torch.allclose(read_by[0][:, ::2], read_by[1][:, ::2], atol=1e-6)
    assert not torch.allclose(read_by[0][:, 1], read_by[1][:, 1], atol=1e-2)


def test_the_gate_learns_where_it_is_a_sigmoid_and_hardly_strengthens_at_first():
    network = network_of()
    gate, planes = network.head.second.gate, torch.randn(2, 64, 4, 6)
    with torch.no_grad():
        start = gate(planes, torch.full((2, 3, 24), 1 / 3), None)
        assert torch.allclose(start, torch.tensor(1 / (1 + math.exp(4))), atol=1e-6)
        gate.exit.weight.fill_(0.5)
    label = torch.randint(0, 3, (2, 1, 64, 96), generator=torch.Generator().manual_seed(1)).short()
    sum(network.train().loss(Batch(image=torch.randn(2, 1, 1, 64, 96), label=label)).values()).backward()
    assert all(parameter.grad.any() for parameter in gate.parameters())
    assert network_of(gate="released").head.second.gate is None


def test_the_gates_mean_weighs_classes_by_their_chances():
    gate, planes = network_of().head.second.gate.eval(), torch.randn(1, 64, 4, 6)
    for parameter in gate.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    with torch.no_grad():
        prior = torch.rand(1, 3, 24).softmax(1)
        classes = torch.stack(
            [(planes.flatten(2) * prior[:, k : k + 1]).sum(2) / prior[:, k].sum() for k in range(3)], 1
        )
        classes = gate.exit(gate.layers[1](gate.layers[0](gate.entry(classes))))
        expected = sum(
            prior[:, k] * torch.sigmoid((classes[:, k, :, None] * planes.flatten(2)).sum(1) / 8 + gate.shift)
            for k in range(3)
        )
        assert torch.allclose(gate(planes, prior, None).flatten(1), expected, atol=1e-5)


def test_the_second_loss_counts_more_and_more():
    assert second_share(0) == pytest.approx(0.6)
    assert second_share(100 / 300) == pytest.approx(0.8295, abs=1e-4)
    assert second_share(299 / 300) == pytest.approx(0.9751, abs=1e-4)


@torch.no_grad()
def test_the_loss_sums_both_decoders_at_their_resolutions():
    network = network_of(patch=(2, 64, 96))
    network.progress = 0.5
    label = torch.randint(0, 3, (2, 2, 64, 96), generator=torch.Generator().manual_seed(1)).short()
    batch = Batch(image=torch.randn(2, 1, 2, 64, 96), label=label)
    total, share = {"ce": 0.0, "dice": 0.0}, 0.6 ** (0.99**150)
    for logits, weight in zip(network._stages(batch.image), (1 - share, share), strict=True):
        target = nearest(label, logits.shape[2:]).long()
        chances, truth = logits.softmax(1), F.one_hot(target, 3).movedim(-1, 1).float()
        overlap, size = ((chances * truth).sum((0, 2, 3, 4)), (chances**2 + truth).sum((0, 2, 3, 4)))
        total["ce"] += weight * 0.1 * F.cross_entropy(logits, target).item()
        total["dice"] += weight * 0.9 * (1 - (2 * overlap + 1e-5) / (size + 1e-5)).mean().item()
    assert {name: term.item() for name, term in network.loss(batch).items()} == pytest.approx(total, rel=1e-5)


@torch.no_grad()
def test_what_predicts_is_the_mean_of_both_decoders_or_the_second():
    image = torch.randn(1, 1, 1, 64, 96)
    mean, second = network_of(), network_of(output="second")
    one, two = mean._stages(image)
    one = F.interpolate(one[:, :, 0], size=(64, 96), mode="bilinear", align_corners=False)
    assert torch.allclose(second(image), two, atol=1e-5)
    assert torch.allclose(mean(image)[:, :, 0], (one + two[:, :, 0]) / 2, atol=1e-5)


def test_the_rarest_class_gets_most_noise_and_an_absent_one_none():
    counts = torch.tensor([[1000.0, 10, 0, 100], [5, 5, 5, 5], [0, 7, 0, 0], [900, 0, 0, 30]])
    expected = [[0, 0.35, 0, 0.175], [0.35] * 4, [0.0] * 4, [0, 0, 0, 0.35]]
    assert torch.allclose(class_deviations(counts, 0.35), torch.tensor(expected))


def test_noise_is_of_training_alone_and_can_be_left_out():
    embedding = torch.randn(1, 64, 4, 6)
    noisy, still = network_of().head, network_of(embedding_noise=0.0, class_noise=0.0).head
    with torch.no_grad():
        assert torch.equal(noisy.stages(embedding)[1], noisy.stages(embedding)[1])
        for head, differs in ((noisy, True), (still, False)):
            head.train().second.sites.eval()  # without the dropout
            assert torch.equal(*(head.stages(embedding)[1] for _ in range(2))) != differs


@pytest.mark.parametrize("option", ["gate", "output"])
def test_an_unknown_choice_is_named(option):
    with pytest.raises(ConfigError, match=rf"options.{option}: expected one of"):
        METHOD.read({option: "other"}, "options")


def released_names(network) -> dict[str, torch.Tensor]:
    """Tensors under the names of the authors' files, those without effect among them; 8 classes, ViT-B, 512 pixels."""
    stored = {}
    for name, tensor in network.state_dict().items():
        if found := re.fullmatch(r"sites\.(\d+)\.(query|value)\.([01])\.weight", name):
            number = 2 * int(found[1]) + (found[2] == "value")
            stored[f"w_{'ab'[int(found[3])]}_{number:03d}"] = tensor
        elif name.startswith("head.second."):
            name = name.removeprefix("head.second.")
            name = name.replace("transformer.", "transformer2.", 1).replace("hypernetworks_mlps", "hypernetworks_mlps2")
            stored[f"mask_decoder2.{name}"] = tensor
        elif name.startswith("head."):
            stored[name.removeprefix("head.")] = tensor
    stored |= {f"prompt_encoder.point_embeddings.{index}.weight": torch.empty(1, 256) for index in range(4, 11)}
    stored |= {f"prompt_encoder2.{n[15:]}": t for n, t in stored.items() if n.startswith("prompt_encoder.")}
    places, classes = 1024, 9
    for part in ("self_attn", "self_attn2"):
        for projection in ("q_proj", "k_proj", "v_proj", "out_proj"):
            stored[f"mask_decoder2.{part}.{projection}.weight"] = torch.empty(places, places)
            stored[f"mask_decoder2.{part}.{projection}.bias"] = torch.empty(places)
    sizes = {"norm1": (places,), "norm2": (places,), "mlp.lin1": (2048, places), "mlp.lin2": (places, 2048)}
    sizes |= {"med_sel.0": (1, classes)}
    sizes |= {f"iou_prediction_head.layers.{i}": (256 if i < 2 else classes, 256) for i in range(3)}
    for layer in range(2):
        for attention in ("token_to_image", "image_to_token"):
            for norm, width in (("norm1", 196), ("norm2", 9), ("norm3", 1024)):
                sizes[f"transformer2.layers.{layer}.cross_attn_{attention}.{norm}"] = (width,)
    for name, size in sizes.items():
        stored |= {
            f"mask_decoder2.{name}.weight": torch.empty(size),
            f"mask_decoder2.{name}.bias": torch.empty(size[0]),
        }
    return stored


def test_a_file_of_the_authors_fills_the_network_with_their_numbers_of_weights():
    with torch.device("meta"):
        network = network_of("vit_b", (1, 512, 512), classes=8, gate="released")
        stored = released_names(network)
        idle = load_released(network, stored)
    kept = {name: tensor.numel() for name, tensor in stored.items() if not name.startswith("prompt_encoder2.")}
    assert sum(size for name, size in kept.items() if name.startswith("w_")) == 184_320
    assert sum(size for name, size in kept.items() if name.startswith("mask_decoder.")) == 4_759_945
    assert sum(size for name, size in kept.items() if name.startswith("mask_decoder2.")) == 19_051_259
    assert sum(kept[name] for name in idle if name.startswith("mask_decoder2.")) == 12_742_011
    assert sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad) == 11_259_733


def test_values_of_an_authors_file_arrive_and_one_of_other_classes_is_refused():
    network, other = network_of(gate="released"), strong(network_of(gate="released"))
    stored = released_names(other)
    load_released(network, stored)
    now, then = network.state_dict(), other.state_dict()
    assert all(torch.equal(now[name], then[name]) for name in then if name.startswith("head."))
    with pytest.raises(CheckpointError, match=r"tensors of the authors' file and of this network differ, 'head\."):
        load_released(network_of(gate="released", classes=3), stored)
