"""Datasets of other layouts arrive whole and pass the check; wrong ones are refused in one sentence."""

from __future__ import annotations

import csv
import json
import shutil

import nibabel
import numpy as np
import pytest
import tifffile
from tiny import write_tiny_dataset

from samunet.checking.run import check_dataset
from samunet.cli import convert_msd_dataset, import_dataset
from samunet.errors import DatasetError
from samunet.imageio import reader_for
from samunet.importing import layouts
from samunet.importing.dataset import FoundCase, identifier_of, write_dataset


@pytest.fixture
def source(tmp_path):
    return write_tiny_dataset(tmp_path / "source", channels=2, cases=3)


@pytest.fixture
def raw(tmp_path, monkeypatch):
    folder = tmp_path / "raw"
    folder.mkdir()
    monkeypatch.setenv("nnUNet_raw", str(folder))
    return folder


def same(made, original):
    a, b = nibabel.load(made), nibabel.load(original)
    return (
        a.get_data_dtype() == b.get_data_dtype()
        and np.array_equal(a.dataobj, b.dataobj)
        and np.allclose(a.affine, b.affine)
    )


def assert_equals_source(folder, source, names):
    report = check_dataset(folder, threads=1, quiet=True)
    assert report.findings == () and len(report.cases) == 3
    for name, original in names.items():
        assert all(
            same(folder / f"imagesTr/{name}_000{c}.nii.gz", source / f"imagesTr/{original}_000{c}.nii.gz")
            for c in (0, 1)
        )
        assert same(folder / f"labelsTr/{name}.nii.gz", source / f"labelsTr/{original}.nii.gz")


def task_of(source, folder):
    """The source as a task of the Decathlon: both channels in one file, labels by value."""
    for part in ("imagesTr", "labelsTr", "imagesTs"):
        (folder / part).mkdir(parents=True)
    for first in sorted(source.glob("images*/*_0000.nii.gz")):
        parts = [nibabel.load(first), nibabel.load(str(first).replace("_0000", "_0001"))]
        nibabel.save(nibabel.concat_images(parts), folder / first.parent.name / first.name.replace("_0000", ""))
    for label in (source / "labelsTr").iterdir():
        shutil.copy(label, folder / "labelsTr")
    (folder / "imagesTr" / "._tiny_000.nii.gz").write_bytes(b"a Mac was here")
    description = {"modality": {"0": "T2", "1": "ADC"}, "labels": {"0": "background", "1": "large", "2": "small"}}
    (folder / "dataset.json").write_text(json.dumps(description))
    return folder


NAMES = {f"tiny_00{index}": f"tiny_00{index}" for index in range(3)}


def test_a_decathlon_task_becomes_one_file_a_channel(source, raw, tmp_path, capsys):
    task = task_of(source, tmp_path / "Task07_Two_Words")
    assert convert_msd_dataset.main(["-i", str(task), "--no_pbar"]) == 0
    assert "Wrote 4 cases" in capsys.readouterr().out
    folder = raw / "Dataset007_TwoWords"
    assert_equals_source(folder, source, NAMES)
    assert len(list((folder / "imagesTs").iterdir())) == 2
    description = json.loads((folder / "dataset.json").read_text())
    assert description["channel_names"] == {"0": "T2", "1": "ADC"} and description["labels"] == {
        "background": 0,
        "large": 1,
        "small": 2,
    }
    assert (
        convert_msd_dataset.main(["-i", str(task), "-overwrite_id", "41", "--no_pbar"]) == 0
        and (raw / "Dataset041_TwoWords").is_dir()
    )
    assert convert_msd_dataset.main(["-i", str(task), "--no_pbar"]) == 2 and "exists already" in capsys.readouterr().err
    assert (
        convert_msd_dataset.main(["-i", str(source), "--no_pbar"]) == 2
        and "not named TaskXX_Name" in capsys.readouterr().err
    )


COMMON = ["--channels", "T2", "ADC", "--labels", "large=1", "small=2", "--no_pbar"]


def test_folders_are_matched_by_file_name(source, raw, tmp_path, capsys):
    for channel in (0, 1):
        (tmp_path / f"c{channel}").mkdir()
        for path in source.glob(f"images*/*_000{channel}.nii.gz"):
            shutil.copy(path, tmp_path / f"c{channel}" / path.name.replace(f"_000{channel}", ""))
    command = [
        "folders",
        "-i",
        str(tmp_path / "c0"),
        str(tmp_path / "c1"),
        "-l",
        str(source / "labelsTr"),
        "-d",
        "Dataset050_Folders",
        *COMMON,
    ]
    assert import_dataset.main(command) == 0
    assert "Wrote 4 cases, 3 of them with a label" in capsys.readouterr().out
    assert_equals_source(raw / "Dataset050_Folders", source, NAMES)
    (tmp_path / "c1" / "tiny_001.nii.gz").unlink()
    assert (
        import_dataset.main([*command, "-d", "Dataset051_Folders"]) == 2
        and "has no image of case 'tiny_001'" in capsys.readouterr().err
    )
    (tmp_path / "c0" / "tiny_002.nii.gz").unlink()
    assert (
        import_dataset.main([*command, "-d", "Dataset051_Folders"]) == 2
        and "first 'tiny_002'; rename" in capsys.readouterr().err
    )
    assert [path.name for path in raw.iterdir()] == ["Dataset050_Folders"]


def test_a_table_names_every_file(source, raw, capsys):
    table = source / "table.csv"
    with table.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["case", "image_0", "image_1", "label"])
        rows.writerows(
            [
                f"patient {i}",
                f"imagesTr/tiny_00{i}_0000.nii.gz",
                f"imagesTr/tiny_00{i}_0001.nii.gz",
                f"labelsTr/tiny_00{i}.nii.gz",
            ]
            for i in range(3)
        )
    assert import_dataset.main(["csv", "-i", str(table), "-d", "Dataset052_Table", *COMMON]) == 0
    assert_equals_source(raw / "Dataset052_Table", source, {f"patient_{i}": f"tiny_00{i}" for i in range(3)})
    table.write_text("name,image\na,b\n")
    assert import_dataset.main(["csv", "-i", str(table), "-d", "Dataset053_Table", *COMMON]) == 2
    assert (
        "needs the columns case, image (or image_0, image_1, ...) and label; it has image, name"
        in capsys.readouterr().err
    )


def test_a_monai_datalist_is_read(source, raw, capsys):
    entries = [
        {"image": [f"imagesTr/tiny_00{i}_000{c}.nii.gz" for c in (0, 1)], "label": f"labelsTr/tiny_00{i}.nii.gz"}
        for i in range(3)
    ]
    listed = source / "list.json"
    listed.write_text(
        json.dumps({"training": entries, "testing": [{"image": [f"imagesTs/tiny_003_000{c}.nii.gz" for c in (0, 1)]}]})
    )
    assert import_dataset.main(["datalist", "-i", str(listed), "-d", "Dataset054_List", *COMMON]) == 0
    assert_equals_source(raw / "Dataset054_List", source, NAMES)
    listed.write_text(json.dumps({"training": [{"label": "x"}]}))
    assert import_dataset.main(["datalist", "-i", str(listed), "-d", "Dataset055_List", *COMMON]) == 2
    assert "entry 0 of 'training' has no image" in capsys.readouterr().err


def test_a_bids_dataset_is_read_with_its_derivatives(source, raw, tmp_path, capsys):
    bids = tmp_path / "bids"
    for index in range(3):
        anatomy, derived = bids / f"sub-{index}/ses-1/anat", bids / f"derivatives/manual/sub-{index}/ses-1/anat"
        anatomy.mkdir(parents=True), derived.mkdir(parents=True)
        for channel, suffix in enumerate(("T2w", "FLAIR")):
            shutil.copy(
                source / f"imagesTr/tiny_00{index}_000{channel}.nii.gz", anatomy / f"sub-{index}_ses-1_{suffix}.nii.gz"
            )
        shutil.copy(source / f"labelsTr/tiny_00{index}.nii.gz", derived / f"sub-{index}_ses-1_label-organ_dseg.nii.gz")
    command = ["bids", "-i", str(bids), "--suffixes", "T2w", "FLAIR", "-d", "Dataset056_Bids", *COMMON]
    assert import_dataset.main(command) == 0
    assert_equals_source(raw / "Dataset056_Bids", source, {f"sub-{i}_ses-1": f"tiny_00{i}" for i in range(3)})
    (bids / "sub-1/ses-1/anat/sub-1_ses-1_FLAIR.nii.gz").unlink()
    assert import_dataset.main([*command, "-d", "Dataset057_Bids"]) == 2
    assert "holds 0 files sub-1_ses-1_FLAIR.nii.gz, expected one" in capsys.readouterr().err


def test_what_cannot_be_written_leaves_nothing(source, raw, capsys):
    image, label = source / "imagesTr/tiny_000_0000.nii.gz", source / "labelsTr/tiny_000.nii.gz"

    def write(*cases, name="Dataset060_X", labels=None, channels=("T2",)):
        return write_dataset(
            raw,
            name,
            cases,
            channels=channels,
            labels=labels or {"background": 0, "a": 1, "b": 2},
            threads=1,
            quiet=True,
        )

    good = FoundCase(identifier="a", images=(image,), label=label)
    for cases, options, message in (
        ([good, good], {}, "several cases have one name, first 'a'"),
        ([good], {"labels": {"background": 0, "a": 5}}, "label values must be consecutive"),
        ([good], {"name": "Liver"}, "'Liver' is no name of a dataset"),
        ([good], {"channels": ("T2", "ADC")}, "holds 1 channel.*, 2 are named"),
        ([FoundCase(identifier="a", images=(image,), label=None)], {}, "none of the 1 case found has a label"),
        (
            [FoundCase(identifier="a", images=(image.with_name("absent.nii.gz"),), label=label)],
            {},
            "1 file cannot be found, first",
        ),
        (
            [FoundCase(identifier="a", images=(image,), label=source / "dataset.json")],
            {},
            "must share one known ending",
        ),
    ):
        with pytest.raises(Exception, match=message):
            write(*cases, **options)
    assert list(raw.iterdir()) == []
    assert import_dataset.main(["csv", "-i", "x", "-d", "Dataset060_X", "--channels", "a", "--labels", "liver"]) == 2
    assert "--labels needs NAME=VALUE" in capsys.readouterr().err


def test_a_file_with_several_channels_is_not_taken_for_one(source, raw, tmp_path):
    task = task_of(source, tmp_path / "Task07_X")
    case = FoundCase(
        identifier="a", images=(task / "imagesTr/tiny_000.nii.gz",), label=task / "labelsTr/tiny_000.nii.gz"
    )
    with pytest.raises(DatasetError, match="holds 2 channel.*, 1 are named"):
        write_dataset(
            raw, "Dataset061_X", [case], channels=["T2"], labels={"background": 0, "a": 1}, threads=1, quiet=True
        )


def test_identifiers_hold_only_what_file_systems_and_nnunet_like():
    assert [identifier_of(text) for text in ("patient 1", "a/b\\c", "+", "Müller  3", "患者_01", "x.y-z_1")] == [
        "patient_1",
        "a_b_c",
        "case",
        "Müller_3",
        "患者_01",
        "x.y-z_1",
    ]


def test_a_list_is_no_table():
    with pytest.raises(DatasetError, match="does not exist"):
        layouts.from_folders([layouts.Path("/nowhere")], layouts.Path("/nowhere"))


def test_scaled_integers_keep_their_stored_numbers(raw, tmp_path):
    stored = np.random.default_rng(0).integers(0, 1000, (5, 6, 4, 2)).astype(np.int16)
    image = nibabel.Nifti1Image(stored, np.eye(4))
    image.header.set_slope_inter(0.37, 5)
    nibabel.save(image, tmp_path / "a.nii.gz")
    nibabel.save(nibabel.Nifti1Image(np.ones((5, 6, 4), np.uint8), np.eye(4)), tmp_path / "label.nii.gz")
    case = FoundCase(identifier="a", images=(tmp_path / "a.nii.gz",), label=tmp_path / "label.nii.gz")
    folder = write_dataset(
        raw, "Dataset062_X", [case], channels=["T2", "ADC"], labels={"background": 0, "a": 1}, threads=1, quiet=True
    )
    for channel in (0, 1):
        proxy = nibabel.load(folder / f"imagesTr/a_000{channel}.nii.gz").dataobj
        assert (
            np.array_equal(proxy.get_unscaled(), stored[..., channel])
            and proxy.slope == pytest.approx(0.37)
            and proxy.inter == 5
        )


def test_color_pictures_are_one_file_of_three_channels(raw, tmp_path):
    source = write_tiny_dataset(
        tmp_path / "rgb", dimensions=2, size=(1, 32, 40), channels=3, file_ending=".png", num_test=0
    )
    for path in (source / "imagesTr").iterdir():
        path.rename(path.with_name(path.name.replace("_0000", "")))
    command = [
        "folders",
        "-i",
        str(source / "imagesTr"),
        "-l",
        str(source / "labelsTr"),
        "--labels",
        "large=1",
        "small=2",
        "--no_pbar",
    ]
    assert import_dataset.main([*command, "--channels", "R", "G", "B", "-d", "Dataset063_Rgb"]) == 0
    assert check_dataset(raw / "Dataset063_Rgb", threads=1, quiet=True).findings == ()
    assert import_dataset.main([*command, "--channels", "grey", "-d", "Dataset064_Rgb"]) == 2


def test_a_bids_label_belongs_to_the_image_that_says_most(source, tmp_path):
    anatomy = tmp_path / "bids/sub-1/anat"
    anatomy.mkdir(parents=True)
    (tmp_path / "bids/derivatives/sub-1").mkdir(parents=True)
    for name in ("sub-1_T1w", "sub-1_ce-GAD_T1w", "._sub-1_T1w"):
        shutil.copy(source / "imagesTr/tiny_000_0000.nii.gz", anatomy / f"{name}.nii.gz")
    shutil.copy(source / "labelsTr/tiny_000.nii.gz", tmp_path / "bids/derivatives/sub-1/sub-1_ce-GAD_dseg.nii.gz")
    cases = {case.identifier: case for case in layouts.from_bids(tmp_path / "bids", ["T1w"], "dseg")}
    assert (
        set(cases) == {"sub-1", "sub-1_ce-GAD"}
        and cases["sub-1"].label is None
        and cases["sub-1_ce-GAD"].label is not None
    )


def test_tables_count_channels_by_number_and_forgive_a_trailing_comma(tmp_path):
    columns = [f"image_{index}" for index in range(11)]
    (tmp_path / "t.csv").write_text(
        ",".join(["case", *columns, "label", ""]) + "\n" + ",".join(["a", *columns, "l", "", ""]) + "\n"
    )
    (case,) = layouts.from_table(tmp_path / "t.csv")
    assert [path.name for path in case.images] == columns


@pytest.mark.parametrize("image", [[], None, [None], 3])
def test_a_datalist_entry_without_a_usable_image_is_named(tmp_path, image):
    (tmp_path / "list.json").write_text(json.dumps({"training": [{"image": image, "label": "x"}], "test": None}))
    with pytest.raises(DatasetError, match="entry 0 of 'training'"):
        layouts.from_datalist(tmp_path / "list.json")


def test_nothing_is_left_out_without_a_word(source, raw, tmp_path, capsys, caplog):
    images, labels = source / "imagesTr", source / "labelsTr"
    shutil.copy(images / "tiny_000_0000.nii.gz", tmp_path)
    table = tmp_path / "t.csv"
    table.write_text("image,label,case\ntiny_000_0000.nii.gz\n")
    with pytest.raises(DatasetError, match="row 2: the case has no name"):
        layouts.from_table(table)
    (tmp_path / "list.json").write_text(
        json.dumps({"training": [{"image": "tiny_000_0000.nii.gz", "label": ["a", "b"]}]})
    )
    with pytest.raises(DatasetError, match="entry 0 of 'training': a label is one file"):
        layouts.from_datalist(tmp_path / "list.json")
    (tmp_path / "c").mkdir(), (tmp_path / "d").mkdir()
    shutil.copy(images / "tiny_000_0000.nii.gz", tmp_path / "c/tiny_000.nii.gz")
    shutil.copy(images / "tiny_000_0000.nii.gz", tmp_path / "d/tiny_009.nii.gz")
    with pytest.raises(DatasetError, match="holds 2 files without an image|first 'tiny_001'"):
        layouts.from_folders([tmp_path / "c"], labels)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="d holds 1 file without an image of the same name in .*first 'tiny_009'"):
        layouts.from_folders([tmp_path / "c", tmp_path / "d"], tmp_path / "empty")
    shutil.copy(tmp_path / "c/tiny_000.nii.gz", tmp_path / "c/tiny_000.mha")
    with pytest.raises(DatasetError, match="tiny_000.mha and tiny_000.nii.gz would be one case"):
        layouts.from_folders([tmp_path / "c"], tmp_path / "empty")
    anatomy = tmp_path / "bids/sub-1/anat"
    anatomy.mkdir(parents=True)
    for name in ("sub-1_acq-fine_T1w", "sub-1_dseg", "sub-1_brainmask"):
        shutil.copy(images / "tiny_000_0000.nii.gz", anatomy / f"{name}.nii.gz")
    (case,) = layouts.from_bids(tmp_path / "bids", ["T1w"], "dseg")
    assert case.label is None and "Left out as labels in _dseg of no T1w image: 1 file, first" in caplog.text
    assert layouts.from_bids(tmp_path / "bids", ["T1w"], "mask")[0].label is None
    shutil.copy(images / "tiny_000_0000.nii.gz", anatomy / "sub-1_FLAIR.nii.gz")
    with pytest.raises(DatasetError, match="sub-1_FLAIR has no sub-1_T1w beside it"):
        layouts.from_bids(tmp_path / "bids", ["T1w", "FLAIR"], "dseg")
    task = task_of(source, tmp_path / "Task07_X")
    (task / "dataset.json").write_text(json.dumps({"channel_names": {"0": "T2"}, "labels": {"background": 0}}))
    assert (
        convert_msd_dataset.main(["-i", str(task)]) == 2
        and "is none of the Medical Segmentation Decathlon" in capsys.readouterr().err
    )


def test_a_number_or_an_identifier_that_is_taken_is_refused(source, raw):
    image, label = source / "imagesTr/tiny_000_0000.nii.gz", source / "labelsTr/tiny_000.nii.gz"
    cases = [FoundCase(identifier=name, images=(image,), label=label) for name in ("a", "A")]
    options = {"channels": ["T2"], "labels": {"background": 0, "a": 1, "b": 2}, "threads": 1, "quiet": True}
    with pytest.raises(DatasetError, match="several cases have one name, first 'a' \\(1 name in all"):
        write_dataset(raw, "Dataset071_X", cases, **options)
    write_dataset(raw, "Dataset071_X", cases[:1], **options)
    with pytest.raises(DatasetError, match="The number 0071 belongs to Dataset071_X already"):
        write_dataset(raw, "Dataset0071_Y", cases[:1], **options)


def test_stacks_keep_their_spacing(raw, tmp_path):
    for name, values in (("a_0000", 200), ("a_0001", 100), ("label", 2)):
        tifffile.imwrite(
            tmp_path / f"{name}.tif", np.arange(240, dtype=np.uint8).reshape(5, 6, 8) % values, photometric="minisblack"
        )
    (tmp_path / "a.json").write_text('{"spacing": [5, 0.5, 0.5]}')
    (tmp_path / "label.json").write_text('{"spacing": [5.0, 0.5, 0.5]}')
    case = FoundCase(
        identifier="a", images=(tmp_path / "a_0000.tif", tmp_path / "a_0001.tif"), label=tmp_path / "label.tif"
    )
    options = {"channels": ["x", "y"], "labels": {"background": 0, "a": 1}, "threads": 1, "quiet": True}
    folder = write_dataset(raw, "Dataset072_Stacks", [case], **options)
    assert check_dataset(folder, threads=1, quiet=True).findings == ()
    reader = reader_for(".tif", "Tiff3DIO")
    assert reader.read_image(sorted((folder / "imagesTr").glob("*.tif"))).geometry.spacing == (5, 0.5, 0.5)
    assert reader.read_label(folder / "labelsTr/a.tif")[1].spacing == (5, 0.5, 0.5)
    (tmp_path / "a_0001.json").write_text('{"spacing": [4, 0.5, 0.5]}')
    with pytest.raises(DatasetError, match="The spacing files of one case differ"):
        write_dataset(raw, "Dataset073_Stacks", [case], **options)


def test_repairs_happen_only_when_asked_for_and_are_reported(source, raw, capsys):
    for path in source.glob("*Tr/tiny_001*"):  # one case leans
        image = nibabel.load(path)
        affine = image.affine.copy()
        affine[:3, 1] += 0.05 * affine[:3, 0]
        nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj), affine), path)
    path = source / "labelsTr/tiny_000.nii.gz"
    values = np.asarray(nibabel.load(path).dataobj)
    nibabel.save(
        nibabel.Nifti1Image(np.where(values == 2, 255, values).astype(np.uint8), nibabel.load(path).affine), path
    )
    table = source / "table.csv"
    rows = [
        f"t{i},imagesTr/tiny_00{i}_0000.nii.gz,imagesTr/tiny_00{i}_0001.nii.gz,labelsTr/tiny_00{i}.nii.gz"
        for i in range(3)
    ]
    table.write_text("\n".join(["case,image_0,image_1,label", *rows]))
    command = ["csv", "-i", str(table), *COMMON]
    assert import_dataset.main([*command, "-d", "Dataset074_AsItIs"]) == 0
    found = {finding.code for finding in check_dataset(raw / "Dataset074_AsItIs", threads=1, quiet=True).findings}
    assert found == {"axes-sheared", "label-values"} and not (raw / "Dataset074_AsItIs/repairs.json").exists()
    assert (
        import_dataset.main([*command, "-d", "Dataset075_Repaired", "--map_labels", "255=2", "--orthonormalize"]) == 0
    )
    folder = raw / "Dataset075_Repaired"
    assert (
        check_dataset(folder, threads=1, quiet=True).findings == ()
        and "Made 4 changes in copies" in capsys.readouterr().out
    )
    report = json.loads((folder / "repairs.json").read_text())
    assert report[-2] == {
        "file": "labelsTr/t0.nii.gz",
        "repair": "label value",
        "from": 255,
        "to": 2,
        "voxels": int((values == 2).sum()),
    }
    turned = [entry for entry in report if entry["repair"] == "orthonormalize"]
    assert [entry["file"] for entry in turned] == [
        "imagesTr/t1_0000.nii.gz",
        "imagesTr/t1_0001.nii.gz",
        "labelsTr/t1.nii.gz",
    ]
    assert all(0.5 < entry["degrees"] < 4 for entry in turned)
    assert np.array_equal(nibabel.load(folder / "labelsTr/t0.nii.gz").dataobj, values)
    assert import_dataset.main([*command, "-d", "Dataset076_X", "--map_labels", "a=2"]) == 2
    assert "--map_labels needs OLD=NEW with whole numbers, e.g. 255=1; got 'a=2'" in capsys.readouterr().err


def test_labels_get_the_grid_of_their_image_when_asked_for(source, raw):
    path = source / "labelsTr/tiny_000.nii.gz"
    label = nibabel.load(path)
    moved = label.affine.copy()
    moved[:3, 3] += 3
    nibabel.save(nibabel.Nifti1Image(np.asarray(label.dataobj), moved), path)
    rows = [f"t{i},imagesTr/tiny_00{i}_0000.nii.gz,labelsTr/tiny_00{i}.nii.gz" for i in range(3)]
    (source / "table.csv").write_text("\n".join(["case,image,label", *rows]))
    command = ["csv", "-i", str(source / "table.csv"), "--channels", "CT", *COMMON[COMMON.index("--labels") :]]
    assert import_dataset.main([*command, "-d", "Dataset077_Moved", "--copy_grid"]) == 0
    folder = raw / "Dataset077_Moved"
    (entry,) = json.loads((folder / "repairs.json").read_text())
    assert (
        entry["file"] == "labelsTr/t0.nii.gz"
        and entry["repair"] == "grid of the image"
        and entry["mm"] == pytest.approx(27**0.5, rel=1e-3)
    )
    written, image = nibabel.load(folder / "labelsTr/t0.nii.gz"), nibabel.load(folder / "imagesTr/t0_0000.nii.gz")
    np.testing.assert_array_equal(written.affine, image.affine)
    np.testing.assert_array_equal(written.dataobj, label.dataobj)
