"""Prompts inside a network, against segment_anything; what is simulated; which sample hears which prompt."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from samunet.core.prompts import BOX, INSIDE, OUTSIDE
from samunet.errors import ConfigError
from samunet.models.prompt_tokens import (
    clicks_in,
    corrected,
    draw_mode,
    embed,
    read_map,
    simulated_boxes,
    simulated_clicks,
)
from samunet.models.prompted import PromptedMasks
from samunet.models.rules import PromptSimulation
from samunet.sam.backbones import backbone_named
from samunet.sam.build import build_sam

SIZE = (64, 96)  # of the encoder's plane; a voxel has two pixels here


@pytest.fixture
def sam():
    torch.manual_seed(0)
    built = build_sam(backbone_named("vit_nano"), SIZE)
    for parameter in (*built.mask_decoder.parameters(), *built.prompt_encoder.parameters()):
        torch.nn.init.normal_(parameter, std=0.2)
    return built.eval()


def drawn_map() -> torch.Tensor:
    """(2, 2, 3, 24, 40): two clicks and no box; a box alone; both; nothing elsewhere."""
    drawn = torch.zeros(2, 2, 3, 24, 40, dtype=torch.uint8)
    drawn[0, 0, 1, 5, 7], drawn[0, 0, 1, 20, 30] = INSIDE, OUTSIDE
    drawn[0, 1, 2, 3:9, 10:20] = BOX
    drawn[1, 0, 0, 4:10, 11:21] = BOX
    drawn[1, 0, 0, 6, 12] |= INSIDE
    return drawn


ASKED = [  # (sample, structure, slice), SAM's point coordinates in encoder pixels and labels, SAM's box
    ((0, 0, 1), [(7, 5, 1), (30, 20, 0)], None),
    ((0, 1, 2), [], (10, 3, 19, 8)),
    ((1, 0, 0), [(12, 6, 1)], (11, 4, 20, 9)),
]


def sams_prompts(sam, points, box):
    """What segment_anything embeds; it counts pixels, two per voxel, whose centers lie 0.5 after their index."""

    def pixel(value):
        return 2 * (value + 0.5) - 0.5

    clicks = None
    if points:
        places = torch.tensor([[[pixel(x), pixel(y)] for x, y, _ in points]])
        clicks = (places, torch.tensor([[label for *_, label in points]]))
    boxes = None if box is None else torch.tensor([[pixel(value) for value in box]])
    return sam.prompt_encoder(points=clicks, boxes=boxes, masks=None)


@torch.no_grad()
def test_prompts_are_embedded_as_segment_anything_does(sam):
    sam.prompt_encoder.input_image_size = SIZE
    pairs, tokens = read_map(drawn_map(), 2.0, SIZE)
    assert [tuple(pair) for pair in pairs.tolist()] == [pair for pair, *_ in ASKED]
    given_embeddings = embed(sam.prompt_encoder, tokens)
    for row, kinds, (_, points, box) in zip(given_embeddings, tokens.kinds, ASKED, strict=True):
        sparse, _ = sams_prompts(sam, points, box)
        assert torch.allclose(row[kinds >= 0], sparse[0], atol=1e-5)
        assert not row[kinds < 0].any()


@torch.no_grad()
def test_the_masks_are_segment_anythings(sam):
    sam.prompt_encoder.input_image_size, sam.prompt_encoder.image_embedding_size = SIZE, (4, 6)
    _, tokens = read_map(drawn_map(), 2.0, SIZE)
    embedding = torch.randn(3, sam.mask_decoder.transformer_dim, 4, 6)
    found = PromptedMasks(sam, sam.mask_decoder)(embedding, tokens)
    for index, (_, points, box) in enumerate(ASKED):
        sparse, dense = sams_prompts(sam, points, box)
        expected, _ = sam.mask_decoder(
            image_embeddings=embedding[index : index + 1],
            image_pe=sam.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )
        assert torch.allclose(found[index], expected[0, 0], atol=1e-4 * float(expected.abs().max()))


@torch.no_grad()
def test_more_clicks_for_one_leave_the_others_as_they_are(sam):
    head, embedding = PromptedMasks(sam, sam.mask_decoder), torch.randn(3, sam.mask_decoder.transformer_dim, 4, 6)
    drawn = drawn_map()
    before = head(embedding, read_map(drawn, 2.0, SIZE)[1])
    drawn[0, 0, 1, :5, ::9] = INSIDE
    after = head(embedding, read_map(drawn, 2.0, SIZE)[1])
    assert torch.allclose(before[1:], after[1:], atol=1e-5) and not torch.allclose(before[0], after[0], atol=1e-2)


def test_a_map_without_prompts_has_no_pairs_and_a_click_outside_shows_nothing():
    drawn = torch.zeros(2, 3, 4, 8, 8)
    assert read_map(drawn, 1.0, (16, 16))[0].shape == (0, 3)
    drawn[0, 1, 2, 3, 4] = OUTSIDE
    pairs, tokens = read_map(drawn, 1.0, (16, 16))
    assert pairs.shape == (0, 3) and len(tokens.kinds) == 0
    drawn[0, 1, 2, 5, 5] = INSIDE
    pairs, tokens = read_map(drawn, 1.0, (16, 16))
    assert pairs.tolist() == [[0, 1, 2]] and tokens.kinds[0, :2].tolist() == [0, 1]  # SAM's outside and inside


masks = st.tuples(st.integers(0, 2**32 - 1), st.integers(4, 24), st.integers(4, 24), st.sampled_from([0.02, 0.2, 0.8]))


def mask_from(drawn) -> torch.Tensor:
    seed, height, width, share = drawn
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    return torch.rand(2, 3, 2, height, width, generator=generator) < share


@given(masks, st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_clicks_lie_inside_as_many_as_asked_for_and_possible(drawn, count):
    target = mask_from(drawn)
    found = simulated_clicks(target, count)
    assert not (found.bool() & ~target).any() and set(found.unique().tolist()) <= {0, INSIDE}
    assert torch.equal(found.bool().flatten(-2).sum(-1), target.flatten(-2).sum(-1).clamp_max(count))


@given(masks)
@settings(max_examples=60, deadline=None)
def test_a_correction_adds_one_click_where_the_network_errs(drawn):
    target = mask_from(drawn)
    logits, known = torch.randn(target.shape), torch.rand(2, *target.shape[2:]) < 0.5
    before = simulated_clicks(target, 1)
    after = corrected(before, logits, target, known | target.any(1))  # a labelled voxel is known
    added = after & ~before
    wrong = ((logits > 0) != target) & (known | target.any(1)).unsqueeze(1)
    assert after.dtype is torch.uint8
    present = target.flatten(-2).any(-1)
    assert torch.equal(added.bool().flatten(-2).sum(-1) <= 1, torch.ones_like(present))
    assert torch.equal(after.flatten(-2).any(-1), present)
    assert (
        not ((added & INSIDE > 0) & ~(target & wrong)).any() and not ((added & OUTSIDE > 0) & ~(~target & wrong)).any()
    )


@given(masks, st.sampled_from([1.0, 0.75, 0.5]), st.integers(0, 3))
@settings(max_examples=80, deadline=None)
def test_a_box_overlaps_the_tight_one_as_stated_and_is_the_same_in_its_slices(drawn, overlap, relaxation):
    target = mask_from(drawn)
    found = simulated_boxes(target, overlap=overlap, relaxation=relaxation)
    tight = simulated_boxes(target)
    assert set(found.unique().tolist()) <= {0, BOX}
    for sample in range(2):
        for structure in range(3):
            mask, box, close = (part[sample, structure] > 0 for part in (target, found, tight))
            reached, held = box.flatten(1).any(1), mask.flatten(1).any(1)
            assert not (held & ~reached).any() and (relaxation > 0 or torch.equal(reached, close.flatten(1).any(1)))
            planes = [plane for plane in box if plane.any()]
            assert all(torch.equal(plane, planes[0]) for plane in planes)
            if not mask.any():
                assert not box.any()
                continue
            assert not (mask & ~close).any()
            if relaxation == 0:
                union, both = (box | close).sum(), (box & close).sum()
                assert both / union >= overlap - 1e-6
            elif overlap == 1.0:
                assert not (close & ~box).any()
                rows = [part.any(2).any(0).nonzero() for part in (box, close)]
                assert rows[1][0] - rows[0][0] <= relaxation and rows[0][-1] - rows[1][-1] <= relaxation


def test_a_box_reaches_beyond_the_structure_along_depth_too():
    torch.manual_seed(0)
    target = torch.zeros(1, 1, 9, 12, 12, dtype=torch.bool)
    target[0, 0, 4, 3:9, 3:9] = True
    depths = {int((simulated_boxes(target, relaxation=2) > 0).flatten(3).any(3).sum()) for _ in range(60)}
    assert depths == {1, 2, 3, 4, 5}


def test_modes_are_what_they_say():
    torch.manual_seed(0)
    assert {draw_mode("mixed") for _ in range(60)} == {"points", "iterative", "box"}
    assert {draw_mode("box") for _ in range(5)} == {"box"}
    for wrong in ({"prompts": "clicks"}, {"points": 0}, {"rounds": 0}, {"box_overlap": 0.0}, {"box_relaxation": -1}):
        with pytest.raises(ConfigError):
            PromptSimulation(**wrong)


def test_no_click_is_drawn_in_an_empty_plane():
    assert not clicks_in(torch.zeros(1, 1, 2, 5, 5, dtype=torch.bool), 3).any()
