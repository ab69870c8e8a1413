"""The models that segment planes and volumes, and their embeddings on disk."""

from __future__ import annotations

from copy import copy

import numpy as np
import pytest
import torch
from annotating import Discs, volume

from samunet.checkpoints.seeds import shipped_seed
from samunet.core.codec import file_sha256, read_json, write_json
from samunet.core.geometry import Geometry
from samunet.core.prompts import BOX, INSIDE, MASK, OUTSIDE
from samunet.core.volume import Volume
from samunet.errors import CheckpointError, ConfigError, InUseError, ShapeError
from samunet.imageio import reader_of_image
from samunet.interaction.embeddings import Embeddings, image_sha256
from samunet.interaction.session import Session
from samunet.interaction.slices import SAMModel, SeedModel
from samunet.interaction.volumes import VolumeModel
from samunet.sam.backbones import backbone_named
from samunet.sam.build import build_sam
from samunet.sam.hq import new_parts

SQUARE = (1.0, 1.0)


@pytest.fixture(scope="module")
def seed():
    return SeedModel(shipped_seed(2))


@pytest.fixture(scope="module")
def sam(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("sam") / "sam_vit_nano.pth"
    torch.save(build_sam(backbone_named("vit_nano"), (96, 96)).state_dict(), path)
    return SAMModel(path, side=96)


def scene(shape, center=(0.5, 0.4), radii=(0.15, 0.1)):
    """A bright ellipse on a dark plane, at places and of radii that are shares of its sides."""
    h, w = (np.arange(size) / size for size in shape)
    mask = ((h[:, None] - center[0]) / radii[0]) ** 2 + ((w - center[1]) / radii[1]) ** 2 <= 1
    noise = np.random.default_rng(0).normal(scale=0.2, size=shape)
    return (mask + noise).astype(np.float32)[None], mask


def dice(one, other):
    return 2 * (one & other).sum() / (one.sum() + other.sum())


@pytest.mark.parametrize("shape, spacing", [((200, 200), SQUARE), ((300, 120), SQUARE), ((25, 200), (8.0, 1.0))])
def test_the_seed_segments_a_clicked_ellipse_whatever_the_size_of_the_plane(seed, shape, spacing):
    """A plane of thick slices is seen in its true proportions: 25 x 200 pixels of 8 x 1 mm are a square."""
    plane, mask = scene(shape)
    drawn = np.zeros(shape, np.uint8)
    drawn[int(0.5 * shape[0]), int(0.4 * shape[1])] = INSIDE
    answer = seed.answer(seed.encode(plane, spacing), drawn, spacing)
    assert answer.mask.shape == shape and dice(answer.mask, mask) > 0.85
    assert answer.quality > 0.6


def test_a_thin_box_and_a_small_mask_do_not_vanish_where_a_plane_is_reduced(seed):
    plane, _ = scene((600, 600))
    features = seed.encode(plane, SQUARE)
    drawn = np.zeros((600, 600), np.uint8)
    empty = seed.answer(features, drawn, SQUARE).mask
    for bit in (BOX, MASK):
        drawn[:] = 0
        drawn[300:302, 240:242] = bit
        assert not np.array_equal(seed.answer(features, drawn, SQUARE).mask, empty)


def test_sam_answers_as_the_packages_own_predictor_does(sam):
    """Compared with segment_anything's SamPredictor on a plane that needs no resizing."""
    from segment_anything import SamPredictor

    plane, _ = scene((96, 96))
    low, high = np.percentile(plane, (0.5, 99.5))
    shown = (np.clip((plane[0] - low) / (high - low), 0, 1) * 255)[..., None].repeat(3, 2)
    predictor = SamPredictor(sam.sam)
    predictor.features = predictor.model.image_encoder(
        (torch.from_numpy(shown).permute(2, 0, 1)[None].float() - predictor.model.pixel_mean)
        / predictor.model.pixel_std
    )
    predictor.is_image_set, predictor.original_size, predictor.input_size = True, (96, 96), (96, 96)
    predictor.transform.target_length = predictor.model.image_encoder.img_size = 96
    drawn = np.zeros((96, 96), np.uint8)
    drawn[20:70, 30:60] = BOX
    drawn[40, 50] |= INSIDE
    drawn[10, 10] |= OUTSIDE
    features = {"embedding": predictor.features}
    masks, quality, _ = predictor.predict(
        np.array([[10, 10], [50, 40]]), np.array([0, 1]), box=np.array([30, 20, 59, 69]), multimask_output=False
    )
    answer = sam.answer(features, drawn, SQUARE)
    assert np.array_equal(answer.mask, masks[0]) and answer.mask.any()
    assert answer.quality == pytest.approx(np.clip(quality[0], 0, 1), abs=1e-5)
    drawn[:] = 0
    drawn[40, 50] = INSIDE
    masks, quality, _ = predictor.predict(np.array([[50, 40]]), np.array([1]), multimask_output=True)
    assert np.array_equal(sam.answer(features, drawn, SQUARE).mask, masks[quality.argmax()])


def test_sam_hears_an_earlier_mask(sam):
    plane, mask = scene((96, 96))
    features, drawn = sam.encode(plane, SQUARE), np.zeros((96, 96), np.uint8)
    drawn[48, 40] = INSIDE
    alone = sam.answer(features, drawn, SQUARE).mask
    assert not np.array_equal(sam.answer(features, drawn | mask * np.uint8(MASK), SQUARE).mask, alone)


def test_what_is_no_weights_file_of_these_models_is_refused(tmp_path):
    torch.save({"conv.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="no seed of samunet and no checkpoint of SAM"):
        SAMModel(tmp_path / "other.pth")


class Counting(Discs):
    def answer(self, features, drawn, spacing):
        self.seen = features["plane"]
        return super().answer(features, drawn, spacing)


def test_embeddings_made_beforehand_are_read_and_not_made_again(tmp_path):
    image, folder = volume(), tmp_path / "embeddings"
    maker = Embeddings(image, Counting(), image_sha256(image), folder)
    assert maker.size((0,)) == 2 * 6 * 10 * 12 and maker.size((0, 2)) == 2 * 2 * 6 * 10 * 12
    told = []
    maker.fill((0, 2), lambda done, of: told.append((done, of)) is None)
    assert told[0] == (1, 18) and told[-1] == (18, 18)
    reader = Counting()
    looks = Embeddings(image, reader, image_sha256(image), folder)
    assert looks.missing((0, 1, 2)) == (1,)
    for axis, index in ((0, 3), (2, 7)):
        plane = np.moveaxis(image.array, axis + 1, 0)[index]
        assert np.array_equal(looks.of(axis, index)["plane"].numpy()[0], plane.astype(np.float16))
    assert reader.encoded == 0
    looks.of(1, 0)
    assert reader.encoded == 1


def test_embeddings_of_another_axis_are_added(tmp_path):
    image, folder = volume(), tmp_path / "embeddings"
    for axis in (1, 0):
        Embeddings(image, Discs(), image_sha256(image), folder).fill((axis,))
    assert Embeddings(image, Discs(), image_sha256(image), folder).missing((0, 1, 2)) == (2,)


def test_answers_are_the_same_from_the_disk_and_from_the_image(tmp_path, seed):
    image, folder = volume(Geometry(shape=(3, 40, 50), spacing=(1, 1, 1))), tmp_path / "embeddings"
    Embeddings(image, seed, image_sha256(image), folder).fill((0,))
    answers = []
    for name, embeddings in (("a", None), ("b", folder)):
        with Session(image, seed, tmp_path / name / "x.nii.gz", embeddings=embeddings) as session:
            session.name_object()
            session.add_prompt("point", [(1, 20, 20)], value=1)
            answers.append(session.labels().tobytes())
    assert answers[0] == answers[1]


def test_embeddings_of_another_image_or_model_are_refused(tmp_path):
    image, folder = volume(), tmp_path / "embeddings"
    Embeddings(image, Discs(), image_sha256(image), folder).fill((0,))
    other = volume(seed=1)
    with pytest.raises(CheckpointError, match="are of another image"):
        Embeddings(other, Discs(), image_sha256(other), folder)
    header = read_json(folder / "embeddings.json")
    write_json(folder / "embeddings.json", header | {"model": "other"})
    with pytest.raises(CheckpointError, match="are of another model"):
        Embeddings(image, Discs(), image_sha256(image), folder)


def test_embeddings_with_other_channels_than_the_models_are_refused_by_name(tmp_path):
    image, folder, model = volume(), tmp_path / "embeddings", Discs()
    Embeddings(image, Discs(), image_sha256(image), folder).fill((0,))
    model.channels = {"plane": 3}
    with pytest.raises(CheckpointError, match=rf"'plane' of .*{folder} has the shape .*, where 3 channels are discs's"):
        Embeddings(image, model, image_sha256(image), folder)


def test_embeddings_of_hq_sam_from_before_its_finer_features_were_kept_are_refused(tmp_path, sam):
    path = tmp_path / "sam_hq.pth"
    parts = {f"mask_decoder.{name}": tensor for name, tensor in new_parts(sam.sam).state_dict().items()}
    torch.save(sam.sam.state_dict() | parts, path)
    model, image = SAMModel(path, side=96), volume(Geometry(shape=(1, 20, 20), spacing=(1, 1, 1)))
    assert model.sha256 == f"{file_sha256(path)}-96-hq" and sam.sha256.endswith("-96")
    for one in (model, sam):
        assert one.encode(image.array[0], SQUARE)["embedding"].shape[1] == one.channels["embedding"]
    older = copy(sam)
    older.sha256 = f"{file_sha256(path)}-96"
    Embeddings(image, older, image_sha256(image), tmp_path).fill((0,))
    short = file_sha256(path)[:12]
    with pytest.raises(CheckpointError, match=rf"of another model \(SHA-256 {short}-96, here {short}-96-hq\)"):
        Embeddings(image, model, image_sha256(image), tmp_path)


def test_embedding_that_was_stopped_leaves_no_header(tmp_path):
    image, folder = volume(), tmp_path / "embeddings"
    looks = Embeddings(image, Discs(), image_sha256(image), folder)
    looks.fill((0,), lambda done, of: done < 3)
    assert not (folder / "embeddings.json").exists() and looks.missing((0,)) == (0,)


def test_an_axis_that_is_done_is_kept_where_the_next_one_fails(tmp_path):
    image, folder = volume(), tmp_path / "embeddings"

    def full(done, of):
        if done > 8:
            raise OSError(28, "No space left on device")
        return True

    with pytest.raises(OSError, match="No space left"):
        Embeddings(image, Discs(), image_sha256(image), folder).fill((0, 1), full)
    assert sorted(path.name for path in folder.iterdir()) == ["axis0_plane.b2nd", "embeddings.json"]
    assert Embeddings(image, Discs(), image_sha256(image), folder).missing((0, 1)) == (1,)


def test_two_processes_do_not_fill_one_folder_and_the_second_takes_what_the_first_made(tmp_path):
    image, folder = volume(), tmp_path / "embeddings"
    one, other = (Embeddings(image, Discs(), image_sha256(image), folder) for _ in range(2))

    def meanwhile(done, of):
        if done == 3:
            with pytest.raises(InUseError, match="is in use by"):
                other.fill((0,))
        return True

    one.fill((0,), meanwhile)
    made = other.model.encoded
    other.fill((0, 2))
    assert other.model.encoded == made + 12 and other.missing((0, 2)) == ()


def test_damaged_embeddings_are_refused_by_name(tmp_path):
    image, folder = volume(), tmp_path / "embeddings"
    Embeddings(image, Discs(), image_sha256(image), folder).fill((0,))
    (folder / "axis0_plane.b2nd").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match=f"{folder} cannot be read .* make them again with samunet_embed"):
        Embeddings(image, Discs(), image_sha256(image), folder)


@pytest.fixture(scope="module")
def prompted(project, tmp_path_factory):
    """A fold of the default model with prompts, of one step."""
    options = {"results": tmp_path_factory.mktemp("prompted"), "configuration": "3d_adapter_prompted"}
    return project.train(**options, config={"epochs": 1, "iterations": 1}, validate=False).parent


def test_a_trained_model_segments_a_whole_object_from_one_click(prompted, project, images, tmp_path, monkeypatch):
    model = VolumeModel(prompted, "cpu")
    files = sorted(images.iterdir())[:2]
    image = reader_of_image(files[0], None).read_image(files)
    seen = []
    monkeypatch.setattr(
        type(model.predictor.networks[0]),
        "forward",
        lambda self, image, drawn: (
            seen.append(drawn) or torch.cat([-drawn[:, :1].float().flip(2), drawn.float() - 0.5], 1)
        ),
    )
    with Session(image, model, tmp_path / "x.nii.gz") as session:
        session.name_object("anything")
        point = tuple(size // 2 for size in image.geometry.shape)
        session.add_prompt("point", [point], value=1, axis=1)
        assert session.state.draft.index is None and (seen[0] == INSIDE).any()
        assert session.labels()[point] == 1
        session.set_object(session.labels() == 1, value=1)
        session.add_prompt("point", [point], value=1, include=False)
        assert (seen[-1].to(torch.uint8) & MASK > 0).any() and (seen[-1].to(torch.uint8) & OUTSIDE > 0).any()
        session.discard()
        session.add_prompt("point", [point], value=1, axis=0)
        session.add_prompt("point", [tuple(at - 1 for at in point)], value=1, axis=2)  # in another view, of one draft
        assert len(session.state.draft.prompts) == 2
        one_plane = np.zeros(image.geometry.shape, bool)
        one_plane[point[0], 5:9, 5:9] = True
        session.set_object(one_plane, value=1)
        with pytest.raises(ConfigError, match="segments volumes, and not plane by plane"):
            session.propagate(point[0], value=1)
    with pytest.raises(ShapeError, match="has 1 channel; model"):
        model.open(Volume(array=image.array[:1], geometry=image.geometry))


def test_a_model_without_prompts_is_refused(trained):
    with pytest.raises(ConfigError, match="segments without prompts"):
        VolumeModel(trained.parent, "cpu")
