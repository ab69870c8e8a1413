"""Every kind of fault is planted in a sound dataset and must be found, in the right case and nowhere else."""

from __future__ import annotations

import gzip
import json
import shutil
import tracemalloc

import nibabel
import numpy as np
import pytest
import tifffile
from PIL import Image
from tiny import write_tiny_dataset

from samunet.checking import run as checking_run
from samunet.checking.across import join_label_values
from samunet.checking.case import CheckedCase
from samunet.checking.findings import KINDS, Finding
from samunet.checking.page import write_page
from samunet.checking.run import check_dataset, worst_cases
from samunet.cli import check_dataset as command
from samunet.core import memory
from samunet.errors import DatasetError

IMAGE, LABEL = "imagesTr/tiny_001_0000.nii.gz", "labelsTr/tiny_001.nii.gz"


def check(folder):
    return check_dataset(folder, threads=2, quiet=True)


def found(folder):
    return {(finding.case, finding.code) for finding in check(folder).findings}


def change(path, *, array=None, affine=None, header=None):
    """Write a NIfTI file again with some things changed by functions."""
    image = nibabel.load(path)
    values = np.asarray(image.dataobj).copy()
    values = values if array is None else array(values)
    new = nibabel.Nifti1Image(values, image.affine if affine is None else affine(image.affine.copy()))
    if header is not None:
        header(new)
    nibabel.save(new, path)


def describe(folder, **changes):
    description = json.loads((folder / "dataset.json").read_text()) | changes
    (folder / "dataset.json").write_text(
        json.dumps({key: value for key, value in description.items() if value is not None})
    )


def put(value):
    def function(array):
        array[2, 3, 1] = value
        return array

    return function


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


def break_checksum(path):
    content = bytearray(path.read_bytes())
    content[-8] ^= 0xFF  # CRC and length end a gzip stream
    path.write_bytes(content)


def claim(*lengths):
    """Write other axis lengths into a NIfTI header."""

    def function(path):
        content = bytearray(gzip.decompress(path.read_bytes()))
        content[40:56] = np.array([3, *lengths, 1][:8], "<i2").tobytes().ljust(16, b"\0")[:16]
        path.write_bytes(gzip.compress(bytes(content)))

    return function


def shear(affine):
    affine[:3, 1] += 0.2 * affine[:3, 0]
    return affine


def collapse(path):
    """Let the second axis of a NIfTI header's sform equal the first, with no qform beside it."""
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[252:256] = np.array([0, 1], "<i2").tobytes()
    rows = np.frombuffer(bytes(content[280:328]), "<f4").reshape(3, 4).copy()
    rows[:, 1] = rows[:, 0]
    content[280:328] = rows.tobytes()
    path.write_bytes(gzip.compress(bytes(content)))


def stretch(path):
    """Let pixdim say twice the spacing of the sform, with no qform beside it."""
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[252:256] = np.array([0, 1], "<i2").tobytes()
    content[80:92] = (2 * np.frombuffer(bytes(content[80:92]), "<f4")).astype("<f4").tobytes()
    path.write_bytes(gzip.compress(bytes(content)))


def point_back(path):
    """Make the first spacing of a NIfTI header negative."""
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[80:84] = (-np.frombuffer(bytes(content[80:84]), "<f4")).astype("<f4").tobytes()
    path.write_bytes(gzip.compress(bytes(content)))


def two_affines(image):
    moved = image.affine.copy()
    moved[0, 3] += 3
    image.set_sform(image.affine, code=1)
    image.set_qform(moved, code=1)


def shifted(affine, distance=5.0):
    affine[:3, 3] += distance
    return affine


def turned(affine):
    angle = np.radians(4)
    rotation = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine[:3, :3] = rotation @ affine[:3, :3]
    return affine


def both(path, **changes):
    change(path / IMAGE, **changes)
    change(path / LABEL, **changes)


FAULTS = {
    "truncated": lambda root: (root / IMAGE).write_bytes((root / IMAGE).read_bytes()[:-400]),
    "checksum": lambda root: break_checksum(root / IMAGE),
    "not-gzip": lambda root: (root / IMAGE).write_bytes(gzip.decompress((root / IMAGE).read_bytes())),
    "header": lambda root: claim(-1, 2, 2)(root / IMAGE),
    "not-finite": lambda root: change(root / IMAGE, array=put(np.inf)),
    "constant-image": lambda root: change(root / IMAGE, array=np.zeros_like),
    "label-values": lambda root: change(root / LABEL, array=put(9)),
    "label-fraction": lambda root: change(root / LABEL, array=lambda array: put(0.5)(array.astype(np.float32))),
    "no-foreground": lambda root: change(root / LABEL, array=np.zeros_like),
    "shape": lambda root: change(root / LABEL, array=lambda array: array[:-1]),
    "spacing": lambda root: change(root / LABEL, affine=lambda affine: affine @ np.diag([1.1, 1, 1, 1])),
    "position-near": lambda root: change(root / LABEL, affine=lambda affine: shifted(affine, 0.05)),
    "position": lambda root: change(root / LABEL, affine=shifted),
    "axes-sheared": lambda root: both(root, affine=shear),
    "axes-singular": lambda root: collapse(root / IMAGE),
    "pixdim-sform": lambda root: stretch(root / IMAGE),
    "pixdim-sign": lambda root: [point_back(root / name) for name in (IMAGE, LABEL)],
    "qform-sform": lambda root: change(root / IMAGE, header=two_affines),
    "missing-label": lambda root: (root / LABEL).unlink(),
    "missing-image": lambda root: (root / IMAGE).unlink(),
    "channel-gap": lambda root: shutil.copy(root / IMAGE, (root / IMAGE).with_name("tiny_001_0002.nii.gz")),
    "duplicate-image": lambda root: shutil.copy(root / "imagesTr/tiny_000_0000.nii.gz", root / IMAGE),
    "label-channels": lambda root: change(root / LABEL, array=lambda array: np.stack([array, array], axis=-1)),
}
BESIDES = {  # one fault may show in several ways
    "axes-singular": {"pixdim-sform"},
    "channel-gap": {"channel-count", "duplicate-channel"},
    "missing-image": {"number-of-cases"},
    "pixdim-sform": {"spacing"},  # the label keeps its own
    "duplicate-image": {"shape", "spacing", "position"},
}


@pytest.fixture
def dataset(tmp_path):
    return write_tiny_dataset(tmp_path)


@pytest.mark.parametrize("code", FAULTS)
def test_a_planted_fault_is_found_in_its_case(dataset, code):
    FAULTS[code](dataset)
    findings = found(dataset)
    assert ("tiny_001", code) in findings
    assert {other for _, other in findings} <= {code} | BESIDES.get(code, set())
    assert {case for case, _ in findings} <= {"tiny_001", ""}


def test_a_flipped_bit_is_found_whatever_it_hits(dataset):
    original = (dataset / IMAGE).read_bytes()
    for place in np.linspace(len(original) * 0.2, len(original) - 20, 12).astype(int):
        content = bytearray(original)
        content[place] ^= 0x10
        (dataset / IMAGE).write_bytes(content)
        assert found(dataset) & {("tiny_001", code) for code in ("checksum", "corrupted", "truncated")}, place


def test_a_header_that_claims_more_than_there_is_costs_no_memory(dataset):
    claim(3000, 3000, 1000)(dataset / IMAGE)
    tracemalloc.start()
    report = check(dataset)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 50e6
    assert [finding.code for finding in report.findings] == ["truncated"] and "promises" in report.findings[0].message


def test_a_case_larger_than_free_memory_is_a_finding(dataset, monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: 1000)
    report = check(dataset)
    assert len(report.findings) == len(report.cases) and {finding.code for finding in report.findings} == {"too-large"}
    assert "1000 bytes are free; free some" in report.findings[0].message


def test_turned_axes_and_moved_origins_are_measured(dataset):
    change(dataset / LABEL, affine=lambda affine: turned(shifted(affine)))
    (finding,) = check(dataset).findings
    assert finding.code == "position" and "origin 8.66 mm and axes 4 degrees apart" in finding.message


def test_the_affine_that_readers_take_is_the_one_that_is_judged(dataset):
    def templated(image):
        template = 2 * shear(image.affine.copy())
        template[3, 3] = 1
        image.set_qform(image.affine, code=1)
        image.set_sform(template, code=4)  # where a registration put the scan; readers take the qform

    both(dataset, header=templated)
    assert {finding.code for finding in check(dataset).findings} == {"qform-sform"}


@pytest.mark.parametrize("tilt", [1e-4, 6e-4, 1e-3, 0.01, 0.2])
def test_a_qform_is_judged_by_what_a_quaternion_can_tell(dataset, tilt):
    """Near half turns a quaternion's first number is rounded away, which moves corners more than other roundings."""

    def tilted(affine):
        turn = np.array([[np.cos(tilt), -np.sin(tilt), 0], [np.sin(tilt), np.cos(tilt), 0], [0, 0, 1]])
        affine[:3, :3] = (
            turn @ np.diag([-1, -1, 1]) * np.linalg.norm(affine[:3, :3], axis=0) * 40
        )  # wide voxels, far corners
        return affine

    both(
        dataset,
        affine=tilted,
        header=lambda image: (image.set_sform(image.affine, 1), image.set_qform(image.affine, 1)),
    )
    assert not {finding.code for finding in check(dataset).findings} & {"qform-sform"}


def test_a_placeholder_and_an_empty_channel_are_called_so(tmp_path):
    folder = write_tiny_dataset(tmp_path, channels=2)
    change(folder / "imagesTr/tiny_002_0001.nii.gz", array=np.zeros_like)
    shutil.copy(folder / "imagesTr/tiny_000_0000.nii.gz", folder / "imagesTr/tiny_000_0001.nii.gz")
    (folder / IMAGE).write_bytes(b"version https://git-lfs.github.com/spec/v1")
    findings = {finding.case: finding for finding in check(folder).findings}
    assert findings["tiny_002"].code == "constant-channel" and findings["tiny_000"].code == "duplicate-channel"
    assert findings["tiny_001"].code == "header" and "placeholder" in findings["tiny_001"].message


def test_whatever_one_file_makes_a_library_raise_the_others_are_checked(dataset, monkeypatch):
    original = checking_run.ImageReader.read_image

    def refuse(self, paths):
        if "tiny_001" in paths[0].name:
            raise PermissionError(f"denied: {paths[0].name}")
        return original(self, paths)

    change(dataset / LABEL, array=put(9))
    monkeypatch.setattr(checking_run.ImageReader, "read_image", refuse)
    findings = {finding.code: finding for finding in check(dataset).findings}
    assert findings["unreadable"].file == IMAGE and "PermissionError: denied" in findings["unreadable"].message
    assert findings["label-values"].file == LABEL


def test_a_stack_without_spacing_file_is_found(tmp_path):
    folder = tmp_path / "Dataset905_Stacks"
    for part, name in (("imagesTr", "a_0000.tif"), ("labelsTr", "a.tif")):
        (folder / part).mkdir(parents=True)
        tifffile.imwrite(
            folder / part / name, np.arange(240, dtype=np.uint8).reshape(5, 6, 8) % 2, photometric="minisblack"
        )
    (folder / "labelsTr/a.json").write_text('{"spacing": [1, 1, 1]}')
    description = {
        "channel_names": {"0": "x"},
        "labels": {"background": 0, "a": 1},
        "numTraining": 1,
        "file_ending": ".tif",
    }
    (folder / "dataset.json").write_text(json.dumps(description | {"overwrite_image_reader_writer": "Tiff3DIO"}))
    (finding,) = check(folder).findings
    assert (finding.code, finding.file) == (
        "no-spacing",
        "imagesTr/a_0000.tif",
    ) and "no a.json beside" in finding.message


def test_channels_of_one_case_are_compared(tmp_path):
    folder = write_tiny_dataset(tmp_path, channels=2)
    change(folder / "imagesTr/tiny_002_0001.nii.gz", affine=shifted)
    change(folder / "imagesTr/tiny_003_0001.nii.gz", array=lambda array: array[:, :-1])
    (folder / "imagesTr/tiny_001_0001.nii.gz").unlink()
    assert found(folder) == {("tiny_001", "channel-count"), ("tiny_002", "channel-position"), ("tiny_003", "shape")}


def test_channels_that_changed_places_are_noticed(tmp_path):
    folder = write_tiny_dataset(tmp_path, channels=2, cases=7)
    for gain, path in enumerate(sorted((folder / "imagesTr").glob("*_0001.nii.gz")), 1):  # every scan has its own scale
        change(path, array=lambda array, gain=gain: gain * (40 + 10 * array))
        change(path.with_name(path.name.replace("_0001", "_0000")), array=lambda array, gain=gain: gain * array)
    assert {code for _, code in found(folder)} == {"odd-orientation"}  # the phantom's cases lie in several ways
    first, second = (folder / f"imagesTr/tiny_004_000{channel}.nii.gz" for channel in (0, 1))
    spare = first.with_name("spare")
    first.rename(spare), second.rename(first), spare.rename(second)
    (finding,) = (finding for finding in check(folder).findings if finding.code != "odd-orientation")
    assert (finding.case, finding.code) == ("tiny_004", "channel-order") and "0000 looks like 0001" in finding.message


def test_left_and_right_must_lie_where_the_orientation_says(tmp_path):
    folder = write_tiny_dataset(tmp_path, labels={"background": 0, "kidney_left": 1, "kidney_right": 2})

    def sided(path, left, right):
        grows_rightward = nibabel.load(path).affine[0, 0] > 0  # nibabel's x grows to the patient's right

        def function(array):
            array[:] = 0
            low, high = (left, right) if grows_rightward else (right, left)
            array[2, 5:9], array[-3, 5:9] = low, high
            return array

        change(path, array=function)

    for path in (folder / "labelsTr").iterdir():
        sided(path, *((2, 1) if path.name == "tiny_001.nii.gz" else (1, 2)))
    (finding,) = check(folder).findings
    assert (finding.case, finding.code) == ("tiny_001", "left-right") and "'kidney_left' lies" in finding.message


def test_two_dimensions_among_three_are_named(dataset):
    for path in (dataset / IMAGE, dataset / LABEL):
        change(path, array=lambda array: array[:, :, 2])
    assert ("tiny_001", "mixed-dimensions") in found(dataset)


def test_names_folders_and_counts(dataset):
    (dataset / "imagesTr/notes.txt").write_text("x")
    (dataset / "imagesTr/._tiny_000_0000.nii.gz").write_bytes(b"x")
    shutil.copy(dataset / IMAGE, dataset / "imagesTr/tiny_001.nii.gz")
    describe(dataset, numTraining=9)
    findings = check(dataset).findings
    assert [(finding.code, finding.file) for finding in findings] == [
        ("stray-file", "imagesTr/._tiny_000_0000.nii.gz"),
        ("stray-file", "imagesTr/notes.txt"),
        ("file-name", "imagesTr/tiny_001.nii.gz"),
        ("number-of-cases", "dataset.json"),
    ]
    describe(dataset, numTraining=None)
    assert "numTraining is missing; the folders hold 4 training cases." in {
        finding.message for finding in check(dataset).findings
    }
    shutil.rmtree(dataset / "labelsTr")
    assert found(dataset) == {("", "missing-folder")}
    (dataset / "dataset.json").write_text("{")
    assert found(dataset) == {("", "dataset-json")}


def test_files_that_dataset_json_names_are_checked_too(dataset):
    listed = {
        f"case{index}": {"images": [f"imagesTr/tiny_00{index}_0000.nii.gz"], "label": f"labelsTr/tiny_00{index}.nii.gz"}
        for index in range(4)
    }
    describe(dataset, dataset=listed)
    assert found(dataset) == set()
    change(dataset / LABEL, array=put(7))
    assert found(dataset) == {("case1", "label-values")}
    (dataset / LABEL).unlink()
    FAULTS["truncated"](dataset)
    (dataset / "imagesTr/tiny_002_0000.nii.gz").write_bytes(b"")
    listed["case3"] = {"images": [], "label": "x"}
    describe(dataset, dataset=listed)
    findings = {
        ("case1", "missing-file"),
        ("case1", "truncated"),
        ("case2", "header"),
        ("case3", "dataset-json"),
        ("", "number-of-cases"),
    }
    assert found(dataset) == findings


@pytest.fixture(scope="module")
def eight(tmp_path_factory):
    folder = write_tiny_dataset(tmp_path_factory.mktemp("eight"), cases=8)
    for path in folder.glob("*Tr/*"):
        nibabel.save(nibabel.as_closest_canonical(nibabel.load(path)), path)
    return folder


def thousandfold(affine):
    affine[:3, :3] *= 1000
    return affine


def reoriented(path):
    image = nibabel.load(path)
    nibabel.save(image.as_reoriented([[1, -1], [2, 1], [0, -1]]), path)


def cut(path):
    image = nibabel.load(path)
    nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj)[:5], image.affine), path)


@pytest.mark.parametrize(
    ("code", "plant", "words"),
    [
        ("odd-spacing", lambda root: both(root, affine=thousandfold), "median case is"),
        (
            "odd-orientation",
            lambda root: [reoriented(root / name) for name in (IMAGE, LABEL)],
            "of 7 of 8 cases toward",
        ),
        ("odd-size", lambda root: [cut(root / name) for name in (IMAGE, LABEL)], "Size"),
        ("odd-intensities", lambda root: change(root / IMAGE, array=lambda array: array / 1000), "quartiles"),
        ("odd-intensities", lambda root: change(root / IMAGE, array=lambda array: array + 20000), "quartiles"),
    ],
)
def test_a_case_that_stands_out_is_named_with_the_difference(eight, tmp_path, code, plant, words):
    folder = shutil.copytree(eight, tmp_path / eight.name)
    assert found(folder) == set()
    plant(folder)
    findings = [finding for finding in check(folder).findings if finding.code.startswith("odd")]
    assert [(finding.case, finding.code) for finding in findings] == [("tiny_001", code)] and words in findings[
        0
    ].message


def test_several_cases_of_a_patient_are_seen_with_what_leaks(tmp_path):
    folder = write_tiny_dataset(tmp_path, cases=6)
    for path in [*folder.glob("*Tr/*")]:
        number = int(path.name[5:8])
        path.rename(path.with_name(f"patient{number // 2}_frame{number % 2}{path.name[8:]}"))
    (finding,) = check(folder).findings
    assert finding.code == "patients" and "3 patients in 6 cases" in finding.message
    assert (
        "patient0_frame0 and patient0_frame1 of patient0" in finding.message
        and "validation cases have another" in finding.message
    )
    suggested = json.loads(finding.message.split('"groups": ')[1])
    describe(folder, groups=suggested)
    assert found(folder) == set()


def test_a_sound_dataset_has_no_findings_in_any_form(tmp_path):
    for index, options in enumerate(
        (
            {"channels": 2, "labels": {"background": 0, "a": 1, "ignore": 2}},
            {"dimensions": 2, "size": (1, 32, 40), "channels": 3, "file_ending": ".png"},
            {
                "labels": {"background": 0, "whole": [1, 2], "core": 2},
                "regions_class_order": [1, 2],
                "file_ending": ".mha",
            },
        )
    ):
        folder = write_tiny_dataset(tmp_path, name=f"Dataset99{index}_Sound", **options)
        assert found(folder) == set()


def test_errors_are_refused_together_and_warnings_are_not(dataset):
    for code in ("no-foreground", "qform-sform"):
        FAULTS[code](dataset)
    check(dataset).refuse_errors()
    (dataset / "imagesTr/tiny_000_0000.nii.gz").write_bytes(b"")
    FAULTS["label-values"](dataset)
    with pytest.raises(
        DatasetError,
        match=r"has 2 errors:\nerror .*tiny_000_0000.*\n"
        r"error .*tiny_001.nii.gz  label-values: Values 9 \(1 voxels\)",
    ):
        check(dataset).refuse_errors()


def test_more_than_twenty_errors_are_counted(tmp_path):
    folder = write_tiny_dataset(tmp_path, cases=23, size=(2, 16, 16))
    for path in (folder / "imagesTr").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DatasetError, match=r"has 23 errors:(?s:.*)\n\.\.\. and 3 more"):
        check(folder).refuse_errors()


def test_the_command_writes_lines_json_and_a_page(dataset, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("nnUNet_raw", str(dataset.parent))
    assert command.main(["-d", "999", "--no_pbar"]) == 0
    assert "ok       tiny_000" in capsys.readouterr().out
    FAULTS["truncated"](dataset)
    change(dataset / "labelsTr/tiny_002.nii.gz", array=put(9))
    out, page = tmp_path / "out.json", tmp_path / "out.html"
    assert command.main(["-d", "999", "--no_pbar", "--json", str(out), "--html", str(page)]) == 2
    text = capsys.readouterr().out
    assert "error    tiny_001 imagesTr/tiny_001_0000.nii.gz  truncated: " in text and "ok       tiny_003" in text
    assert "Dataset999_Tiny: 4 cases, 2 of them without findings; 2 errors, 0 warnings." in text
    findings = json.loads(out.read_text())["findings"]
    assert [sorted(finding) for finding in findings] == [
        ["case", "cases", "code", "file", "fix", "message", "severity"]
    ] * 2
    html = page.read_text()
    assert (
        html.count("<img") == 1
        and "Without a picture, because the image cannot be read: tiny_001." in html
        and "http" not in html
    )
    assert command.main(["-d", "999", "998", "--json", str(out)]) == 2
    assert "--json and --html hold one dataset; got 2" in capsys.readouterr().err


def test_every_kind_has_a_way_out():
    assert all(severity in ("error", "warning") and fix.endswith(".") for severity, fix in KINDS.values())


def test_labels_are_compared_as_strictly_as_planning_does(dataset):
    change(dataset / LABEL, affine=lambda affine: affine @ np.diag([1 + 3e-5, 1, 1, 1]))
    assert found(dataset) == set()


def test_one_flat_channel_is_a_warning_with_its_own_value(tmp_path):
    folder = write_tiny_dataset(tmp_path, dimensions=2, size=(1, 32, 40), channels=3, file_ending=".png")
    path = folder / "imagesTr/tiny_001_0000.png"
    with Image.open(path) as image:
        pixels = np.array(image)
    pixels[..., 2] = 7
    Image.fromarray(pixels).save(path)
    (finding,) = check(folder).findings
    assert (finding.code, finding.severity) == (
        "constant-channel",
        "warning",
    ) and "of channel 2 has the value 7" in finding.message


def test_an_image_that_is_there_twice_is_found_however_it_is_compressed(dataset):
    other = dataset / "imagesTr/tiny_000_0000.nii.gz"
    shutil.copy(dataset / "labelsTr/tiny_000.nii.gz", dataset / LABEL)
    (dataset / IMAGE).write_bytes(gzip.compress(gzip.decompress(other.read_bytes()), 1))
    assert found(dataset) == {("tiny_001", "duplicate-image")}


def test_groups_and_splits_are_looked_at(dataset):
    describe(dataset, groups="(x")
    (dataset / "splits_final.json").write_text(json.dumps([{"train": ["tiny_000"], "val": ["gone"]}]))
    assert found(dataset) == {("", "dataset-json"), ("", "splits")}
    (dataset / "splits_final.json").write_text("[")
    describe(dataset, groups=r"tiny_(\d+)")
    assert found(dataset) == {("", "splits")}
    describe(dataset, labels={"background": 0, "whole": [1, 2], "core": 2}, regions_class_order=[1, 9])
    assert [finding.code for finding in check(dataset).findings] == ["dataset-json"]


def test_whatever_a_library_raises_of_a_damaged_file_is_a_finding(tmp_path, monkeypatch):
    folder = write_tiny_dataset(tmp_path, file_ending=".mha")
    real = checking_run.check_case

    def breaks(case, *given):
        if case.identifier == "tiny_001":
            raise ZeroDivisionError("of a library")
        return real(case, *given)

    monkeypatch.setattr(checking_run, "check_case", breaks)
    assert found(folder) == {("tiny_001", "unreadable")}


def test_masks_of_0_and_255_are_one_finding_with_one_remedy():
    def case(name: str, values: tuple[int, ...]) -> CheckedCase:
        finding = Finding(name, f"labelsTr/{name}.png", "label-values", "")
        return CheckedCase(identifier=name, findings=(finding,) if values else (), unexpected=values)

    (one,) = join_label_values([case("a", (255,)), case("b", (255,)), case("c", ())], (0, 1))
    assert (one.case, one.code) == (
        "",
        "label-values",
    ) and "2 label files, the first of case 'a', hold the values [255]" in one.message
    assert "--map_labels 255=1" in one.message
    assert [finding.case for finding in join_label_values([case("a", (255,)), case("b", (7,))], (0, 1))] == ["a", "b"]


def test_cases_of_one_joint_finding_are_not_ok(tmp_path):
    folder = write_tiny_dataset(tmp_path, cases=3)
    for name in ("tiny_000", "tiny_002"):
        change(folder / f"labelsTr/{name}.nii.gz", array=put(9))
    report = check(folder)
    (one,) = [finding for finding in report.findings if finding.code == "label-values"]
    assert (one.case, one.cases) == ("", ("tiny_000", "tiny_002")) and one.as_json()["cases"] == one.cases
    lines = report.lines()
    assert [line.split()[1] for line in lines if line.startswith("ok ")] == ["tiny_001"]
    assert sum("label-values" in line for line in lines) == 1 and report.clean == 1
    assert [case.identifier for case in worst_cases(report, 6)] == ["tiny_000", "tiny_002"]
    assert "3 cases, 1 of them without findings; 1 error, 0 warnings." in report.summary()


def test_the_page_colors_severity_beside_its_word(tmp_path):
    folder = write_tiny_dataset(tmp_path, size=(4, 24, 24), cases=2)
    (folder / "labelsTr/tiny_000.nii.gz").unlink()
    write_page(tmp_path / "page.html", check(folder))
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert 'class="headline error"' in text and '<span class="badge error">error</span>' in text
    assert ".error { color: var(--error); }" in text
