from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from phantoms import ball

from samunet.errors import ConfigError
from samunet.fewshot import per_sam
from samunet.fewshot.choose import medoids
from samunet.fewshot.examples import References, spec_of_values
from samunet.fewshot.guided import RELEASED
from samunet.fewshot.likeness import likeness_of, reference_slices, refuse_small
from samunet.fewshot.methods import FewShot
from samunet.fewshot.models import PlanePrompts, SAMModel, model_named
from samunet.ops.overlap import overlap


@pytest.fixture(scope="module")
def seed():
    return model_named("seed", device="cpu")


@pytest.fixture(scope="module")
def disc():
    return ball((1, 128, 128), (0, 52, 70), 24, name="disc")


def likeness(model, example, value=1):
    return likeness_of(reference_slices(model, example, 0, (value,))[value])


def test_on_the_reference_itself_the_cascade_is_no_worse_than_a_click_at_the_center(seed):
    uniform = ball((1, 128, 128), (0, 52, 70), 24)
    uniform.volume.array[:, uniform.label == 2] += 90
    uniform.label[uniform.label == 2] = 1
    look = seed.encode(uniform.volume.array[:, 0], (1, 1))
    found = per_sam.find(seed, look, likeness(seed, uniform), 0.5, form=RELEASED)
    clicked = seed.decode(look, PlanePrompts(inside=np.array([[52, 70]]))).raw[0]
    ious = [overlap(uniform.label[0], part > 0, (1,)).iou for part in (found.logits, look.frame.enlarge(clicked))]
    assert ious[0] >= ious[1] > 0.9


def test_guidance_of_an_image_twice_as_wide_as_high_lies_on_the_object(seed, disc):
    wide = ball((1, 64, 128), (0, 40, 100), 16, seed=1)
    look = seed.encode(wide.volume.array[:, 0], (1, 1))
    clue = per_sam.clues(seed, look, likeness(seed, disc), 0.5, RELEASED)
    row, column = np.unravel_index(int(clue.guidance.attention.argmax()), clue.guidance.attention.shape)
    assert clue.guidance.attention.shape == (32, 32)
    assert np.hypot(4 * row + 2 - 40, 4 * column + 2 - 100) <= 18
    assert wide.label[0][tuple(clue.prompts.inside[0])] > 0 == wide.label[0][tuple(clue.prompts.outside[0])]


def test_all_pieces_of_a_structure_in_pieces_are_found(seed):
    pair = []
    for number, centers in enumerate((((32, 30), (90, 96)), ((40, 90), (92, 36)))):
        one, other = (ball((1, 128, 128), (0, *center), 15, name=f"case{number}", seed=number) for center in centers)
        both = np.maximum(one.label, other.label)
        array = one.volume.array + np.float32(60) * ((both > 0) & (one.label == 0))
        array[:, one.label == 2] += 90
        volume = replace(one.volume, array=array)
        pair.append(replace(one, volume=volume, label=(both > 0).astype(np.int16)))
    described = spec_of_values(("MR",), {0, 1}, "x", ".png")
    few = FewShot(references=References(spec=described, cases=(), examples=(pair[0],)), model=seed)
    label = few.propose("per_sam", pair[1]).label
    assert min(np.mean(label[0, row - 8 : row + 8, column - 8 : column + 8]) for row, column in centers) > 0.9


def test_prototypes_are_sought_near_the_slices_that_they_are_from(seed):
    example = ball((11, 64, 64), (2, 32, 32), 2.5)
    found = likeness(seed, example)
    tokens = seed.tokens(seed.encode(example.volume.array[:, 2], (1, 1)))
    assert found.at(tokens, 0.2) is not None and found.at(tokens, 0.9) is None


def test_a_slice_with_nothing_as_alike_as_the_references_parts_has_nothing_of_the_structure(seed, disc):
    look, found = seed.encode(disc.volume.array[:, 0], (1, 1)), likeness(seed, disc)
    highest = per_sam.clues(seed, look, found, 0.5, RELEASED).similarity
    assert 0.4 < found.threshold < highest
    strict, lenient = (replace(found, threshold=highest + step) for step in (1e-3, -1e-3))
    assert per_sam.find(seed, look, strict, 0.5, form=RELEASED) is None
    assert per_sam.find(seed, look, lenient, 0.5, form=RELEASED) is not None


def test_the_weights_of_per_sam_f_find_the_candidate_that_is_right():
    target = torch.zeros(2, 32, 32)
    target[:, 8:20, 8:20] = 1
    right, wrong = 6 * target - 3, torch.randn(2, 2, 32, 32)
    weights = per_sam.fitted(torch.stack([wrong[:, 0], right, wrong[:, 1]], dim=1), target)
    assert float(weights.sum()) == pytest.approx(1, abs=1e-5)
    assert weights.argmax() == 1 and weights[1] > 1 / 3 + 0.2


def test_a_structure_smaller_than_a_token_is_refused_by_name(seed):
    speck = ball((1, 512, 512), (0, 100, 100), 2.2)
    with pytest.raises(ConfigError, match=r"Class 'core' takes 0\.\d+ of a token .* --method registration"):
        refuse_small(seed, [speck], 0, {2: "core"})


def test_medoids_of_three_clusters_are_one_of_each():
    random = np.random.default_rng(0)
    centers = 20 * np.eye(3, 8)
    vectors = [centers[index % 3] + random.normal(0, 1, 8) for index in range(15)]
    assert {index % 3 for index in medoids(vectors, 3)} == {0, 1, 2}
    with pytest.raises(ConfigError, match="-n is the number of cases to choose, 1 to 15"):
        medoids(vectors, 16)


def test_embeddings_are_kept_by_model_and_image(tmp_path, disc):
    plain, keeping = (model_named("seed", device="cpu", cache=cache) for cache in (None, tmp_path))
    plane = disc.volume.array[:, 0]
    once, again, without = (model.encode(plane, (1, 1)) for model in (keeping, keeping, plain))
    assert len(list(tmp_path.rglob("*.safetensors"))) == 1
    for one, other, third in zip(once.parts, again.parts, without.parts, strict=True):
        assert torch.equal(one, other) and torch.equal(one, third)
    keeping.encode(plane + np.float32(1) * (plane > 50), (1, 1))
    assert len(list(tmp_path.rglob("*.safetensors"))) == 2


def test_a_checkpoint_of_sam_serves_as_the_model(tmp_path, disc):
    from safetensors.torch import save_file

    from samunet.sam.backbones import backbone_named
    from samunet.sam.build import build_sam

    torch.manual_seed(0)
    sam = build_sam(backbone_named("vit_nano"), (128, 128))
    save_file(sam.state_dict(), tmp_path / "sam.safetensors")
    model = SAMModel(tmp_path / "sam.safetensors", side=128)
    few = FewShot(
        references=References(spec=spec_of_values(("MR",), {0, 1}, "x", ".png"), cases=(), examples=(disc,)),
        model=model,
    )
    for method in ("per_sam", "per_sam_f"):
        proposal = few.propose(method, ball((1, 96, 128), (0, 40, 60), 20, name="other"))
        assert proposal.label.shape == (1, 96, 128) and {*np.unique(proposal.label)} <= {0, 1}
