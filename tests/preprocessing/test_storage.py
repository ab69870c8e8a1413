"""Preprocessed cases on disk: whole or not listed, and damage is named."""

from __future__ import annotations

import errno
import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import tifffile
from samples import small_configuration, small_plan, untouched
from tiny import write_tiny_dataset

from samunet.core.codec import atomic_path, file_sha256
from samunet.core.dataset import read_dataset_json, training_cases
from samunet.core.geometry import Geometry
from samunet.core.labels import parse_labels
from samunet.core.preprocessed import PreprocessedCase
from samunet.data.dataset import PreprocessedDataset
from samunet.errors import ConfigError, DatasetError
from samunet.imageio import reader_for
from samunet.imageio.case import read_case
from samunet.preprocessing import run, storage
from samunet.preprocessing.forward import preprocess
from samunet.preprocessing.run import check_made_by, preprocess_dataset
from samunet.preprocessing.storage import (
    Origin,
    check_arrays,
    file_names,
    is_whole,
    load_locations,
    load_record,
    open_array,
    read_part,
    remove_all_but,
    sample_locations,
    save_case,
    stored_cases,
)

LABELS = parse_labels({"background": 0, "a": 1, "b": 2})
PATCH = (8, 16, 16)
ORIGIN = Origin(settings="s", files="f")


def made(seed=0, shape=(10, 40, 30)) -> PreprocessedCase:
    rng = np.random.default_rng(seed)
    history = untouched(Geometry(shape=shape, spacing=(2.0, 1.0, 1.0), origin=(1.0, 2.5, -3.0)))
    label = np.zeros(shape, np.int16)
    label[2:5, 3:9, 4:8] = 1
    return PreprocessedCase(image=rng.normal(size=(2, *shape)).astype(np.float32), label=label, history=history)


def save(folder, *names):
    for name in names:
        save_case(folder, name, made(), LABELS, PATCH, ORIGIN)


def test_a_case_comes_back_bit_for_bit(tmp_path):
    case = made()
    save_case(tmp_path, "x", case, LABELS, PATCH, ORIGIN)
    image, label = open_array(tmp_path / "x.b2nd"), open_array(tmp_path / "x_seg.b2nd")
    np.testing.assert_array_equal(image[:], case.image)
    np.testing.assert_array_equal(label[0], case.label)
    assert image.dtype == np.float32 and label.dtype == np.int16 and load_record(tmp_path, "x").history == case.history
    found = load_locations(tmp_path, "x", load_record(tmp_path, "x"))
    np.testing.assert_array_equal(np.unique(found.classes[0], axis=0), np.argwhere(case.label == 1))
    assert found.classes[1].shape == (0, 3) and found.annotated is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.b2nd", "x.json", "x_locations.npz", "x_seg.b2nd"]


def test_a_part_is_read_without_the_rest(tmp_path):
    case = made()
    save_case(tmp_path, "x", case, LABELS, PATCH, ORIGIN)
    part = (slice(None), slice(2, 7), slice(0, 9), slice(11, 30))
    np.testing.assert_array_equal(read_part(tmp_path / "x.b2nd", part), case.image[part])


def test_annotated_voxels_are_kept_where_there_is_an_ignore_label(tmp_path):
    labels = parse_labels({"background": 0, "a": 1, "ignore": 2})
    case = made(shape=(2, 6, 6))
    label = np.full((2, 6, 6), 2, np.int16)
    label[0, 1, 1:3], label[1, 4, 4] = 0, 1
    save_case(tmp_path, "x", replace(case, label=label), labels, PATCH, ORIGIN)
    found = load_locations(tmp_path, "x", load_record(tmp_path, "x"))
    assert found.classes[0].tolist() == [[1, 4, 4]] and sorted(found.annotated.tolist()) == [
        [0, 1, 1],
        [0, 1, 2],
        [1, 4, 4],
    ]


def test_locations_are_drawn_alike_each_time():
    label = (np.random.default_rng(0).random((30, 40, 50)) < 0.5).astype(np.int16)
    one, two = (sample_locations(label, parse_labels({"background": 0, "a": 1})).classes[0] for _ in range(2))
    assert (
        len(one) == 10_000
        and np.array_equal(one, two)
        and len(np.unique(one, axis=0)) == 10_000
        and label[tuple(one.T)].all()
    )


def test_regions_are_located_as_wholes():
    label = np.zeros((2, 3, 3), np.int16)
    label[0, 0, 0], label[1, 2, 2] = 1, 2
    whole, core = sample_locations(label, parse_labels({"background": 0, "whole": [1, 2], "core": 2}, [1, 2])).classes
    assert sorted(whole.tolist()) == [[0, 0, 0], [1, 2, 2]] and core.tolist() == [[1, 2, 2]]


def test_a_case_without_label_is_refused_and_nothing_is_written(tmp_path):
    with pytest.raises(DatasetError, match="Case 'x' has no label"):
        save_case(tmp_path, "x", replace(made(), label=None), LABELS, PATCH, ORIGIN)
    assert list(tmp_path.iterdir()) == []


def test_whole_cases_are_listed_sorted(tmp_path):
    save(tmp_path, "b", "a_seg2", "a")
    (tmp_path / "dataset.json").write_text("{}")
    assert stored_cases(tmp_path) == ("a", "a_seg2", "b")


@pytest.mark.parametrize("fails", range(4))
def test_a_case_whose_writing_stopped_is_not_listed(tmp_path, monkeypatch, fails):
    save(tmp_path, "good")
    count, real = itertools.count(), storage.atomic_path

    def stops(path):
        if next(count) == fails:
            raise OSError("disk full")
        return real(path)

    monkeypatch.setattr(storage, "atomic_path", stops)
    monkeypatch.setattr("samunet.core.codec.atomic_path", stops)
    with pytest.raises(OSError, match="disk full"):
        save_case(tmp_path, "half", made(), LABELS, PATCH, ORIGIN)
    assert stored_cases(tmp_path) == ("good",) and not list(tmp_path.glob(".part-*"))


@pytest.mark.parametrize("name", ["x.b2nd", "x_seg.b2nd"])
@pytest.mark.parametrize("length", [0, 0.1, 0.5, 0.99])
def test_a_truncated_array_is_named(tmp_path, name, length):
    save(tmp_path, "x")
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: int(length * len(whole))])
    with pytest.raises(
        DatasetError, match=rf"Preprocessed file .*/{name} cannot be read .*; preprocess the dataset again"
    ):
        open_array(tmp_path / name)


def test_damage_inside_an_array_is_named_when_it_is_read(tmp_path):
    save(tmp_path, "x")
    data = bytearray((tmp_path / "x.b2nd").read_bytes())
    middle = len(data) // 2
    data[middle : middle + 400] = bytes(400)
    (tmp_path / "x.b2nd").write_bytes(data)
    with pytest.raises(DatasetError, match=r"Preprocessed file .*/x\.b2nd cannot be read"):
        read_part(tmp_path / "x.b2nd", (slice(None), slice(None), slice(None), slice(None)))


def test_absent_and_damaged_companions_are_named(tmp_path):
    save(tmp_path, "x")
    record = load_record(tmp_path, "x")
    with pytest.raises(DatasetError, match=r"y\.b2nd cannot be read"):
        open_array(tmp_path / "y.b2nd")
    with pytest.raises(DatasetError, match=r"y_locations\.npz cannot be read"):
        load_locations(tmp_path, "y", record)
    with pytest.raises(DatasetError, match=r"y\.b2nd cannot be read"):
        check_arrays(tmp_path, "y", record)
    for damaged in (b"", b"PK no zip", (tmp_path / "x_locations.npz").read_bytes()[:-40]):
        (tmp_path / "x_locations.npz").write_bytes(damaged)
        with pytest.raises(DatasetError, match=r"x_locations\.npz is not as it was written"):
            load_locations(tmp_path, "x", record)
    (tmp_path / "x.json").write_text('{"crop": [')
    with pytest.raises(ConfigError, match=r"x\.json is not valid JSON"):
        load_record(tmp_path, "x")


def test_objects_in_a_locations_file_are_not_unpickled(tmp_path):
    save(tmp_path, "x")
    path = tmp_path / "x_locations.npz"
    np.savez(path, **{"0": np.array([{"a": 1}], dtype=object)})
    record = load_record(tmp_path, "x")
    with pytest.raises(DatasetError, match=r"x_locations\.npz cannot be read"):
        load_locations(tmp_path, "x", replace(record, sha256={**record.sha256, "_locations.npz": file_sha256(path)}))


def read_all(folder):
    """Read a stored case as training does."""
    cases = PreprocessedDataset(folder, ("x",))
    found = cases.locations("x")
    return [
        *cases.cut("x", (0, 0, 0), cases.shape("x")),
        *found.classes,
        found.annotated,
        np.array(repr(load_record(folder, "x"))),
    ]


@pytest.mark.parametrize("name", ["x.b2nd", "x_seg.b2nd", "x_locations.npz", "x.json"])
def test_a_flipped_bit_in_a_stored_case_is_refused_by_name(tmp_path, name):
    labels = parse_labels({"background": 0, "a": 1, "ignore": 2})
    save_case(tmp_path, "x", made(shape=(6, 20, 16)), labels, PATCH, ORIGIN)
    expected, whole, random = read_all(tmp_path), (tmp_path / name).read_bytes(), np.random.default_rng(0)
    refused, flips = 0, 40
    for bit in random.choice(8 * len(whole), flips, replace=False):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        (tmp_path / name).write_bytes(damaged)
        try:
            found = read_all(tmp_path)
        except (DatasetError, ConfigError) as error:
            assert name in str(error) and not is_whole(tmp_path, "x")
            refused += 1
        else:  # one kind of white space became another
            assert (
                name == "x.json"
                and is_whole(tmp_path, "x")
                and all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))
            )
    assert refused == flips if name != "x.json" else refused > flips / 2


@pytest.fixture
def raw(tmp_path):
    folder = write_tiny_dataset(tmp_path / "raw", cases=3)
    spec = read_dataset_json(folder / "dataset.json")
    plan, configuration = small_plan(dataset=spec.name, scheme="zscore"), small_configuration((2.5, 1.1, 1.1))
    return spec, training_cases(folder, spec), plan, configuration, reader_for(spec.file_ending)


def test_a_dataset_is_preprocessed_case_by_case_whatever_the_threads(tmp_path, raw):
    spec, cases, plan, configuration, reader = raw
    for threads in (1, 3):
        preprocess_dataset(
            tmp_path / str(threads), spec, cases, plan, configuration, reader, threads=threads, quiet=True
        )
    one, three = (
        {path.name: path.read_bytes() for path in (tmp_path / n).iterdir() if path.suffix != ".npz"} for n in ("1", "3")
    )
    assert one == three and stored_cases(tmp_path / "1") == ("tiny_000", "tiny_001", "tiny_002")
    expected = preprocess(*read_case(cases[1], spec, reader), plan, configuration)
    np.testing.assert_array_equal(open_array(tmp_path / "1" / "tiny_001.b2nd")[:], expected.image)
    np.testing.assert_array_equal(open_array(tmp_path / "1" / "tiny_001_seg.b2nd")[0], expected.label)
    assert read_dataset_json(tmp_path / "1" / "dataset.json").labels == spec.labels


def test_what_was_stored_in_the_folder_is_replaced(tmp_path, raw):
    spec, cases, *rest = raw
    folder = tmp_path / "out"
    save(folder, "stale", "tiny_000", "not_listed")
    (folder / "samunet_cases.json").write_text('["stale", "tiny_000"]')
    preprocess_dataset(folder, spec, cases[:2], *rest, threads=1, quiet=True)
    assert (
        stored_cases(folder) == ("tiny_000", "tiny_001")
        and not list(folder.glob("stale*"))
        and len(list(folder.glob("not_listed*"))) == 4
    )


def test_an_interrupted_run_does_not_look_whole(tmp_path, raw, monkeypatch):
    spec, cases, *rest = raw
    folder = tmp_path / "out"
    preprocess_dataset(folder, spec, cases, *rest, threads=1, quiet=True)
    real = run.save_case

    def stops(where, identifier, *given):
        if identifier == "tiny_001":
            raise OSError("disk full")
        real(where, identifier, *given)

    monkeypatch.setattr(run, "save_case", stops)
    changed = replace(rest[1], spacing=(2.5, 1.2, 1.2))
    with pytest.raises(
        DatasetError,
        match="1 of 3 cases could not be preprocessed; the others are done(?s:.*)case 'tiny_001': disk full",
    ):
        preprocess_dataset(folder, spec, cases, rest[0], changed, *rest[2:], threads=1, quiet=True)
    assert not (folder / "dataset.json").exists() and stored_cases(folder) == ("tiny_000", "tiny_002")


def written(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("tiny*")}


def test_only_what_has_changed_is_done_again(tmp_path, raw, monkeypatch):
    spec, cases, plan, configuration, reader = raw
    folder = tmp_path / "out"

    def again(settings=configuration, given=cases):
        before = written(folder) if folder.is_dir() else {}
        preprocess_dataset(folder, spec, given, plan, settings, reader, threads=2, quiet=True)
        after = written(folder)
        return {
            case.identifier
            for case in cases
            if any(after.get(name) != before.get(name) for name in file_names(case.identifier) if name in after)
        }

    everything = {case.identifier for case in cases}
    assert again() == everything and again() == set()
    image = cases[1].images[0]
    image.write_bytes(cases[0].images[0].read_bytes())
    cases[1].label.write_bytes(cases[0].label.read_bytes())
    assert again() == {"tiny_001"}
    (folder / "tiny_002.json").unlink()  # as after an interruption
    assert again() == {"tiny_002"}
    assert (
        again(replace(configuration, patch_size=(4, 16, 16))) == set()
    )  # says how files are laid out, not what is in them
    assert again(replace(configuration, spacing=(2.5, 1.2, 1.2))) == everything
    assert again(replace(configuration, spacing=(2.5, 1.2, 1.2)), cases[:2]) == set() and not list(
        folder.glob("tiny_002*")
    )
    (folder / "tiny_000.json").write_text("{")
    assert again(replace(configuration, spacing=(2.5, 1.2, 1.2)), cases[:2]) == {"tiny_000"}


def test_cases_of_an_interrupted_run_with_other_settings_are_never_taken_for_those_of_this_one(
    tmp_path, raw, monkeypatch
):
    spec, cases, plan, configuration, reader = raw
    other, folder, real = replace(configuration, spacing=(2.5, 2.0, 2.0)), tmp_path / "out", run.save_case
    preprocess_dataset(folder, spec, cases, plan, configuration, reader, threads=1, quiet=True)
    shapes = {case.identifier: open_array(folder / f"{case.identifier}.b2nd").shape for case in cases}

    def stops(where, identifier, *given):
        if identifier == "tiny_001":
            raise KeyboardInterrupt
        real(where, identifier, *given)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(run, "save_case", stops)
        preprocess_dataset(folder, spec, cases, plan, other, reader, threads=1, quiet=True)
    with pytest.raises(
        DatasetError,
        match=r"\d of 3 cases in .* by another plan or an earlier version, first 'tiny_000'. "
        r"Run first: samunet_preprocess",
    ):
        check_made_by(folder, sorted(shapes), spec, plan, configuration)
    preprocess_dataset(folder, spec, cases, plan, configuration, reader, threads=1, quiet=True)
    assert shapes == {case.identifier: open_array(folder / f"{case.identifier}.b2nd").shape for case in cases}
    check_made_by(folder, sorted(shapes), spec, plan, configuration)


def test_the_spacing_file_of_a_stack_is_one_of_the_files_a_case_is_made_from(tmp_path):
    folder = tmp_path / "Dataset906_Stacks"
    for part, name in (("imagesTr", "a_0000.tif"), ("labelsTr", "a.tif")):
        (folder / part).mkdir(parents=True)
        stack = np.indices((5, 12, 16)).sum(axis=0).astype(np.uint8) % 2 + (part == "imagesTr")
        tifffile.imwrite(folder / part / name, stack, photometric="minisblack")
    description = {
        "channel_names": {"0": "x"},
        "labels": {"background": 0, "a": 1},
        "numTraining": 1,
        "file_ending": ".tif",
    }
    (folder / "dataset.json").write_text(json.dumps(description))
    spec = read_dataset_json(folder / "dataset.json")
    given = (
        spec,
        training_cases(folder, spec),
        small_plan(dataset=spec.name, scheme="zscore"),
        small_configuration((2.0, 1.0, 1.0)),
    )
    for spacing, shape in (([2, 1, 1], (5, 12, 16)), ([2, 2, 1], (5, 24, 16))):
        for part in ("imagesTr", "labelsTr"):
            (folder / part / "a.json").write_text(json.dumps({"spacing": spacing}))
        preprocess_dataset(tmp_path / "out", *given, reader_for(".tif", "Tiff3DIO"), threads=1, quiet=True)
        assert open_array(tmp_path / "out/a.b2nd").shape[1:] == shape


def test_names_that_would_share_a_file_and_a_folder_of_nnunet_are_refused(tmp_path, raw):
    spec, cases, *rest = raw
    pair = [cases[0], replace(cases[1], identifier="tiny_000_seg")]
    with pytest.raises(
        DatasetError, match="'tiny_000_seg' would be stored in tiny_000_seg.b2nd, which belongs to 'tiny_000'"
    ):
        preprocess_dataset(tmp_path / "out", spec, pair, *rest, threads=1, quiet=True)
    alone = [replace(case, identifier=f"{case.identifier}_seg") for case in cases]
    for _ in range(2):
        preprocess_dataset(tmp_path / "out", spec, alone, *rest, threads=1, quiet=True)
        assert (
            stored_cases(tmp_path / "out") == tuple(case.identifier for case in alone)
            and (tmp_path / "out/tiny_000_seg.b2nd").is_file()
        )
    (tmp_path / "out/tiny_000_seg.pkl").write_bytes(b"")
    with pytest.raises(DatasetError, match="holds cases that nnU-Net has preprocessed"):
        preprocess_dataset(tmp_path / "out", spec, cases, *rest, threads=1, quiet=True)


def test_a_full_disk_ends_preprocessing_with_the_files_name(tmp_path, raw, monkeypatch):
    def full(folder, identifier, *_):
        with atomic_path(folder / f"{identifier}.b2nd"):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(run, "save_case", full)
    spec, cases, plan, configuration, reader = raw
    with pytest.raises(OSError) as raised:
        preprocess_dataset(tmp_path / "out", spec, cases, plan, configuration, reader, threads=2, quiet=True)
    assert raised.value.errno == errno.ENOSPC and raised.value.filename.endswith(".b2nd")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["samunet_cases.json"]


def test_parts_are_neither_cases_nor_removed_with_other_cases(tmp_path):
    part = tmp_path / ".part-elsewhere-1-2-0123456789ab.1_seg.b2nd"  # of a case whose name has a dot
    for path in (part, part.with_name(part.name.replace("_seg.b2nd", ".json"))):
        path.touch()
    assert stored_cases(tmp_path) == ()
    remove_all_but(tmp_path, [])
    assert len(list(tmp_path.iterdir())) == 3  # and the list


def test_a_case_larger_than_free_memory_is_named_and_the_others_are_done(tmp_path, raw, monkeypatch):
    spec, cases, *rest = raw
    real = run.peek_case

    def peek(case, *given):
        size = real(case, *given)
        return replace(size, reading=2**60) if case.identifier == "tiny_001" else size

    monkeypatch.setattr(run, "peek_case", peek)
    message = (
        r"1 of 3 cases could not be preprocessed(?s:.*)Case 'tiny_001' needs about \d+ TiB of memory, .* are free; "
        r"free some"
    )
    with pytest.raises(DatasetError, match=message):
        preprocess_dataset(tmp_path / "out", spec, cases, *rest, threads=2, quiet=True)
    assert stored_cases(tmp_path / "out") == ("tiny_000", "tiny_002")


def test_one_broken_case_does_not_keep_the_others_from_being_done(tmp_path, raw):
    spec, cases, *rest = raw
    cases[0].images[0].write_bytes(b"")
    with pytest.raises(DatasetError, match="1 of 3 cases could not be preprocessed(?s:.*)case 'tiny_000'"):
        preprocess_dataset(tmp_path / "out", spec, cases, *rest, threads=2, quiet=True)
    assert stored_cases(tmp_path / "out") == ("tiny_001", "tiny_002")
