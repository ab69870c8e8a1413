"""Predicting files: memory budget, files of probabilities, interruption, broken results, several inputs."""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
import weakref

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from samunet import pipeline
from samunet.cli import predict as command
from samunet.core.codec import atomic_path, file_sha256
from samunet.core.dataset import Case
from samunet.core.geometry import Geometry
from samunet.core.memory import available_memory
from samunet.errors import ConfigError, DatasetError
from samunet.imageio.case import CaseSize
from samunet.inference import files
from samunet.inference.budget import Budget, Need, describe, estimate
from samunet.inference.predictor import Predictor
from samunet.inference.probabilities import forecast, open_probabilities, write_probabilities


def test_probabilities_come_back_plane_by_plane(tmp_path):
    array = np.random.default_rng(0).random((5, 3, 4, 6)).astype(np.float32)
    write_probabilities(tmp_path / "a.npz", iter(array), 5)
    stored = np.load(tmp_path / "a.npz")["probabilities"]
    assert stored.dtype == np.float16 and stored.shape == array.shape
    np.testing.assert_array_equal(stored[array < 0.5].astype(float) * 4096, np.rint(array[array < 0.5] * 4096))
    np.testing.assert_allclose(stored, array, atol=1 / 2048)
    for name, stored in {
        "half": array.astype(np.float16),
        "columns": np.asfortranarray(array),
        "double": array.astype(float),
    }.items():
        np.savez_compressed(tmp_path / f"{name}.npz", probabilities=stored)
        with open_probabilities(tmp_path / f"{name}.npz") as opened:
            assert opened.shape == array.shape
            planes = list(opened.planes())
        assert all(plane.dtype == np.float32 for plane in planes)
        np.testing.assert_allclose(np.stack(planes), array, atol=1e-3 if name == "half" else 1e-7)


def test_planes_of_probabilities_are_all_that_is_in_memory(tmp_path):
    def planes():
        for _ in range(40):
            yield np.zeros((8, 64, 64), np.float32)

    tracemalloc.start()
    try:
        write_probabilities(tmp_path / "a.npz", planes(), 40)
        with open_probabilities(tmp_path / "a.npz") as opened:
            assert sum(1 for _ in opened.planes()) == 40
        assert tracemalloc.get_traced_memory()[1] < 8 * 8 * 64 * 64 * 4
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("damage", ["absent", "text", "short", "flat", "whole numbers", "flipped"])
def test_damaged_probabilities_are_refused_by_name(tmp_path, damage):
    path = tmp_path / "case.npz"
    if damage == "text":
        path.write_text("not a zip file")
    elif damage in ("flat", "whole numbers"):
        np.savez(path, probabilities=np.zeros((2, 3)) if damage == "flat" else np.zeros((2, 3, 3, 3), int))
    elif damage != "absent":
        np.savez_compressed(path, probabilities=np.random.default_rng(0).random((2, 8, 8, 8)))
        payload = bytearray(path.read_bytes())
        payload[len(payload) // 2] ^= 0xFF
        path.write_bytes(bytes(payload[:400]) if damage == "short" else bytes(payload))
    with (
        pytest.raises(
            DatasetError, match="case.npz cannot be read .*; predict the case again with --save_probabilities"
        ),
        open_probabilities(path) as opened,
    ):
        list(opened.planes())


def test_a_budget_lets_cases_in_while_they_fit_and_one_always():
    budget = Budget(limit=100)
    small, large = Need(volumes=10, scores=30), Need(volumes=60, scores=90)
    assert budget.scores_fit(small) and not budget.scores_fit(large)
    assert budget.fits(large)
    budget.begin("a", large)  # 60: its scores go to a file
    assert budget.fits(small)
    budget.begin("b", small)
    assert not budget.fits(Need(volumes=1, scores=0))
    assert budget.end("a")  # it took more than a quarter
    assert budget.fits(small)
    assert Budget(limit=None).fits(Need(volumes=10**15, scores=0))
    said = describe([small, large], Budget(limit=100), 3)
    assert (
        said.startswith("The largest case takes 60 bytes of memory, 100 bytes may be used: fewer")
        and "scores of 1 case do not fit" in said
    )
    assert describe([small, small, small], Budget(limit=120), 3) == describe([large], Budget(limit=None), 3) == ""


def test_the_estimate_holds_what_is_known_of_a_case(predictor):
    geometry = Geometry(shape=(64, 100, 90), spacing=predictor.configuration.spacing)
    size = CaseSize(geometry=geometry, reading=0)
    need = estimate(
        size, predictor.plan, predictor.configuration, score_channels=4, keep_image=False, probabilities=False
    )
    voxels = 64 * 100 * 90
    assert need.scores == 4 * voxels * 4
    assert need.volumes >= 2 * voxels * 4 * 3  # two channels, as stored, as numbers, normalized
    assert (
        estimate(
            size, predictor.plan, predictor.configuration, score_channels=4, keep_image=True, pictures=True
        ).volumes
        > need.volumes
    )
    large = CaseSize(geometry=geometry, reading=100 * voxels)
    assert estimate(large, predictor.plan, predictor.configuration, score_channels=4).volumes >= 100 * voxels


def test_scores_in_a_file_give_the_same_segmentations(predictor, images, tmp_path, caplog):
    cases = pipeline.cases_to_predict(images, predictor.dataset, tmp_path)
    assert pipeline.predict(predictor, cases, tmp_path / "a").failures == ()
    options = files.FileOptions(available=1)  # nothing fits, so that one case at a time is in work, its scores on disk
    assert files.predict_cases(predictor, cases, tmp_path / "b", options).failures == ()
    names = sorted(path.name for path in (tmp_path / "b").iterdir())
    assert names == [f"{case.identifier}.nii.gz" for case in cases]
    assert all(file_sha256(tmp_path / "a" / name) == file_sha256(tmp_path / "b" / name) for name in names)


def test_a_case_beyond_max_ram_is_refused_and_the_others_go_on(predictor, images, tmp_path, monkeypatch):
    cases = pipeline.cases_to_predict(images, predictor.dataset, tmp_path)
    large = np.zeros((200, 200, 100), np.float32)
    for channel in (0, 1):
        nibabel.save(nibabel.Nifti1Image(large, np.eye(4)), tmp_path / f"large_000{channel}.nii.gz")
    huge = pipeline.cases_to_predict(tmp_path / "large_0000.nii.gz", predictor.dataset, tmp_path / "out")
    failures = files.predict_cases(
        predictor, [*huge, *cases], tmp_path / "out", files.FileOptions(max_ram=64 * 2**20)
    ).failures
    assert [failure.identifier for failure in failures] == ["large"]
    assert re.search(
        "its volumes need about 1[0-9]{2} MiB, allowed are 64 MiB beside the network; raise --max_ram",
        failures[0].reason,
    )
    failures = files.predict_cases(
        predictor, [*huge, *cases], tmp_path / "free", files.FileOptions(free=64 * 2**20)
    ).failures
    assert [failure.identifier for failure in failures] == ["large"]
    assert re.search(
        "its volumes need about 1[0-9]{2} MiB of memory, 64 MiB are free; free some, or try with --max_ram",
        failures[0].reason,
    )
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) == len(cases)
    monkeypatch.setattr(Predictor, "working_memory", lambda _: 2**20)
    with pytest.raises(ConfigError, match=r"The network alone works with .* MiB; give --max_ram more than that"):
        pipeline.predict(predictor, cases, tmp_path / "out", files.FileOptions(max_ram=1))


def test_a_case_of_too_many_channels_is_refused_before_it_is_read(predictor, images, tmp_path, monkeypatch):
    nibabel.save(nibabel.Nifti1Image(np.zeros((20, 20, 20, 40), np.int16), np.eye(4)), tmp_path / "time_0000.nii.gz")
    cases = pipeline.cases_to_predict(tmp_path / "time_0000.nii.gz", predictor.dataset, tmp_path / "out")
    monkeypatch.setattr(files, "read_image", lambda *_: pytest.fail("it was read"))
    failures = files.predict_cases(predictor, cases, tmp_path / "out").failures
    assert "has 40 channels in 1 file; dataset.json names 2" in failures[0].reason


def test_a_file_name_that_is_no_utf_8_fails_alone(predictor, tmp_path):
    name = b"M\xfcller_0000.nii.gz".decode("utf-8", "surrogateescape")
    failures = files.predict_cases(
        predictor, (Case(identifier="M%FCller", images=(tmp_path / name,), label=None),), tmp_path / "out"
    ).failures
    assert [failure.identifier for failure in failures] == ["M%FCller"]
    assert r"'M\xfcller_0000.nii.gz' holds the byte \xfc, which is no UTF-8; rename the case" in failures[0].reason


def test_the_files_of_probabilities_are_foretold(predictor, images, tmp_path, caplog):
    said = (
        "The probabilities take up to 3.91 GiB on disk, 3.91 GiB for the largest case, which takes up to 4 min to "
        "write."
    )
    assert forecast([512 * 512 * 200, 100], 40) == said
    assert forecast([1000, 100], 4) == ""
    cases = pipeline.cases_to_predict(images, predictor.dataset, tmp_path)
    with caplog.at_level(logging.INFO):
        files.predict_cases(predictor, cases[:1], tmp_path, files.FileOptions(save_probabilities=True))
    assert "robabilities" not in caplog.text and "may be used" not in caplog.text


def test_a_line_per_case_says_what_is_left(predictor, images, tmp_path, caplog):
    cases = pipeline.cases_to_predict(images, predictor.dataset, tmp_path)
    with caplog.at_level(logging.INFO):
        assert files.predict_cases(predictor, cases, tmp_path).failures == ()
    lines = [record.getMessage() for record in caplog.records if " is written" in record.getMessage()]
    assert len(lines) == len(cases) > 1
    for number, (line, case) in enumerate(zip(lines, cases, strict=True), 1):
        left = r", about [\d.]+ (s|min) left" if number < len(cases) else ""
        assert re.fullmatch(rf"{case.identifier} is written, {number} of {len(cases)}{left}", line)


def test_a_case_is_let_go_when_the_budget_counts_it_out(predictor, images, tmp_path, monkeypatch):
    """With room for one case, the scores of one are gone before the next is read."""
    alive, most = [], []
    real = Predictor.scores

    def scores(self, case, folder=None):
        found = real(self, case, folder)
        alive.append(weakref.ref(found))
        most.append(sum(ref() is not None for ref in alive))
        return found

    monkeypatch.setattr(Predictor, "scores", scores)
    cases = pipeline.cases_to_predict(images, predictor.dataset, tmp_path)
    files.predict_cases(predictor, cases, tmp_path, files.FileOptions(available=1))
    assert len(most) == len(cases) and max(most) == 1


def test_an_image_is_never_overwritten(predictor, images, tmp_path):
    image = shutil.copy(sorted(images.glob("*.nii.gz"))[0], tmp_path / "patient.nii.gz")
    with pytest.raises(DatasetError, match="would overwrite its image .*patient.nii.gz; give another output folder"):
        pipeline.cases_to_predict(image, predictor.dataset, tmp_path)


def test_parts_share_their_tables(environment, images, tmp_path):
    words = [
        "-i",
        str(images),
        "-o",
        str(tmp_path),
        "-num_parts",
        "2",
        "-device",
        "cpu",
        "--statistics",
        "--uncertainty",
        "-slab_step",
        "9",
    ]
    assert command.main([*words, "-part_id", "0"]) == 0 and command.main([*words, "-part_id", "1"]) == 0
    names = sorted(path.name.removesuffix(".nii.gz") for path in tmp_path.glob("*.nii.gz"))
    assert (
        sorted(json.loads((tmp_path / "uncertainty.json").read_text()))
        == sorted(json.loads((tmp_path / "statistics.json").read_text()))
        == names
    )
    assert len({row.split(",")[0] for row in (tmp_path / "statistics.csv").read_text().splitlines()[1:]}) == len(names)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_free_memory_is_known_here():
    assert 2**20 < available_memory() < 2**50


def test_broken_results_are_predicted_again_and_whole_ones_are_left(predictor, images, tmp_path):
    cases = pipeline.cases_to_predict(images, predictor.dataset, tmp_path)
    options = pipeline.FileOptions(save_probabilities=True)
    pipeline.predict(predictor, cases, tmp_path, options)
    first, second = (tmp_path / f"{case.identifier}.nii.gz" for case in cases[:2])
    whole = first.read_bytes()
    first.write_bytes(whole[:100])
    kept = second.stat().st_mtime_ns
    pipeline.predict(predictor, cases, tmp_path, options, skip_existing=True)
    assert first.read_bytes() == whole and second.stat().st_mtime_ns == kept
    second.with_name(f"{cases[1].identifier}.npz").write_bytes(b"")
    pipeline.predict(predictor, cases, tmp_path, options, skip_existing=True)
    assert second.stat().st_mtime_ns != kept


def test_a_full_disk_ends_the_command_with_the_files_name(environment, images, tmp_path, monkeypatch, capsys):
    def full(path, planes, count):
        with atomic_path(path) as part:
            part.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "write_probabilities", full)
    words = [
        "-i",
        str(images),
        "-o",
        str(tmp_path),
        "--disable_tta",
        "-device",
        "cpu",
        "--save_probabilities",
        "-nps",
        "2",
    ]
    assert command.main(words) == 2
    said = capsys.readouterr().err
    assert re.search(
        r"^samunet_predict: .*/\w+\.npz: No space left on device; make space and run the command again\.$", said, re.M
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dataset.json", "plans.json"]


def test_several_inputs_are_one_list_of_cases(predictor, images, tmp_path):
    spec = predictor.dataset
    everything = pipeline.cases_to_predict(images, spec, tmp_path)
    paths = [images / f"{case.identifier}_0000.nii.gz" for case in everything]
    assert pipeline.cases_to_predict(paths, spec, tmp_path) == everything
    assert (
        pipeline.cases_to_predict(
            [*paths, *(images / f"{case.identifier}_0001.nii.gz" for case in everything)], spec, tmp_path
        )
        == everything
    )
    alone = shutil.copy(paths[0], tmp_path / "scan_2021.nii.gz")  # a year, not a channel
    assert pipeline.cases_to_predict(alone, spec, tmp_path / "out")[0].identifier == "scan_2021"
    shutil.copy(paths[0], tmp_path / paths[0].name)
    with pytest.raises(DatasetError, match=f"Two inputs are case '{everything[0].identifier}': .* rename one"):
        pipeline.cases_to_predict([paths[0], tmp_path / paths[0].name], spec, tmp_path)


def test_the_command_writes_uncertainty_on_the_grid_of_the_image(environment, images, tmp_path):
    words = [
        "-i",
        str(images),
        "-o",
        str(tmp_path),
        "--uncertainty",
        "--max_ram",
        "2G",
        "-slab_step",
        "4",
        "-device",
        "cpu",
    ]
    assert command.main(words) == 0
    scores = json.loads((tmp_path / "uncertainty.json").read_text())
    segmentations = sorted(tmp_path.glob("*.nii.gz"))
    assert sorted(scores) == [path.name.removesuffix(".nii.gz") for path in segmentations]
    for path in segmentations:
        segmentation, uncertainty = nibabel.load(path), nibabel.load(tmp_path / "uncertainty" / path.name)
        values = np.asarray(uncertainty.dataobj)
        assert values.shape == segmentation.shape and np.array_equal(uncertainty.affine, segmentation.affine)
        assert 0 < values.max() <= 1000
        inside = np.asarray(segmentation.dataobj) > 0
        assert scores[path.name.removesuffix(".nii.gz")] == pytest.approx(
            values[inside if inside.any() else ...].mean() / 1000, abs=1e-3
        )


@pytest.mark.parametrize("text", ["2X", "", "-1G", "G"])
def test_wrong_amounts_of_memory_are_refused(text, capsys):
    with pytest.raises(SystemExit, match="2"):
        command.main(["-i", "x", "-o", "y", f"--max_ram={text}"])
    assert "expected an amount such as 2G or 500M" in capsys.readouterr().err


def test_the_marked_model_is_taken_when_several_are_trained(project, trained, tmp_path, monkeypatch, images, capsys):
    results = tmp_path / "results" / project.dataset
    first = shutil.copytree(trained.parent, results / trained.parent.name)
    shutil.copytree(trained.parent, results / trained.parent.name.replace("3d_adapter", "2d_adapter"))
    for name, value in (project.environment | {"nnUNet_results": str(tmp_path / "results")}).items():
        monkeypatch.setenv(name, value)
    words = ["-i", str(images), "-o", str(tmp_path / "out"), "--disable_tta", "-device", "cpu"]
    assert command.main(words) == 2
    assert "2 trained models fit; say which one: -d " in capsys.readouterr().err
    trainer, plans, configuration = first.name.split("__")
    chosen = [{"trainer": trainer, "plans_identifier": plans, "configuration": configuration}]
    mark = results / "inference_information.json"
    mark.write_text(json.dumps({"best_model_or_ensemble": {"selected_model_or_models": chosen}}))
    assert command.main(words) == 0
    assert f"Model {project.dataset}/{first.name}" in capsys.readouterr().out
    mark.write_text("{}")
    assert command.main(words) == 2
    assert "names no best model; run samunet_find_best_configuration again" in capsys.readouterr().err


def test_an_interrupt_leaves_whole_files_and_no_process(project, trained, images, tmp_path):
    inputs = tmp_path / "in"
    inputs.mkdir()
    for number in range(60):
        for path in sorted(images.glob("*_000?.nii.gz"))[:2]:
            shutil.copy(path, inputs / f"case{number:02d}{path.name[-12:]}")
    out = tmp_path / "out"
    arguments = [
        "-i",
        str(inputs),
        "-o",
        str(out),
        "-m",
        str(trained.parent),
        "-device",
        "cpu",
        "-npp",
        "3",
        "-nps",
        "2",
    ]
    code = "import sys; from samunet.cli.predict_from_modelfolder import main; sys.exit(main(sys.argv[1:]))"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env=os.environ | project.environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while not list(out.glob("case*.nii.gz")) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "interrupted; what is finished is kept" in errors
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
    written = sorted(out.glob("case*.nii.gz"))
    assert 1 <= len(written) < 60 and not [path for path in out.iterdir() if path.name.startswith(".")]
    for path in written:
        assert (
            nibabel.load(path).get_fdata().shape
            == nibabel.load(inputs / path.name.replace(".nii.gz", "_0000.nii.gz")).shape
        )


def test_images_of_other_formats_are_segmented_alike_and_written_in_their_own(
    environment, project, trained, images, tmp_path
):
    """As .nii and .mha beside .nii.gz; and into one file."""
    case = pipeline.cases_to_predict(images, pipeline.open_dataset(project.workspace, project.dataset).spec, tmp_path)[
        0
    ]
    (tmp_path / "in").mkdir()
    for number, path in enumerate(case.images):
        image = sitk.ReadImage(str(path))
        for name, ending in (("gz", ".nii.gz"), ("plain", ".nii"), ("meta", ".mha")):
            sitk.WriteImage(image, str(tmp_path / "in" / f"{name}_{number:04d}{ending}"))
    words = ["--disable_tta", "-device", "cpu", "-o"]
    assert command.main(["-i", str(tmp_path / "in"), *words, str(tmp_path / "out")]) == 0
    found = [
        sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out" / name)))
        for name in ("gz.nii.gz", "plain.nii", "meta.mha")
    ]
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])
    file = tmp_path / "alone" / "seg.nrrd"
    assert command.main(["-i", str(tmp_path / "in" / "gz_0000.nii.gz"), *words, str(file)]) == 0
    np.testing.assert_array_equal(found[0], sitk.GetArrayFromImage(sitk.ReadImage(str(file))))
    assert [path.name for path in file.parent.iterdir()] == ["seg.nrrd"]
    assert command.main(["-i", str(tmp_path / "in"), *words, str(file)]) == 2
