from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from phantoms import ball

from samunet.errors import CheckpointError, ConfigError, WeightsAbsentError
from samunet.fewshot import per_sam
from samunet.fewshot.choose import medoids
from samunet.fewshot.examples import References, spec_of_values
from samunet.fewshot.guided import RELEASED
from samunet.fewshot.likeness import likeness_of, reference_slices, refuse_small
from samunet.fewshot.methods import FewShot
from samunet.fewshot.models import PlanePrompts, SAMModel, model_named
from samunet.models.prompt_tokens import NO_POINT, PromptTokens
from samunet.models.prompted import PromptedMasks
from samunet.ops.overlap import overlap
from samunet.sam import hq
from samunet.sam.backbones import backbone_named
from samunet.sam.build import build_sam
from samunet.sam.high_quality import plain_decoder


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


def test_embeddings_of_one_number_format_are_none_of_another(tmp_path, disc):
    plane, found = disc.volume.array[:, 0], {}
    for precision in (None, torch.bfloat16):
        for cache in (tmp_path, None):
            model = model_named("seed", device="cpu", cache=cache)
            model.precision = precision
            found[precision, cache] = torch.cat([part.flatten() for part in model.encode(plane, (1, 1)).parts])
        assert torch.equal(found[precision, tmp_path], found[precision, None])
    assert not torch.equal(found[None, tmp_path], found[torch.bfloat16, tmp_path])
    assert {path.parts[-3] for path in tmp_path.rglob("*.safetensors")} == {"float32", "bfloat16"}


def file_of_hq_sam(folder, side):
    """A file of HQ-SAM's names and of random numbers."""
    torch.manual_seed(0)
    sam = build_sam(backbone_named("vit_nano"), (side, side))
    parts = hq.new_parts(sam)
    for parameter in parts.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    named = {f"mask_decoder.{name}": tensor for name, tensor in parts.state_dict().items()}
    torch.save(sam.state_dict() | named, folder / "sam_hq.pth")
    return folder / "sam_hq.pth"


def test_a_checkpoint_of_hq_sam_serves_as_the_model_with_its_own_token(tmp_path, disc):
    """Its single mask is that of the network of hq_sam_prompted, which a test holds against HQ-SAM's equations."""
    path = file_of_hq_sam(tmp_path, 128)
    model = SAMModel(path, side=128, cache=tmp_path / "cache")
    look = model.encode(disc.volume.array[:, 0], (1, 1))
    answer = model.decode(look, PlanePrompts(inside=np.array([[52, 70]]))).raw[0]
    parts, plain = model.sam.hq, SAMModel(path, side=128)
    head = PromptedMasks(plain.sam, plain_decoder(plain.sam), hq=True)
    fine = torch.nn.functional.pixel_shuffle(look.parts[0][:, model.width :], 4)
    shown = PromptTokens(torch.tensor([[[70.5, 52.5], [0.0, 0.0]]]) / 128, torch.tensor([[1, NO_POINT]]))
    with torch.inference_mode():
        expected = head(look.parts[0][:, : model.width], shown, fine)[0]
    torch.testing.assert_close(answer, expected, atol=1e-4, rtol=1e-4)
    assert parts is model.sam.image_encoder.parts
    references = References(spec=spec_of_values(("MR",), {0, 1}, "x", ".png"), cases=(), examples=(disc,))
    few = FewShot(references=references, model=model)
    for method in ("per_sam", "per_sam_f"):
        proposal = few.propose(method, ball((1, 96, 128), (0, 40, 60), 20, name="other"))
        assert proposal.label.shape == (1, 96, 128)


def test_a_trained_model_or_its_folder_is_refused_with_what_to_do(tmp_path, trained):
    with pytest.raises(ConfigError, match=rf"{trained.parent} is a trained model, .* samunet_annotate -m"):
        model_named(str(trained.parent), device="cpu")
    with pytest.raises(WeightsAbsentError, match=f"{trained} is a folder; give a weights file in it"):
        model_named(str(trained), device="cpu")
    with pytest.raises(CheckpointError, match="is no seed of samunet and no checkpoint of SAM"):
        model_named(str(trained / "checkpoint_final.safetensors"), device="cpu")


def test_a_checkpoint_of_sam_serves_as_the_model(tmp_path, disc):
    from safetensors.torch import save_file

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
