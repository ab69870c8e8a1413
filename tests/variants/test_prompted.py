"""Promptable variants: what they start from, which sample hears which prompt, that prompts decide."""

from __future__ import annotations

import pytest
import torch

from samunet.core.batch import Batch
from samunet.core.labels import parse_labels
from samunet.core.plan import Topology
from samunet.core.prompts import BOX, INSIDE
from samunet.errors import ConfigError
from samunet.models.segmenter import ABSENT
from samunet.models.spec import NetworkSpec
from samunet.sam.backbones import backbone_named
from samunet.sam.build import build_sam
from samunet.variants import ma_sam_prompted, med_sa, med_sa_prompted

NANO = backbone_named("vit_nano")
PATCH = (3, 32, 48)


def spec_for(patch=PATCH, *, pretrained=False, labels=None) -> NetworkSpec:
    return NetworkSpec(
        schemes=("zscore",),
        labels=parse_labels(labels or {"background": 0, "b": 2, "a": 1}),
        spacing=(3.0, 1.0, 1.0),
        patch_size=patch,
        encoder_scale=2.0,
        topology=Topology(strides=((1, 1, 1),), kernels=((3, 3, 3),), widths=(8,)),
        pretrained=pretrained,
    )


def small(variant, *, perturbed=True, **options):
    torch.manual_seed(0)
    spec = spec_for(**{key: options.pop(key) for key in ("patch", "pretrained", "labels") if key in options})
    network = variant.build(
        build_sam(NANO, tuple(2 * side for side in spec.patch_size[1:])), spec, variant.METHOD.read(options, "options")
    )
    with torch.no_grad():
        for parameter in network.parameters():
            if perturbed and parameter.requires_grad and not parameter.any():
                parameter.normal_(std=0.05)
    return network.eval()


def shown(batch=2) -> torch.Tensor:
    drawn = torch.zeros(batch, 2, *PATCH, dtype=torch.uint8)
    drawn[:, 0, 1, 9, 20] = INSIDE
    drawn[:, 1, :2, 5:20, 10:30] = BOX
    return drawn


@torch.no_grad()
def test_medical_sam_adapter_starts_as_segment_anything_with_the_same_prompts():
    network = small(med_sa_prompted, perturbed=False)
    torch.manual_seed(0)
    sam = build_sam(NANO, (64, 96)).eval()
    sam.prompt_encoder.input_image_size, sam.prompt_encoder.image_embedding_size = (64, 96), (4, 6)
    image = torch.randn(1, 1, *PATCH)
    drawn = torch.zeros(1, 2, *PATCH, dtype=torch.uint8)
    drawn[0, 1, 2, 9, 20] = INSIDE
    click = (torch.tensor([[[2 * 20.5 - 0.5, 2 * 9.5 - 0.5]]]), torch.ones(1, 1))
    sparse, dense = sam.prompt_encoder(points=click, boxes=None, masks=None)
    mask, _ = sam.mask_decoder(
        image_embeddings=sam.image_encoder(network.pixels(image)[0, 2:]),
        image_pe=sam.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=False,
    )
    expected = torch.nn.functional.interpolate(mask, size=(64, 96), mode="bilinear", align_corners=False)
    expected = torch.nn.functional.adaptive_avg_pool2d(expected, PATCH[1:])[0, 0]
    found = network(image, drawn)
    assert torch.allclose(found[0, 2, 2], expected, atol=1e-4 * float(expected.abs().max()))
    assert not found[0, 0].any() and (found[0, 1] == ABSENT).all() and (found[0, 2, :2] == ABSENT).all()


@torch.no_grad()
def test_ma_sam_with_a_box_is_its_class_token_decoder_with_the_boxs_corners():
    network = small(ma_sam_prompted, labels={"background": 0, "tumor": 1})
    decoder, prompts = network.head.mask_decoder, network.head.prompt_encoder
    prompts.input_image_size, prompts.image_embedding_size = (64, 96), (4, 6)
    image, drawn = torch.randn(1, 1, *PATCH), torch.zeros(1, 1, *PATCH, dtype=torch.uint8)
    drawn[0, 0, :, 5:20, 10:30] = BOX
    box = torch.tensor([[2 * (value + 0.5) - 0.5 for value in (10, 5, 29, 19)]])
    sparse, dense = prompts(points=None, boxes=box, masks=None)
    embedding = network.encode(network.pixels(image))[0]
    masks = torch.cat(
        [decoder.predict_masks(slice[None], prompts.get_dense_pe(), sparse, dense)[0] for slice in embedding]
    )
    expected = torch.nn.functional.adaptive_avg_pool2d(masks, PATCH[1:]).softmax(1)
    assert torch.allclose(network(image, drawn)[0].softmax(0).movedim(0, 1), expected, atol=1e-4)


@pytest.mark.parametrize("variant", [med_sa_prompted, ma_sam_prompted])
@torch.no_grad()
def test_a_moved_click_changes_its_own_sample_structure_and_slice_alone(variant):
    network, image = small(variant), torch.randn(2, 1, *PATCH)
    before, moved = shown(), shown()
    moved[0, 0, 1] = 0
    moved[0, 0, 1, 25, 5] = INSIDE
    first, second = network(image, before), network(image, moved)
    changed = (first - second).abs().amax((3, 4)) > 1e-4  # (B, K, D)
    assert changed.nonzero().tolist() == [[0, 1, 1]]
    moved[0, 0, 1, ::3, ::3] = INSIDE  # many more clicks than the other sample has
    assert torch.allclose(network(image, moved)[1], first[1], atol=1e-4)


@torch.no_grad()
def test_slices_meet_before_the_prompts_and_channels_follow_the_label_values():
    network, image = small(med_sa_prompted), torch.randn(1, 1, *PATCH)
    drawn = torch.zeros(1, 2, *PATCH, dtype=torch.uint8)
    drawn[0, 1, 1, 5, 5] = INSIDE  # label value 2, though dataset.json names it first
    before = network(image, drawn)
    assert (before[0, 2, 1] != ABSENT).all() and (before[0, 1] == ABSENT).all()
    image[:, :, 2] += torch.randn(PATCH[1:])
    assert not torch.equal(before[0, 2, 1], network(image, drawn)[0, 2, 1])


@pytest.mark.parametrize("prompts", ["points", "iterative", "box", "mixed"])
@pytest.mark.parametrize("kind", ["classes", "regions"])
def test_every_kind_of_prompt_trains(prompts, kind):
    labels = {"background": 0, "b": 2, "a": 1}
    spec = spec_for(labels=labels)
    network = small(med_sa_prompted, prompts=prompts, **({"labels": labels}))
    if kind == "regions":
        spec = NetworkSpec(
            **{**vars(spec), "labels": parse_labels({"background": 0, "whole": [1, 2], "core": 2}, [1, 2])}
        )
        network = med_sa_prompted.build(
            build_sam(NANO, (64, 96)), spec, med_sa_prompted.METHOD.read({"prompts": prompts}, "options")
        )
    label = torch.randint(0, 3, (2, *PATCH), dtype=torch.int16)
    loss = sum(network.loss(Batch(image=torch.randn(2, 1, *PATCH), label=label)).values())
    loss.backward()
    assert loss.isfinite() and network.head.mask_decoder.mask_tokens.weight.grad.any()


@pytest.mark.parametrize("prompts", ["points", "iterative", "box"])
def test_prompts_made_without_gradient_leave_the_step_its_own_in_mixed_precision(prompts):
    """torch's autocast keeps casts of weights; those made while prompts are simulated must not serve the step."""
    network = small(med_sa_prompted, prompts=prompts).train()
    label = torch.randint(0, 3, (2, *PATCH), dtype=torch.int16)
    with torch.autocast("cpu", torch.bfloat16):
        loss = sum(network.loss(Batch(image=torch.randn(2, 1, *PATCH), label=label)).values())
    loss.backward()
    allowed = tuple(med_sa_prompted.METHOD.without_gradient)
    for name, parameter in network.named_parameters():
        assert name.startswith(allowed) or parameter.grad is not None, name


def test_with_pretrained_weights_sams_prompt_encoder_stays():
    network = small(med_sa_prompted, pretrained=True)
    assert not any(parameter.requires_grad for parameter in network.head.prompt_encoder.parameters())
    assert (
        small(ma_sam_prompted, pretrained=True).head.prompt_encoder.point_embeddings[2].weight.requires_grad
    )  # as its authors train it


def test_prompts_decide_what_is_segmented():
    """Two discs that look alike; which one is meant, only the click tells."""
    patch = (1, 32, 48)
    network = small(
        med_sa_prompted, patch=patch, labels={"background": 0, "disc": 1}, prompts="points", points=1
    ).train()
    rows, columns = torch.meshgrid(torch.arange(32), torch.arange(48), indexing="ij")
    discs = [((rows - 16) ** 2 + (columns - middle) ** 2 < 64) for middle in (12, 36)]
    image = (sum(disc.float() for disc in discs) * 2 - 0.5).view(1, 1, *patch).repeat(2, 1, 1, 1, 1)
    label = torch.stack(discs).view(2, *patch).to(torch.int16)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    torch.manual_seed(1)
    for _ in range(200):
        optimizer.zero_grad()
        sum(network.loss(Batch(image=image, label=label)).values()).backward()
        optimizer.step()
    network.eval()
    with torch.no_grad():
        found = network.answer(Batch(image=image, label=label)).argmax(1)
    dice = 2 * (found * label).sum((1, 2, 3)) / (found + label).sum((1, 2, 3))
    assert dice.min() > 0.8, dice


@pytest.mark.parametrize(
    ("variant", "wrong"),
    [(med_sa_prompted, {"ratio": 2.0}), (med_sa_prompted, {"prompts": "x"}), (ma_sam_prompted, {"rank": -1})],
)
def test_wrong_options_are_refused(variant, wrong):
    with pytest.raises(ConfigError):
        variant.METHOD.read(wrong, "options")


def test_the_adapters_are_med_sas():
    prompted, automatic = small(med_sa_prompted), small(med_sa)
    assert [name for name, _ in prompted.sites.named_parameters()] == [
        name for name, _ in automatic.sites.named_parameters()
    ]
    assert {name for name, _ in prompted.head.sites.named_parameters()} == {
        name for name, _ in automatic.head.sites.named_parameters()
    }
