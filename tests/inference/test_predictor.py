"""Prediction with a trained model: geometry, folds, files, failures."""

from __future__ import annotations

import dataclasses
import shutil
import types
from concurrent.futures import ThreadPoolExecutor

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch

from samunet import pipeline
from samunet.core.codec import file_sha256
from samunet.core.dataset import Case
from samunet.core.geometry import Geometry
from samunet.core.results import finished_folds
from samunet.core.volume import Volume
from samunet.errors import CheckpointError, ConfigError, PredictionError, ShapeError
from samunet.imageio import reader_for
from samunet.imageio.objects import as_volume
from samunet.inference.load import load_predictor
from samunet.inference.predictor import PredictionOptions, Predictor

QUICK = PredictionOptions(flips=False, quiet=True)


def test_a_volume_gives_labels_on_its_own_grid(predictor):
    for shape in ((16, 40, 32), (5, 71, 23), (1, 9, 9)):
        geometry = Geometry(shape=shape, spacing=(2.0, 0.7, 1.3))
        array = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
        found = predictor.predict(Volume(array=array, geometry=geometry))
        segmentation = found.segmentation
        assert found.geometry == geometry and found.probabilities is None
        assert segmentation.shape == shape and segmentation.dtype == np.uint8
        assert set(np.unique(segmentation)) <= {0, 1, 2, 3}


def test_files_have_the_affine_shape_and_format_of_the_input(predictor, images, project, tmp_path):
    cases = pipeline.cases_to_predict(images, predictor.dataset, tmp_path)
    assert pipeline.predict(predictor, cases, tmp_path, pipeline.FileOptions(save_probabilities=True)).failures == ()
    for case in cases:
        image, output = nibabel.load(case.images[0]), nibabel.load(tmp_path / f"{case.identifier}.nii.gz")
        assert output.shape == image.shape and np.allclose(output.affine, image.affine, atol=1e-5)
        probabilities = np.load(tmp_path / f"{case.identifier}.npz")["probabilities"]
        assert probabilities.shape == (4, *image.shape[::-1]) and np.allclose(
            probabilities.sum(0, dtype=float), 1, atol=1e-3
        )
        assert (probabilities.argmax(0) == np.asarray(output.dataobj).transpose(2, 1, 0)).mean() > 0.99
    assert (tmp_path / "dataset.json").is_file() and (tmp_path / "plans.json").is_file()


def test_predicting_twice_gives_the_same_bytes_and_continuing_redoes_nothing(predictor, images, tmp_path):
    cases = pipeline.cases_to_predict(images, predictor.dataset, tmp_path)
    options = pipeline.FileOptions(readers=2, writers=2)
    pipeline.predict(predictor, cases, tmp_path / "a", options)
    pipeline.predict(predictor, cases, tmp_path / "b", options)
    name = f"{cases[0].identifier}.nii.gz"
    assert file_sha256(tmp_path / "a" / name) == file_sha256(tmp_path / "b" / name)
    before = (tmp_path / "a" / name).stat().st_mtime_ns
    pipeline.predict(predictor, cases, tmp_path / "a", options, skip_existing=True)
    assert (tmp_path / "a" / name).stat().st_mtime_ns == before
    right = nibabel.load(tmp_path / "b" / name)
    nibabel.save(
        nibabel.Nifti1Image(np.asarray(right.dataobj), right.affine + np.eye(4, 4, 3) * 5), tmp_path / "a" / name
    )  # another grid
    pipeline.predict(predictor, cases, tmp_path / "a", options, skip_existing=True)
    assert file_sha256(tmp_path / "a" / name) == file_sha256(tmp_path / "b" / name)


def test_a_failing_case_is_named_and_the_others_finish(predictor, images, tmp_path):
    good = pipeline.cases_to_predict(images, predictor.dataset, tmp_path)[0]
    broken = tmp_path / "broken_0000.nii.gz"
    broken.write_bytes(good.images[0].read_bytes()[:300])
    bad = Case(identifier="broken", images=(broken, good.images[1]), label=None)
    out = tmp_path / "out"
    failures = pipeline.predict(predictor, [bad, good], out).failures
    assert [failure.identifier for failure in failures] == ["broken"] and "broken_0000.nii.gz" in failures[0].reason
    assert (
        (out / f"{good.identifier}.nii.gz").is_file() and not list(out.glob("broken*")) and not list(out.glob(".part*"))
    )


def test_two_folds_are_averaged(trained, tmp_path, images):
    model = shutil.copytree(trained.parent, tmp_path / trained.parent.name)
    shutil.copytree(model / "fold_0", model / "fold_1")
    assert finished_folds(model) == ("0", "1")
    both = load_predictor(model, device="cpu", options=QUICK)
    with torch.no_grad():
        for parameter in both.networks[1].outputs.parameters():
            parameter.zero_()  # the second fold says nothing but what its token head adds
        for parameter in both.networks[1].head.weights_of[-1].parameters():
            parameter.zero_()
    one = load_predictor(model, folds=["0"], device="cpu", options=QUICK)
    reader = reader_for(".nii.gz")
    case = one.preprocess(reader.read_image(sorted(images.glob("*"))[:2]))
    assert torch.allclose(both.scores(case).logits, one.scores(case).logits / 2, atol=1e-5)


def test_untrained_folds_and_wrong_folders_are_refused(trained, tmp_path):
    with pytest.raises(CheckpointError, match="Fold 3 of .* is not trained.*Folds with that checkpoint: 0"):
        load_predictor(trained.parent, folds=["3"])
    with pytest.raises(CheckpointError, match="is not a trained model; it has no plans.json"):
        load_predictor(tmp_path)
    with pytest.raises(CheckpointError, match="has no fold with other.safetensors"):
        load_predictor(trained.parent, checkpoint="other")


def test_checkpoint_names_work_with_and_without_ending(trained):
    for name in ("checkpoint_best", "checkpoint_best.safetensors"):
        assert len(load_predictor(trained.parent, checkpoint=name, device="cpu").networks) == 1


def test_the_step_size_is_a_share():
    with pytest.raises(ConfigError, match=r"step size must be above 0 and at most 1; got 1.5"):
        PredictionOptions(step_size=1.5)


def test_every_kind_of_image_gives_the_same_segmentation(predictor, images):
    paths = sorted(images.glob("*_000?.nii.gz"))[:2]
    expected = predictor.predict(paths)
    volume = reader_for(".nii.gz").read_image(paths)
    stacked = sitk.JoinSeries([sitk.ReadImage(str(path)) for path in paths])
    nifti = nibabel.load(paths[0])
    both = nibabel.Nifti1Image(
        np.stack([np.asarray(nibabel.load(path).dataobj) for path in paths], axis=-1), nifti.affine, nifti.header
    )
    kinds = {
        "volume": volume,
        "array and spacing": (volume.array, volume.geometry.spacing),
        "SimpleITK": stacked,
        "nibabel": both,
        "text": [str(path) for path in paths],
    }
    for name, image in kinds.items():
        found = predictor.predict(image)
        np.testing.assert_array_equal(found.zyx, expected.segmentation, err_msg=name)
        np.testing.assert_array_equal(found.segmentation, found.zyx.T if name == "nibabel" else found.zyx)
        if name != "array and spacing":
            assert found.geometry.corner_distance_mm(expected.geometry) < 1e-4, name
    many = predictor.predict_many([volume, paths], probabilities=True)
    for found in many:
        np.testing.assert_array_equal(found.segmentation, expected.segmentation)
        assert found.probabilities.shape == (4, *expected.segmentation.shape)


def test_many_images_are_predicted_one_by_one(predictor, images):
    asked = []

    def paths():
        for _ in range(3):
            asked.append(1)
            yield sorted(images.glob("*_000?.nii.gz"))[:2]

    next(predictor.predict_many(paths()))
    assert len(asked) == 1


def test_two_threads_share_a_predictor(predictor):
    random = np.random.default_rng(0)
    pictures = [(random.normal(size=(2, 16, 40, 32)).astype(np.float32), (2.0, 1.0, 1.0)) for _ in range(4)]
    alone = [predictor.predict(picture).segmentation for picture in pictures]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(lambda picture: predictor.predict(picture).segmentation, pictures))
    assert all(np.array_equal(one, two) for one, two in zip(alone, together, strict=True))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ((np.zeros((4, 5)), (1.0, 1.0, 1.0)), "two; got shape"),
        ((np.zeros((2, 4, 5, 6)), (1.0, 0.0, 1.0)), "positive spacings"),
        ((np.zeros((4, 5, 6)), (1.0, 1.0, 1.0)), "has 1 channel; the model was trained on 2"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(predictor, image, message):
    with pytest.raises(ShapeError, match=message):
        predictor.predict(image)


PICTURE = (np.random.default_rng(3).normal(size=(2, 16, 40, 32)).astype(np.float32), (2.0, 1.0, 1.0))


def with_network(predictor, network, **options) -> Predictor:
    """A predictor with a stand-in for its network."""
    return dataclasses.replace(
        predictor, networks=(network,), options=PredictionOptions(**{"flips": False, "quiet": True, **options})
    )


def test_a_device_that_runs_out_of_memory_takes_fewer_tiles_and_then_says_so(predictor):
    real, tried = predictor.networks[0], []

    def small_device(tiles):
        tried.append(len(tiles))
        if len(tiles) > fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(tiles)

    fits, large = 2, (np.ones((2, 40, 90, 70), np.float32), PICTURE[1])
    generous = with_network(predictor, small_device, tile_batch=8)
    np.testing.assert_array_equal(generous.predict(large).segmentation, predictor.predict(large).segmentation)
    assert tried[:3] == [8, 4, 2]
    fits = 0
    with pytest.raises(PredictionError, match="memory of cpu does not hold one tile of .* voxels beside the sums"):
        generous.predict(PICTURE)


def test_a_cpu_without_memory_says_so_in_words_of_its_own(predictor):
    def without_memory(tiles):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory")

    with pytest.raises(PredictionError, match="memory of cpu does not hold .* keep sums in a file with --max_ram"):
        with_network(predictor, without_memory).predict(PICTURE)


def test_a_precision_is_one_of_four(predictor):
    kinds = []
    watched = with_network(
        predictor,
        lambda tiles: kinds.append(torch.is_autocast_enabled("cpu")) or torch.zeros(len(tiles), 4, *tiles.shape[2:]),
    )
    for precision, on in (("fp32", False), ("bf16", True)):
        dataclasses.replace(watched, options=PredictionOptions(flips=False, quiet=True, precision=precision)).predict(
            PICTURE
        )
        assert kinds.pop() is on
    with pytest.raises(ConfigError, match="one of auto, bf16, fp16, fp32; got 'fp8'"):
        PredictionOptions(precision="fp8")


def test_sums_leave_a_full_device(predictor, monkeypatch):
    real, calls = predictor.networks[0], []

    def full_at_first(tiles):
        calls.append(len(tiles))
        if len(calls) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(tiles)

    expected = predictor.predict(PICTURE)
    monkeypatch.setattr(
        "samunet.inference.predictor.best_place", lambda *_: torch.device("meta")
    )  # results there could not be read
    np.testing.assert_array_equal(
        with_network(predictor, full_at_first).predict(PICTURE).segmentation, expected.segmentation
    )


def test_values_that_are_not_finite_are_refused(predictor):
    broken = with_network(predictor, lambda tiles: torch.full((len(tiles), 4, *tiles.shape[2:]), float("nan")))
    with pytest.raises(PredictionError, match="gave values that are not finite"):
        broken.predict(PICTURE)


def test_folds_hold_their_frozen_backbone_once(trained, tmp_path):
    model = shutil.copytree(trained.parent, tmp_path / trained.parent.name)
    shutil.copytree(model / "fold_0", model / "fold_1")
    first, second = load_predictor(model, device="cpu", options=QUICK).networks
    frozen = {name: parameter for name, parameter in first.named_parameters() if not parameter.requires_grad}
    shared = {
        name
        for name, parameter in second.named_parameters()
        if name in frozen and parameter.data_ptr() == frozen[name].data_ptr()
    }
    assert shared == set(frozen)
    own = [name for name, parameter in second.named_parameters() if parameter.requires_grad]
    theirs = dict(first.named_parameters())
    assert own and all(
        theirs[name].data_ptr() != parameter.data_ptr() for name, parameter in second.named_parameters() if name in own
    )


def test_slab_votes_are_the_mean_probabilities_of_all_slabs_that_hold_a_slice(predictor):
    """MA-SAM's way: end slices repeated, a slab around every slice, softmax votes counted alike: 3, 4, 5, ..., 5, 4, 3
    of them.
    """
    depth = 5
    configuration = dataclasses.replace(
        predictor.configuration, patch_size=(depth, 40, 32), spacing=PICTURE[1], mirror_axes=()
    )
    votes = []

    def network(tiles):
        votes.append(tiles.clone())
        places = torch.arange(depth, dtype=torch.float32)[:, None, None]  # the answer depends on the place in the slab
        return torch.cat([tiles[:, :1], tiles[:, 1:], tiles[:, :1] * places, tiles[:, 1:] - places], 1)

    voting = dataclasses.replace(with_network(predictor, network, slab_votes=True), configuration=configuration)
    image = voting.preprocess(as_volume(PICTURE, reader_for(".nii.gz"))).image
    found = voting.scores(types.SimpleNamespace(image=image)).logits.softmax(0)
    assert len(votes) == 16
    padded = torch.from_numpy(np.pad(image, [(0, 0), (2, 2), (0, 0), (0, 0)], mode="edge"))
    total, count = torch.zeros(4, 20, 40, 32), torch.zeros(20)
    for start in range(16):
        slab = padded[None, :, start : start + depth]
        total[:, start : start + depth] += network(slab)[0].softmax(0)
        count[start : start + depth] += 1
    assert count[2:-2].tolist() == [3, 4, *[5] * 12, 4, 3]
    torch.testing.assert_close(found, (total / count[:, None, None])[:, 2:-2], atol=1e-5, rtol=1e-4)


def test_the_slab_step_is_in_slices(predictor):
    slabs = []

    def network(tiles):
        slabs.append(tiles)
        return torch.zeros(len(tiles), 4, *tiles.shape[2:])

    configuration = dataclasses.replace(predictor.configuration, patch_size=(4, 40, 32), spacing=PICTURE[1])
    for step, count in ((1, 13), (2, 7), (3, 5), (4, 4), (9, 4)):
        slabs.clear()
        dataclasses.replace(with_network(predictor, network, slab_step=step), configuration=configuration).predict(
            PICTURE
        )
        assert len(slabs) == count, step
    for wrong in ({"slab_step": 0}, {"slab_step": 2, "slab_votes": True}):
        with pytest.raises(ConfigError, match="slab"):
            PredictionOptions(**wrong)


def test_uncertainty_is_where_flips_disagree(predictor):
    def network(tiles):
        """Certain of class 1 in the left half of what it is shown, of class 0 elsewhere."""
        left = torch.linspace(1, -1, tiles.shape[-1]).sign().expand(len(tiles), 1, *tiles.shape[2:])
        return torch.cat([-50 * left, 50 * left, torch.full_like(left, -100), torch.full_like(left, -100)], 1)

    configuration = dataclasses.replace(
        predictor.configuration, mirror_axes=(2,), patch_size=(16, 40, 32), spacing=PICTURE[1]
    )
    both = dataclasses.replace(
        with_network(predictor, network, flips=True, uncertainty=True), configuration=configuration
    )
    np.testing.assert_allclose(
        both.predict(PICTURE).uncertainty, 1, atol=1e-5
    )  # what one calls left, the other does not
    configuration = dataclasses.replace(configuration, mirror_axes=(1,))
    agreed = dataclasses.replace(both, configuration=configuration).predict(PICTURE)
    np.testing.assert_allclose(agreed.uncertainty, 0, atol=1e-5)
    assert agreed.uncertainty.shape == agreed.segmentation.shape == (16, 40, 32)
    with pytest.raises(ConfigError, match="here is one fold without flips"):
        with_network(predictor, network, uncertainty=True)


@pytest.mark.slow
def test_compiled_networks_give_the_same_segmentation(trained, predictor):
    compiled = load_predictor(trained.parent, device="cpu", options=QUICK, compile=True)
    assert (compiled.predict(PICTURE).segmentation == predictor.predict(PICTURE).segmentation).mean() > 0.999
