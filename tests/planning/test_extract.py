"""A dataset's measurements, by hand on drawn squares and by their properties on tiny phantoms."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from tiny import write_tiny_dataset

from samunet.core import memory
from samunet.core.codec import decode, encode
from samunet.core.dataset import read_dataset_json, training_cases
from samunet.core.fingerprint import Fingerprint
from samunet.errors import DatasetError
from samunet.imageio import reader_for
from samunet.planning import extract
from samunet.planning.extract import describes, extract_fingerprint


@pytest.fixture(autouse=True)
def few_samples(monkeypatch):
    monkeypatch.setattr(extract, "SAMPLES", 20_000)  # the real number takes seconds and says the same


def fingerprint_of(folder, threads=1):
    spec = read_dataset_json(folder / "dataset.json")
    cases = training_cases(folder, spec)
    return extract_fingerprint(spec, cases, reader_for(spec.file_ending, spec.reader), threads=threads, quiet=True)


def save(path, array, spacing=(1.0, 1.0, 1.0)):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing[::-1] if array.ndim == 3 else spacing[:0:-1])
    sitk.WriteImage(image, str(path))


def drawn(folder, cases, labels=None):
    """Write cases given as (image (D, H, W), label, spacing)."""
    names = labels or {"background": 0, "square": 1, "dot": 2}
    folder.mkdir(exist_ok=True)
    description = {"channel_names": {"0": "CT"}, "labels": names, "numTraining": len(cases), "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(description))
    for index, (image, label, spacing) in enumerate(cases):
        save(folder / "imagesTr" / f"c{index}_0000.nii.gz", image.astype(np.float32), spacing)
        save(folder / "labelsTr" / f"c{index}.nii.gz", label.astype(np.uint8), spacing)
    return folder


def square_case():
    image, label = np.zeros((6, 10, 12)), np.zeros((6, 10, 12))
    image[1:5, 2:8, 3:11] = 5.0
    label[2:4, 3:7, 4:8] = 1  # 4 x 4 voxels in 2 slices
    label[4, 2, 3] = 2
    image[label == 1], image[label == 2] = 7.0, 9.0
    return image, label, (4.0, 1.0, 2.0)


def test_shapes_spacings_crop_and_class_sizes_are_those_worked_out_by_hand(tmp_path):
    empty = np.zeros((4, 5, 5))
    found = fingerprint_of(drawn(tmp_path / "Dataset001_Drawn", [square_case(), (empty + 1, empty, (2.0, 1.0, 1.0))]))
    first, second = found.cases["c0"], found.cases["c1"]
    assert found.dataset == "Dataset001_Drawn" and not found.planar
    assert first.spacing == (4.0, 1.0, 2.0) and first.shape == (6, 10, 12) and first.shape_after_crop == (4, 6, 8)
    assert (first.orientation, first.foreground_slices, second.foreground_slices) == ("SPL", 3, 0)
    assert first.labels_present == (1, 2) and second.labels_present == () and second.shape_after_crop == (4, 5, 5)
    assert found.median_relative_size_after_crop == pytest.approx((4 * 6 * 8 / (6 * 10 * 12) + 1) / 2)
    square, dot = found.classes
    assert (square.name, square.cases, dot.name, dot.cases) == ("square", 1, "dot", 1)
    # the slices lie along D, the axis of 4 mm; pixels are 1 x 2 mm
    assert square.in_plane_mm == pytest.approx(
        [2 * math.sqrt(16 * 2 / math.pi)] * 3
    ) and square.extent_mm == pytest.approx([8.0] * 3)
    assert dot.in_plane_mm == pytest.approx([2 * math.sqrt(2 / math.pi)] * 3) and dot.extent_mm == pytest.approx(
        [4.0] * 3
    )


def test_intensities_are_those_of_foreground_voxels(tmp_path):
    # 32 voxels of 7 and one of 9: drawn with replacement, about one in 33 is a 9
    (figures,) = fingerprint_of(drawn(tmp_path / "Dataset001_Drawn", [square_case()])).intensities
    assert (figures.minimum, figures.median, figures.maximum) == (7.0, 7.0, 9.0)
    assert figures.percentile_00_5 == 7.0 and figures.percentile_99_5 == 9.0
    assert figures.mean == pytest.approx(7 + 2 / 33, abs=0.01) and figures.std == pytest.approx(
        2 * math.sqrt(32) / 33, abs=0.02
    )


def test_figures_are_those_of_the_drawn_sample_itself(tmp_path, monkeypatch):
    image, label, spacing = square_case()
    image += np.random.default_rng(0).normal(size=image.shape)
    folder = drawn(tmp_path / "Dataset001_Drawn", [(image, label, spacing)])
    voxels = image[label > 0].astype(np.float32)
    sample = np.random.RandomState(1234).choice(voxels, 20_000)
    (figures,) = fingerprint_of(folder).intensities
    assert (figures.minimum, figures.maximum) == (sample.min(), sample.max())
    assert (figures.mean, figures.std) == pytest.approx((sample.mean(dtype=float), sample.std(dtype=float)), rel=1e-6)
    expected = np.percentile(sample.astype(float), (0.5, 50, 99.5))
    assert (figures.percentile_00_5, figures.median, figures.percentile_99_5) == pytest.approx(expected, rel=1e-9)
    monkeypatch.setattr(extract, "DRAWS_AT_A_TIME", 777)
    assert fingerprint_of(folder).intensities == (figures,)


def test_every_case_has_the_same_weight_whatever_its_foreground(tmp_path):
    image, label = np.full((2, 8, 8), 10.0), np.zeros((2, 8, 8))
    few, many = label.copy(), label.copy()
    few[0, 0, 0], many[:] = 1, 1
    cases = [(image, few, (1.0, 1.0, 1.0)), (image + 20, many, (1.0, 1.0, 1.0))]
    (figures,) = fingerprint_of(drawn(tmp_path / "Dataset001_Drawn", cases, {"background": 0, "a": 1})).intensities
    assert figures.mean == pytest.approx(20.0)


def test_two_objects_in_a_slice_are_measured_apart(tmp_path):
    image, label = np.ones((3, 10, 10)), np.zeros((3, 10, 10))
    label[1, 1:3, 1:3], label[1, 6:8, 6:8] = 1, 1
    found = fingerprint_of(
        drawn(tmp_path / "Dataset001_Drawn", [(image, label, (3.0, 1.0, 1.0))], {"background": 0, "a": 1})
    )
    assert found.classes[0].in_plane_mm[1] == pytest.approx(2 * math.sqrt(4 / math.pi))


def test_specks_say_little_of_a_class_that_lies_elsewhere(tmp_path):
    image, label = np.ones((3, 40, 40)), np.zeros((3, 40, 40))
    label[1, 10:20, 10:20] = 1  # 100 voxels, 92 % of the class
    label[1, ::4, 38][:9] = 1
    (size,) = fingerprint_of(
        drawn(tmp_path / "Dataset001_Drawn", [(image, label, (3.0, 1.0, 1.0))], {"background": 0, "a": 1})
    ).classes
    disk, speck = (2 * math.sqrt(area / math.pi) for area in (100, 1))
    assert size.in_plane_mm == pytest.approx([disk] * 3) and size.in_plane_mm[1] > 5 * speck
    assert size.width_mm[1] > 5


def test_diameters_count_by_area(tmp_path):
    image, label = np.ones((2, 30, 30)), np.zeros((2, 30, 30))
    label[0, 1:7, 1:7], label[0, 10:12, 1:13] = 1, 1  # 36 and 24 voxels: 60 % lie in the larger
    label[1, 20:24, 20:25] = 1  # 20
    (size,) = fingerprint_of(
        drawn(tmp_path / "Dataset001_Drawn", [(image, label, (3.0, 1.0, 2.0))], {"background": 0, "a": 1})
    ).classes
    assert size.in_plane_mm == pytest.approx([2 * math.sqrt(area * 2 / math.pi) for area in (20, 24, 36)])


@pytest.mark.parametrize("degrees", [0, 30, 45, 60, 90])
@pytest.mark.parametrize("pixel", [(1.0, 1.0), (0.5, 1.0)])
def test_the_width_of_a_strip_is_the_same_at_any_angle(degrees, pixel):
    rows, columns = np.mgrid[:200, :200]
    across = (rows - 100) * pixel[0] * math.cos(math.radians(degrees)) + (columns - 100) * pixel[1] * math.sin(
        math.radians(degrees)
    )
    strip = ((across >= -4) & (across < 4))[None]
    assert np.median(extract._local_widths(strip, *pixel)) == pytest.approx(8, rel=0.1)


def test_the_local_width_of_a_disk_is_above_half_its_diameter():
    rows, columns = np.mgrid[:60, :60]
    widths = extract._local_widths((np.hypot(rows - 30, columns - 30) < 25)[None], 1.0, 1.0)
    assert 0.5 * 50 < np.median(widths) < 0.7 * 50 and len(widths) <= extract.WIDTH_VOXELS


def test_files_are_hashed_by_folder_and_name(tmp_path):
    folder = write_tiny_dataset(tmp_path, cases=2, channels=2)
    hashes = fingerprint_of(folder).cases["tiny_000"].sha256
    assert sorted(hashes) == [
        "imagesTr/tiny_000_0000.nii.gz",
        "imagesTr/tiny_000_0001.nii.gz",
        "labelsTr/tiny_000.nii.gz",
    ]
    assert (
        hashes["labelsTr/tiny_000.nii.gz"]
        == hashlib.sha256((folder / "labelsTr" / "tiny_000.nii.gz").read_bytes()).hexdigest()
    )


def test_a_fingerprint_describes_only_the_files_labels_and_form_it_was_made_from(tmp_path):
    folder = write_tiny_dataset(
        tmp_path, cases=2, labels={"background": 0, "whole": [1, 2], "core": 2}, regions_class_order=[1, 2]
    )
    found = fingerprint_of(folder)

    def still(fingerprint=found, **changes):
        text = (folder / "dataset.json").read_text()
        (folder / "dataset.json").write_text(json.dumps(json.loads(text) | changes))
        spec = read_dataset_json(folder / "dataset.json")
        answer = describes(
            fingerprint, spec, training_cases(folder, spec), reader_for(spec.file_ending), threads=1, quiet=True
        )
        (folder / "dataset.json").write_text(text)
        return answer

    assert still() and not still(labels={"background": 0, "whole": [1, 2], "core": 1})
    assert not still(labels={"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}) and not still(
        replace(found, format=0)
    )
    (folder / "labelsTr/tiny_000.nii.gz").write_bytes((folder / "labelsTr/tiny_001.nii.gz").read_bytes())
    assert not still()


def test_the_result_does_not_depend_on_threads_and_survives_json(tmp_path):
    folder = write_tiny_dataset(tmp_path, cases=5, channels=2)
    found = fingerprint_of(folder, threads=1)
    assert found == fingerprint_of(folder, threads=3)
    assert decode(Fingerprint, json.loads(json.dumps(encode(found))), "f") == found


@pytest.mark.parametrize("file_ending", [".png", ".nii.gz"])
def test_2d_images_are_planar(tmp_path, file_ending):
    folder = write_tiny_dataset(tmp_path, dimensions=2, size=(1, 32, 40), file_ending=file_ending)
    found = fingerprint_of(folder)
    assert found.planar and all(case.shape[0] == 1 and case.spacing == (1.0, 1.0, 1.0) for case in found.cases.values())


def test_rgb_files_give_three_channels(tmp_path):
    folder = write_tiny_dataset(tmp_path, dimensions=2, channels=3, size=(1, 32, 40), file_ending=".png")
    assert len(fingerprint_of(folder).intensities) == 3


def test_regions_are_measured_as_wholes(tmp_path):
    folder = write_tiny_dataset(
        tmp_path, labels={"background": 0, "whole": [1, 2], "core": 2}, regions_class_order=[1, 2]
    )
    whole, core = fingerprint_of(folder).classes
    assert (whole.name, whole.cases, core.name, core.cases) == ("whole", 4, "core", 4)
    assert whole.extent_mm[1] >= core.extent_mm[1] > 0


def test_ignored_voxels_are_not_foreground(tmp_path):
    folder = write_tiny_dataset(tmp_path, labels={"background": 0, "a": 1, "b": 2, "ignore": 3})
    cases = training_cases(folder, read_dataset_json(folder / "dataset.json"))
    lowest = []
    for case in cases:
        image, label = (sitk.GetArrayFromImage(sitk.ReadImage(str(path))) for path in (case.images[0], case.label))
        lowest.append(image[(label == 1) | (label == 2)].min())
        assert (label == 3).any() and image[label == 3].min() < lowest[-1]
    found = fingerprint_of(folder)
    assert found.intensities[0].minimum >= min(lowest)
    assert [size.name for size in found.classes] == ["a", "b"] and all(
        case.labels_present == (1, 2) for case in found.cases.values()
    )


def test_a_label_of_another_shape_is_named_in_one_sentence(tmp_path):
    folder = write_tiny_dataset(tmp_path, size=(6, 32, 40))
    path = folder / "labelsTr" / "tiny_001.nii.gz"
    array = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    save(path, array[:-1])
    with pytest.raises(DatasetError) as raised:
        fingerprint_of(folder)
    expected = (
        f"Case 'tiny_001': label has shape {(array.shape[0] - 1, *array.shape[1:])}, image has {array.shape}. They "
        "must share one grid;"
    )
    assert str(raised.value).startswith(expected) and "\n" not in str(raised.value)


def test_a_wrong_label_value_is_named_in_one_sentence(tmp_path):
    image, label, spacing = square_case()
    label[0, 0, 0] = 6
    with pytest.raises(DatasetError) as raised:
        fingerprint_of(drawn(tmp_path / "Dataset001_Drawn", [(image, label, spacing)]))
    assert str(raised.value).startswith(
        "Case 'c0': label file c0.nii.gz holds the values [6], which dataset.json does not name (it names [0, 1, 2])."
    )


def test_a_label_on_another_grid_is_named_with_the_distance(tmp_path):
    folder = drawn(tmp_path / "Dataset001_Drawn", [square_case()])
    save(folder / "labelsTr" / "c0.nii.gz", square_case()[1].astype(np.uint8), (4.0, 1.0, 3.0))
    with pytest.raises(
        DatasetError, match=r"Case 'c0': label and image lie 11 mm .* apart at a corner"
    ):  # 11 steps of 1 mm
        fingerprint_of(folder)


def test_a_missing_channel_is_named(tmp_path):
    folder = write_tiny_dataset(tmp_path, channels=2)
    (folder / "imagesTr" / "tiny_002_0001.nii.gz").unlink()
    with pytest.raises(
        DatasetError,
        match=r"Case 'tiny_002' has 1 channel in 1 file; dataset.json names 2 \(channel0, channel1\)",
    ):
        fingerprint_of(folder)


def test_labels_without_any_foreground_are_refused(tmp_path):
    image = np.ones((3, 8, 8))
    with pytest.raises(DatasetError, match="Dataset001_Drawn: no label file holds a foreground voxel"):
        fingerprint_of(drawn(tmp_path / "Dataset001_Drawn", [(image, 0 * image, (1.0, 1.0, 1.0))]))


def test_2d_among_3d_images_is_refused(tmp_path):
    flat = np.ones((8, 8))
    label = flat.copy()
    volume = np.stack([flat] * 3)
    folder = drawn(tmp_path / "Dataset001_Drawn", [(volume, volume, (1.0, 1.0, 1.0)), (flat, label, (1.0, 1.0, 1.0))])
    with pytest.raises(DatasetError, match="mixes 2D and 3D images"):
        fingerprint_of(folder)


def test_an_image_of_zeros_is_kept_whole(tmp_path):
    image = np.zeros((3, 8, 8))
    label = image.copy()
    label[1, 2, 2] = 1
    found = fingerprint_of(drawn(tmp_path / "Dataset001_Drawn", [(image, label, (1.0, 1.0, 1.0))]))
    assert found.cases["c0"].shape_after_crop == (3, 8, 8) and found.intensities[0].std == 0


def test_a_case_larger_than_free_memory_is_refused_before_it_is_read(tmp_path, monkeypatch):
    folder = write_tiny_dataset(tmp_path)
    monkeypatch.setattr(memory, "available_memory", lambda: 1000)
    with pytest.raises(
        DatasetError, match=r"cases cannot be measured:\nCase 'tiny_000' needs about .* of memory, 1000 bytes are free"
    ):
        fingerprint_of(folder)


def test_every_broken_case_is_named_not_the_first_only(tmp_path):
    folder = write_tiny_dataset(tmp_path, file_ending=".mha")
    for name in ("tiny_000", "tiny_002"):
        path = folder / "imagesTr" / f"{name}_0000.mha"
        path.write_bytes(path.read_bytes().replace(b"NDims = 3", b"NDims = 9"))
    with pytest.raises(DatasetError, match=r"2 of \d+ cases cannot be measured") as refusal:
        fingerprint_of(folder, threads=2)
    assert (
        "tiny_000_0000.mha" in str(refusal.value)
        and "tiny_002_0000.mha" in str(refusal.value)
        and "tiny_001" not in str(refusal.value)
    )


def cells(folder, tags):
    """Write TIFFs of 6 x 8 pixels with the given resolution tags, and labels of 2 x 3 pixels as plain TIFFs."""
    for sub in ("imagesTr", "labelsTr"):
        (folder / sub).mkdir(parents=True)
    description = {
        "channel_names": {"0": "A"},
        "labels": {"background": 0, "cell": 1},
        "numTraining": len(tags),
        "file_ending": ".tif",
    }
    (folder / "dataset.json").write_text(json.dumps(description))
    label = np.zeros((6, 8), np.uint8)
    label[2:4, 2:5] = 1
    for index, tag in enumerate(tags):
        tifffile.imwrite(folder / "imagesTr" / f"c{index}_0000.tif", 50 * label + 10, **tag)
        tifffile.imwrite(folder / "labelsTr" / f"c{index}.tif", label)
    return fingerprint_of(folder)


def test_pixels_of_half_a_micrometer_are_measured_in_mm(tmp_path):
    found = cells(tmp_path, [{"resolution": (20000, 20000), "resolutionunit": "CENTIMETER"}] * 2)
    assert found.measured and found.cases["c0"].spacing == pytest.approx((1, 0.0005, 0.0005))
    assert found.classes[0].in_plane_mm[1] == pytest.approx(0.0005 * 2 * math.sqrt(6 / math.pi))


def test_one_case_without_a_size_makes_all_count_in_pixels(tmp_path, caplog):
    found = cells(tmp_path, [{"resolution": (20000, 20000), "resolutionunit": "CENTIMETER"}, {}])
    assert not found.measured and {case.spacing for case in found.cases.values()} == {(1.0, 1.0, 1.0)}
    assert found.classes[0].in_plane_mm == pytest.approx((2 * math.sqrt(6 / math.pi),) * 3)
    assert "1 of 2 cases of" in caplog.text and "count in voxels" in caplog.text
