"""The default network with prompts: what carries them, how far they reach, what is computed once."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from samunet.core.batch import Batch
from samunet.core.labels import parse_labels
from samunet.core.plan import Topology
from samunet.core.prompts import BOX, INSIDE, MASK, OUTSIDE
from samunet.errors import ConfigError
from samunet.models.segmenter import ABSENT
from samunet.models.spec import NetworkSpec
from samunet.sam.backbones import backbone_named
from samunet.sam.build import build_sam
from samunet.variants import sam_unet_prompted
from samunet.variants.sam_unet_prompted.joining import likeness, prototype, thinned
from samunet.variants.sam_unet_prompted.network import Masks

PATCH = (4, 32, 48)
SPEC = NetworkSpec(
    schemes=("zscore",),
    labels=parse_labels({"background": 0, "b": 2, "a": 1}),
    spacing=(3.0, 1.0, 1.0),
    patch_size=PATCH,
    encoder_scale=4.0,
    topology=Topology(
        strides=((1, 1, 1), (1, 2, 2), (2, 2, 2)), kernels=((1, 3, 3), (3, 3, 3), (3, 3, 3)), widths=(4, 8, 12)
    ),
    pretrained=False,
)


def network(*, spec=SPEC, **options):
    torch.manual_seed(0)
    sam = build_sam(backbone_named("vit_nano"), tuple(round(4 * side) for side in spec.patch_size[1:]))
    made = sam_unet_prompted.build(sam, spec, sam_unet_prompted.METHOD.read(options, "options"))
    with torch.no_grad():
        for parameter in made.parameters():
            if not parameter.any():
                parameter.normal_(std=0.1)
    return made.eval()


def image(batch=1):
    return torch.randn(batch, 1, *PATCH, generator=torch.Generator().manual_seed(1))


def drawn(bit=INSIDE, batch=1):
    prompts = torch.zeros(batch, 2, *PATCH, dtype=torch.uint8)
    prompts[:, 0, 1, 9:12, 20:26] = bit
    return prompts


@torch.no_grad()
@pytest.mark.parametrize("bit", [INSIDE, BOX, MASK])
@pytest.mark.parametrize("options", [{"class_tokens": False}, {"maps": False}, {}], ids=["maps", "tokens", "both"])
def test_every_kind_of_prompt_is_heard(options, bit):
    net = network(**options)
    nothing, shown = net(image()), net(image(), drawn(bit))
    assert shown.shape == (1, 3, *PATCH)
    assert not torch.allclose(shown[:, 1], nothing[:, 1], atol=1e-4) or (bit == MASK and options == {"maps": False})


@torch.no_grad()
@pytest.mark.parametrize("options", [{"class_tokens": False}, {"maps": False}], ids=["maps", "tokens"])
def test_a_click_outside_is_heard_beside_one_inside(options):
    net, both = network(**options), drawn()
    both[:, 0, 1, 25, 40] = OUTSIDE
    assert not torch.allclose(net(image(), both), net(image(), drawn()), atol=1e-4)


@torch.no_grad()
def test_a_prompt_in_one_slice_answers_for_the_whole_patch_and_for_its_structure_alone():
    net = network()
    logits = net(image(2), torch.cat([drawn(), torch.zeros_like(drawn())]))
    assert net.whole_object
    assert (logits[0, 1] != ABSENT).all()
    assert torch.equal(logits[0, 2], torch.full(PATCH, ABSENT))
    assert torch.equal(logits[1, 1:], torch.full((2, *PATCH), ABSENT))
    assert torch.equal(logits[:, 0], torch.zeros(2, *PATCH))


@torch.no_grad()
def test_what_is_kept_of_an_image_is_all_that_a_click_needs(monkeypatch):
    net = network()
    encoded = net.encode_image(image())
    expected = net(image(), drawn())
    monkeypatch.setattr(net, "encode_image", lambda _: pytest.fail("the image was encoded again"))
    assert torch.equal(net.answers(encoded, drawn(), torch.Size(PATCH)), expected)


def test_a_step_learns_from_one_structure_of_each_sample_that_has_one():
    net = network().train()
    label = torch.zeros(2, *PATCH, dtype=torch.int16)
    label[0, :, 4:12, 8:30] = 1
    sums = net.sums(Batch(image=image(2), label=label))
    assert float(sums["structures"]) == 1 and float(sums["voxels.0"]) == math.prod(PATCH)
    assert all(value.isfinite() for value in net.terms(sums).values())


def answers_of(count: int, generator: torch.Generator):
    """Random masks, what was asked for, and where it is annotated."""
    levels = [torch.randn(count, 1, 4, side, side, generator=generator, requires_grad=True) for side in (16, 8)]
    features = torch.randn(count, 4, 4, 16, 16, generator=generator)
    target = torch.rand(count, 4, 16, 16, generator=generator) < 0.3
    known = torch.rand(count, 4, 16, 16, generator=generator) < 0.8
    return Masks(levels, features), target, known


def test_the_loss_is_that_of_the_formula_and_voxels_without_annotation_do_not_count():
    net = network().train()
    masks, target, known = answers_of(3, torch.Generator().manual_seed(0))
    everywhere = torch.ones_like(known)
    one = Masks(masks.levels[:1], masks.features)
    terms = net.terms(net.sums_of(one, target, everywhere))
    logits, wanted = masks.levels[0][:, 0].detach(), target.float()
    entropy = torch.nn.functional.binary_cross_entropy_with_logits(logits, wanted)
    chance = logits.sigmoid()
    both, either = (chance * wanted).flatten(1).sum(1), (chance + wanted).flatten(1).sum(1)
    assert torch.allclose(terms["bce"], 4 * entropy) and torch.allclose(terms["dice"], (1 - 2 * both / either).mean())
    iou = ((logits > 0) & target).flatten(1).sum(1) / ((logits > 0) | target).flatten(1).sum(1)
    expected = net.quality(masks.features, masks.levels[0].detach()).sigmoid()
    assert torch.allclose(terms["quality"], 0.2 * (expected - iou).square().mean())
    sum(net.terms(net.sums_of(masks, target, known)).values()).backward()
    assert not masks.levels[0].grad[:, 0][~known].any() and masks.levels[0].grad[:, 0][known].all()
    assert masks.levels[1].grad.any()


def test_sums_of_parts_give_the_loss_of_the_whole_also_where_a_part_has_no_structure():
    net = network().train()
    masks, target, known = answers_of(3, torch.Generator().manual_seed(1))
    whole = net.terms(net.sums_of(masks, target, known))
    parts = [
        net.sums_of(Masks([level[part] for level in masks.levels], masks.features[part]), target[part], known[part])
        for part in (slice(0, 1), slice(1, 3))
    ]
    nothing = net.sums(Batch(image=image(1), label=torch.zeros(1, *PATCH, dtype=torch.int16)))
    levels = len(net.outputs)
    assert {name for name in nothing if name.startswith("dices")} == {f"dices.{level}" for level in range(levels)}
    added = {name: parts[0][name] + parts[1][name] + nothing.get(name, 0) for name in parts[0]}
    assert all(torch.allclose(value, whole[name]) for name, value in net.terms(added).items())


def test_a_batch_without_a_structure_gives_no_loss_and_still_a_gradient():
    net = network().train()
    loss = sum(net.loss(Batch(image=image(2), label=torch.zeros(2, *PATCH, dtype=torch.int16))).values())
    loss.backward()
    assert float(loss.detach()) == 0


def test_it_learns_to_segment_what_a_click_shows():
    """Two equal bars; which of them is asked for only the prompt tells."""
    shape = (2, 16, 32)
    net = network(sam_path=False, spec=dataclasses.replace(SPEC, patch_size=shape)).train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    masks = torch.zeros(2, *shape, dtype=torch.int16)
    masks[0, :, 4:12, 3:11], masks[1, :, 4:12, 20:28] = 1, 1
    pixels = (masks.sum(0) > 0)[None, None].float().expand(2, -1, -1, -1, -1)
    for _ in range(150):
        noise = 0.1 * torch.randn(2, 1, *shape, generator=generator)
        optimizer.zero_grad()
        sum(net.loss(Batch(image=pixels + noise, label=masks)).values()).backward()
        optimizer.step()
    net.eval()
    click = torch.zeros(2, 2, *shape, dtype=torch.uint8)
    click[0, 0, 1, 8, 7], click[1, 0, 1, 8, 24] = INSIDE, INSIDE
    with torch.no_grad():
        answers = net(pixels, click)[:, 1] > 0
    for answer, mask in zip(answers, masks.bool(), strict=True):
        assert 2 * (answer & mask).sum() / (answer.sum() + mask.sum()) > 0.8


def test_without_maps_and_tokens_nothing_would_be_heard():
    with pytest.raises(ConfigError, match="prompts must be tokens, which need sam_path and class_tokens"):
        sam_unet_prompted.METHOD.read({"maps": False, "sam_path": False}, "options")


def test_a_long_scribble_becomes_few_points_and_short_ones_stay():
    prompts = torch.zeros(2, 2, 20, 20, dtype=torch.uint8)
    prompts[0, 0, 3], prompts[0, 1, 4, 5:9], prompts[1, 0, 2, 2] = INSIDE, OUTSIDE, INSIDE | MASK
    few = thinned(prompts)
    assert int((few[0, 0] == INSIDE).sum()) == 8
    assert torch.equal(few[0, 1], prompts[0, 1]) and torch.equal(few[1], prompts[1])


def test_likeness_is_one_where_features_are_the_references():
    features = torch.randn(1, 6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    features[:, :, :, 2:4, 2:4] = features[:, :, :, 2:3, 2:3]
    mask = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    mask[:, :, 2:4, 2:4] = True
    alike = likeness(features, prototype(features, mask))
    assert torch.allclose(alike[..., 2:4, 2:4], torch.ones(2, 2), atol=1e-5) and alike.abs().max() <= 1 + 1e-5
