"""HQ-SAM: its decoder after its equations, what of it trains, and its correction on class tokens."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from samunet.core.batch import Batch
from samunet.core.labels import parse_labels
from samunet.core.plan import Topology
from samunet.core.prompts import BOX, INSIDE
from samunet.errors import ConfigError
from samunet.models.spec import NetworkSpec
from samunet.sam import hq
from samunet.sam.backbones import backbone_named
from samunet.sam.build import build_sam
from samunet.sam.decoder import decode, own_tokens, without_mask
from samunet.variants.method import load_variant

PATCH = (2, 64, 96)
SPEC = NetworkSpec(
    schemes=("zscore",),
    labels=parse_labels({"background": 0, "a": 1, "b": 2}),
    spacing=(3.0, 1.0, 1.0),
    patch_size=PATCH,
    encoder_scale=1.0,
    topology=Topology(strides=((1, 1, 1),), kernels=((3, 3, 3),), widths=(8,)),
    pretrained=True,
)


def network_of(name, spec=SPEC, **options):
    torch.manual_seed(0)
    sam = build_sam(backbone_named("vit_nano"), PATCH[1:])
    sam.add_module(hq.IN_SAM, hq.new_parts(sam))  # as a file of HQ-SAM's brings them
    method = load_variant(name)
    return method.build(sam, spec, method.read(options, "options")).eval()


def batch(channels=1):
    generator = torch.Generator().manual_seed(1)
    label = torch.randint(0, 3, (1, *PATCH), generator=generator).short()
    return Batch(image=torch.randn(1, channels, *PATCH, generator=generator), label=label)


def shown():
    drawn = torch.zeros(1, 2, *PATCH, dtype=torch.uint8)
    drawn[0, 0, 0, 20, 30] = INSIDE
    drawn[0, 1, 1, 10:40, 20:60] = BOX
    return drawn


def fused(parts, upsampled, embedding, early):
    """The sum of three small networks, of SAM's upsampled features, of its embedding and of an early block's output."""
    given = (
        (parts.embedding_maskfeature, upsampled),
        (parts.embedding_encoder, embedding),
        (parts.compress_vit_feat, early.movedim(-1, 1)),
    )
    total = 0
    for (first, norm, _, last), features in given:
        features = first(features)
        mean, variance = features.mean(1, keepdim=True), features.var(1, unbiased=False, keepdim=True)
        features = (features - mean) / (variance + norm.eps).sqrt()
        total = total + last(F.gelu(norm.weight.view(-1, 1, 1) * features + norm.bias.view(-1, 1, 1)))
    return total


@pytest.mark.parametrize("silent", [False, True], ids=["corrected", "with a last layer of zeros"])
@torch.no_grad()
def test_the_mask_is_sams_plus_that_of_the_added_token_over_the_fused_feature(silent):
    network = network_of("hq_sam_prompted")
    head, decoder, image = network.head, network.head.mask_decoder, batch().image
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    if silent:
        torch.nn.init.zeros_(head.hq.hf_mlp.layers[-1].weight)
        torch.nn.init.zeros_(head.hq.hf_mlp.layers[-1].bias)
    early = []
    network.image_encoder.blocks[0].register_forward_hook(lambda module, given, output: early.append(output))
    embedding = network.image_encoder(network.pixels(image)[0, :1])  # the package's own pass; vit_nano has four blocks
    click = (torch.tensor([[[30.0, 20.0]]]), torch.ones(1, 1))
    head.prompt_encoder.input_image_size, head.prompt_encoder.image_embedding_size = PATCH[1:], (4, 6)
    sparse, dense = head.prompt_encoder(points=click, boxes=None, masks=None)
    tokens, places = decode(
        decoder.transformer,
        head.prompt_encoder.pe_layer,
        embedding,
        torch.cat((own_tokens(decoder), head.hq.hf_token.weight)),
        dense=dense,
        prompts=sparse,
    )
    upsampled = decoder.output_upscaling(places)
    mask = torch.einsum("nc,nchw->nhw", decoder.output_hypernetworks_mlps[0](tokens[:, 1]), upsampled)
    feature = fused(head.hq, upsampled, embedding, early[0])
    correction = torch.einsum("nc,nchw->nhw", head.hq.hf_mlp(tokens[:, 5]), feature)
    assert bool(correction.any()) != silent
    expected = F.interpolate((mask + correction)[None], size=PATCH[1:], mode="bilinear", align_corners=False)
    found = network(image, shown())[0, 1, 0]
    assert torch.allclose(found, expected[0, 0], atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("channels", [1, 2])
def test_with_pretrained_weights_exactly_the_25_added_tensors_train(channels):
    spec = replace(SPEC, schemes=("zscore",) * channels)
    network = network_of("hq_sam_prompted", spec, prompts="points").train()
    sum(network.loss(batch(channels)).values()).backward()
    reached = {name for name, parameter in network.named_parameters() if parameter.grad is not None}
    assert reached == {f"head.hq.{name}" for name in network.head.hq.state_dict()} and len(reached) == 25
    assert reached == {name for name, parameter in network.named_parameters() if parameter.requires_grad}


@torch.no_grad()
def test_training_compares_the_added_tokens_mask_alone():
    network = network_of("hq_sam_prompted")
    embedded = network.embed(network.pixels(batch().image))
    whole = network._masks(embedded, shown(), PATCH)
    alone = network.train()._masks(embedded, shown(), PATCH)
    torch.nn.init.zeros_(network.head.hq.hf_mlp.layers[-1].weight)
    torch.nn.init.zeros_(network.head.hq.hf_mlp.layers[-1].bias)
    sams = network.eval()._masks(embedded, shown(), PATCH)
    assert torch.allclose((whole - sams)[0, 0, 0], alone[0, 0, 0], atol=1e-4)
    assert not network.train()._masks(embedded, shown(), PATCH)[0, 0, 0].any()


@torch.no_grad()
def test_clicks_correct_the_masks_that_predict(monkeypatch):
    network = network_of("hq_sam_prompted", prompts="iterative")
    embedded, seen = network.embed(network.pixels(batch().image)), []
    monkeypatch.setattr("samunet.models.prompted.corrected", lambda drawn, masks, *_: seen.append(masks) or drawn)
    torch.manual_seed(3)
    network.train().simulate(batch().label, embedded)
    torch.manual_seed(3)
    network.eval().simulate(batch().label, embedded)
    trained, predicting = seen[: len(seen) // 2], seen[len(seen) // 2 :]
    assert trained and all(map(torch.equal, trained, predicting)) and not network.head.training
    network.train().simulate(batch().label, embedded)
    assert network.head.training


WITH_CLASS_TOKENS = ("samed", "ma_sam", "med_sa", "full", "frozen", "h_sam", "db_sam", "autosam")


@pytest.mark.parametrize("name", [*WITH_CLASS_TOKENS, "ma_sam_prompted", "med_sa_prompted", "db_sam_prompted"])
def test_every_decoder_takes_the_option_and_learns_with_it(name):
    network = network_of(name, hq=True)
    image, prompts = batch().image, (shown(),) if name.endswith("_prompted") else ()
    if name in WITH_CLASS_TOKENS:
        plain = network_of(name)
        plain.load_state_dict(network.state_dict(), strict=False)
        with torch.no_grad():
            assert torch.allclose(network(image, *prompts), plain(image, *prompts), atol=1e-5)
        for mlp in network.head.hq.mlps:  # what starts at zero hides the rest from the first step
            torch.nn.init.normal_(mlp.layers[-1].weight)
    sum(network.train().loss(batch()).values()).backward()
    parts = dict(network.head.hq.named_parameters())
    assert len(parts) >= 24 and all(parameter.grad.any() for parameter in parts.values())


@torch.no_grad()
def test_class_tokens_are_corrected_over_one_fused_feature_that_begins_as_hq_sams():
    network = network_of("frozen", hq=True)  # of 16 times the tokens' resolution; the feature has 4 times
    head = network.head
    given = network_of("hq_sam_prompted").head.hq.state_dict()
    assert all(torch.equal(tensor, given[name]) for name, tensor in head.hq.state_dict().items() if name in given)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    embedding, early = torch.randn(1, 64, 4, 6), torch.randn(1, 4, 6, 48)
    decoder = head.mask_decoder
    dense = without_mask(head.prompt_encoder)
    tokens, places = decode(
        decoder.transformer, head.prompt_encoder.pe_layer, embedding, own_tokens(decoder), dense=dense
    )
    feature = fused(head.hq, decoder.output_upscaling[:6](places), embedding, early)
    weights = torch.stack([mlp(token) for mlp, token in zip(head.hq.mlps, tokens[:, 1:].unbind(1), strict=True)], 1)
    masks = torch.einsum("nkc,nchw->nkhw", weights, feature)
    correction = F.interpolate(masks, scale_factor=4, mode="bilinear", align_corners=False)
    fine = head.hq.of_image(embedding, early)
    assert torch.allclose(head(embedding, fine) - head(embedding), correction, atol=1e-4)


def test_what_has_no_class_tokens_refuses_the_option():
    with pytest.raises(ConfigError, match="hq corrects the masks of class tokens; the head is 'cnn'"):
        network_of("frozen", hq=True, head="cnn")
    with pytest.raises(ConfigError, match="the authors' network has no hq"):
        network_of("med_sa_prompted", hq=True, compat="official")


def test_embeddings_are_not_kept_where_early_features_are_wanted_too(tmp_path):
    assert network_of("frozen").keep_embeddings(tmp_path) and not network_of("frozen", hq=True).keep_embeddings(
        tmp_path
    )
