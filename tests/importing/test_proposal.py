"""Any folder of images and labels is recognized by its names, shown as the dataset it would become, and copied only
when the user agrees.
"""

from __future__ import annotations

import json
import shutil

import nibabel
import numpy as np
import pytest
from PIL import Image
from tiny import write_tiny_dataset

from samunet.checking.run import check_dataset
from samunet.cli import import_dataset
from samunet.core.workspace import Workspace
from samunet.errors import ConfigError, DatasetError
from samunet.importing.proposal import propose

NAMES = ("tiny_000", "tiny_001", "tiny_002")


@pytest.fixture
def source(tmp_path):
    """Three cases with labels and one without, of two channels."""
    return write_tiny_dataset(tmp_path / "source", channels=2, cases=3)


@pytest.fixture
def raw(tmp_path, monkeypatch):
    (tmp_path / "raw").mkdir()
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    return tmp_path / "raw"


def lay(source, folder, image, label, *, channels=("0000",), cases=NAMES):
    """Copy cases under names with {case}, {number} and {channel} in them."""
    for number, name in enumerate(cases):
        pairs = [
            (f"imagesTr/{name}_{index:04d}", image.format(case=name, number=number, channel=channel))
            for index, channel in enumerate(channels)
        ]
        for original, copy in (*pairs, (f"labelsTr/{name}", label.format(case=name, number=number))):
            (folder / copy).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source / f"{original}.nii.gz", folder / f"{copy}.nii.gz")
    return folder


def look(folder, raw=None):
    return propose(folder, Workspace(raw_folder=raw), threads=1, quiet=True)


LAYOUTS = {
    "two folders": ("images/{case}", "labels/{case}", NAMES),
    "suffix seg": ("{case}", "{case}_seg", NAMES),
    "suffix mask": ("scans/{case}", "scans/{case}-mask", NAMES),
    "suffix label": ("{case}_image", "{case}_label", NAMES),
    "suffix gt": ("p{number}/p{number}_frame01", "p{number}/p{number}_frame01_gt", [f"p{i}_frame01" for i in range(3)]),
    "prefix": ("img000{number}", "label000{number}", [f"case_000{i}" for i in range(3)]),
    "a folder a patient": ("{case}/imaging", "{case}/segmentation", NAMES),
    "nnU-Net's": ("imagesTr/{case}_0000", "labelsTr/{case}", NAMES),
    "the Decathlon's": ("imagesTr/{case}", "labelsTr/{case}", NAMES),
    "words for images in names": ("scan_{number}", "scan_{number}_seg", [f"scan_{i}" for i in range(3)]),
    "the same names": ("images/vol-{number}", "labels/vol-{number}", [f"vol-{i}" for i in range(3)]),
    "splits": ("train/images/{case}", "train/masks/{case}", NAMES),
    "names of folders that differ": ("X_v2_Input/{case}", "X_GroundTruth/{case}_segmentation", NAMES),
    "label in the image's name": ("images/label_{number}", "masks/{number}", [f"case_{i}" for i in range(3)]),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_images_and_labels_are_told_apart_and_belong_together(source, tmp_path, layout):
    image, label, names = LAYOUTS[layout]
    found = look(lay(source, tmp_path / "mine", image, label))
    assert [case.identifier for case in found.cases] == list(names) and found.left_out == {}
    for number, case in enumerate(found.cases):
        expected = [text.format(case=NAMES[number], number=number) for text in (image, label)]
        paths = [path.relative_to(tmp_path / "mine").as_posix() for path in (*case.images, case.label)]
        assert paths == [f"{name}.nii.gz" for name in expected]
    assert found.channels == ("image",) and found.labels == {"class_1": 1, "class_2": 2}


@pytest.mark.parametrize(
    ("image", "label", "channels"),
    [
        ("{case}/{case}_{channel}", "{case}/{case}_seg", ("flair", "T1ce")),
        ("{channel}/{case}", "masks/{case}", ("ADC", "T2")),
        ("{case}/{channel}", "{case}/roi", ("adc", "t2")),
    ],
)
def test_what_names_say_beside_the_case_is_the_channel(source, tmp_path, image, label, channels):
    found = look(lay(source, tmp_path / "mine", image, label, channels=channels))
    assert found.channels == channels and [case.identifier for case in found.cases] == list(NAMES)
    assert all(channel in case.images[i].as_posix() for case in found.cases for i, channel in enumerate(channels))


def test_a_command_copies_it_and_the_copy_passes_the_check(source, raw, tmp_path, capsys):
    folder = lay(source, tmp_path / "my prostates", "{case}_{channel}", "{case}_gland_seg", channels=("T2", "ADC"))
    for path in folder.glob("*_seg.nii.gz"):
        label = nibabel.load(path)
        values = np.where(np.asarray(label.dataobj) > 0, 255, 0).astype(np.uint8)
        nibabel.save(nibabel.Nifti1Image(values, label.affine), path)
    (folder / "tiny_002_ADC.nii.gz").unlink()
    shutil.copy(source / "imagesTs/tiny_003_0000.nii.gz", folder / "tiny_003_T2.nii.gz")
    shutil.copy(source / "imagesTs/tiny_003_0001.nii.gz", folder / "tiny_003_ADC.nii.gz")
    (folder / "._tiny_000_T2.nii.gz").write_bytes(b"a Mac was here")
    (raw / "Dataset011_Other").mkdir()
    assert import_dataset.main([str(folder), "--no_pbar", "--yes", "-d", "Dataset012_P", "--labels", "gland=1"]) == 0
    text = capsys.readouterr().out
    for line in (
        "cases     2 with a label, 1 without",
        "channels  0000 ADC, 0001 T2 (from the names of the files)",
        "labels    0 background, 1 gland (",
        "255 becomes 1",
        "tiny_000_ADC.nii.gz -> imagesTr/tiny_000_0000.nii.gz",
        "left out  2 files whose case lacks a channel: tiny_002_T2.nii.gz, tiny_002_gland_seg.nii.gz",
        "Next: samunet_check_dataset -d Dataset012_P",
    ):
        assert line in text
    report = check_dataset(raw / "Dataset012_P", threads=1, quiet=True)
    assert report.findings == () and len(report.cases) == 2
    copy = nibabel.load(raw / "Dataset012_P/labelsTr/tiny_000.nii.gz")
    assert np.unique(copy.dataobj).tolist() == [0, 1]
    assert sorted(path.name for path in (raw / "Dataset012_P/imagesTs").iterdir()) == [
        f"tiny_003_000{channel}.nii.gz" for channel in (0, 1)
    ]


def test_nothing_is_copied_before_the_user_agrees(source, raw, tmp_path, capsys, monkeypatch):
    words = [str(lay(source, tmp_path / "Task05_My organs", "images/{case}", "labels/{case}")), "--no_pbar"]
    assert import_dataset.main(words) == 2
    out, error = capsys.readouterr()
    assert "would become Dataset005_MyOrgans:" in out and "add --yes to copy" in error
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda question: print(question) or "n")
    assert import_dataset.main(words) == 2 and list(raw.iterdir()) == []
    assert f"Copy 3 cases to {raw}? [y/N]" in capsys.readouterr().out
    monkeypatch.setattr("builtins.input", lambda question: "yes")
    assert import_dataset.main(words) == 0 and [path.name for path in raw.iterdir()] == ["Dataset005_MyOrgans"]
    capsys.readouterr()
    assert import_dataset.main([str(raw / "Dataset005_MyOrgans")]) == 2
    assert "is in nnUNet_raw already" in capsys.readouterr().err
    assert import_dataset.main(["nowhere"]) == 2 and "nowhere does not exist" in capsys.readouterr().err
    assert import_dataset.main([__file__]) == 2 and "is no folder" in capsys.readouterr().err


def test_values_that_no_label_names_are_not_copied(source, raw, tmp_path, capsys):
    words = [str(lay(source, tmp_path / "mine", "images/{case}", "labels/{case}")), "--no_pbar", "--yes"]
    assert import_dataset.main([*words, "--labels", "organ=1"]) == 2 and list(raw.iterdir()) == []
    assert "would hold 2, which no label names" in capsys.readouterr().err
    assert import_dataset.main([*words, "--labels", "organ=1", "--map_labels", "2=1"]) == 0
    assert " --labels organ=1 --map_labels 2=1\n" in capsys.readouterr().out
    assert import_dataset.main([*words, "-d", "Organs"]) == 2
    out, error = capsys.readouterr()
    assert out == "" and "'Organs' is no name of a dataset" in error


def test_links_to_folders_are_followed_once(source, tmp_path):
    files = lay(source, tmp_path / "files", "images/{case}", "labels/{case}")
    folder = tmp_path / "mine"
    folder.mkdir()
    for part in ("images", "labels"):
        (folder / part).symlink_to(files / part)
    (files / "images/again").symlink_to(folder)
    assert [case.identifier for case in look(folder).cases] == list(NAMES)


def test_the_number_is_the_folders_own_where_it_is_free_and_the_next_from_11_else(source, raw, tmp_path):
    folder = lay(source, tmp_path / "Dataset003_Liver", "images/{case}", "labels/{case}")
    assert look(folder, raw).name == "Dataset003_Liver"
    for name in ("Dataset003_X", "Dataset011_Y"):
        (raw / name).mkdir()
    assert look(folder, raw).name == "Dataset012_Liver"


def test_pictures_of_masks_have_one_foreground_and_colors_are_channels(tmp_path):
    draw = np.random.default_rng(0)
    for name in "ab":
        for part, values in (
            ("images", draw.integers(0, 256, (9, 8, 3), dtype=np.uint8)),
            ("masks", 255 * draw.integers(0, 2, (9, 8), dtype=np.uint8)),
        ):
            (tmp_path / "p" / part).mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(tmp_path / "p" / part / f"{name}.png")
    found = look(tmp_path / "p")
    assert (found.channels, found.labels, found.label_values) == (("R", "G", "B"), {"foreground": 1}, {255: 1})
    Image.fromarray(np.arange(72, dtype=np.uint8).reshape(9, 8) * 3 + 42).save(tmp_path / "p/masks/a.png")
    with pytest.raises(DatasetError, match="hold 72 values beside 0, up to 255.*Write pictures of masks"):
        look(tmp_path / "p")


def test_ct_is_recognized_by_a_name_or_by_hounsfield_units(source, tmp_path):
    assert look(lay(source, tmp_path / "liver_ct", "images/{case}", "labels/{case}")).channels == ("CT",)
    folder = lay(source, tmp_path / "liver", "images/{case}", "labels/{case}")
    for path in (folder / "images").iterdir():
        image = nibabel.load(path)
        nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj) - 1024, image.affine), path)
    found = look(folder)
    assert found.channels == ("CT",) and "as Hounsfield units have" in found.reasons["channels"]


def test_descriptions_name_channels_and_labels_and_gaps_in_values_close(source, tmp_path):
    folder = lay(source, tmp_path / "Task07_X", "imagesTr/{case}", "labelsTr/{case}")
    decathlon = {"modality": {"0": "T2"}, "labels": {"0": "background", "1": "large", "2": "small"}}
    nnunet = {"channel_names": {"0": "T2"}, "labels": {"background": 0, "large": 1, "small": 2}}
    for description in (decathlon, nnunet):
        (folder / "dataset.json").write_text(json.dumps(description))
        found = look(folder)
        assert (found.channels, found.labels) == (("T2",), {"large": 1, "small": 2}) and not found.label_values
    for path in (folder / "labelsTr").iterdir():
        label = nibabel.load(path)
        values = np.asarray(label.dataobj)
        nibabel.save(nibabel.Nifti1Image(np.where(values == 2, 4, values).astype(np.uint8), label.affine), path)
    found = look(folder)  # the description names other values
    assert found.labels == {"class_1": 1, "class_2": 2} and found.label_values == {4: 2}
    (folder / "dataset.json").write_text(json.dumps(nnunet | {"labels": {"background": 0, "all": [1, 2], "b": 2}}))
    with pytest.raises(DatasetError, match="names regions, as nnU-Net does; copy its folder"):
        look(folder)


def test_bids_lists_and_tables_are_read_as_such(source, tmp_path):
    bids = lay(
        source,
        tmp_path / "bids",
        "sub-{number}/anat/sub-{number}_{channel}",
        "derivatives/manual/sub-{number}/anat/sub-{number}_label-organ_dseg",
        channels=("FLAIR", "T2w"),
    )
    found = look(bids)
    assert [case.identifier for case in found.cases] == ["sub-0", "sub-1", "sub-2"]
    assert found.channels == ("FLAIR", "T2w") and all(case.training for case in found.cases)
    for name, text in (
        ("list.json", json.dumps({"training": [{"image": "x/tiny_000.nii.gz", "label": "y/tiny_001.nii.gz"}]})),
        ("table.csv", "case,image,label\ntiny_000,x/tiny_000.nii.gz,y/tiny_001.nii.gz\n"),
    ):
        folder = lay(source, tmp_path / name[:4], "x/{case}", "y/{case}")
        (folder / name).write_text(text)
        assert [case.label.name for case in look(folder).cases] == ["tiny_001.nii.gz"]


@pytest.mark.parametrize(
    ("images", "labels", "first"),
    [
        (["c1.nii.gz", "c2.nii.gz", "c4.nii.gz"], ["c3.nii.gz"], "c3"),
        ([f"case_0{number}.nii.gz" for number in range(1, 6)], ["case_1.nii.gz"], "case_1"),
        (["c2.nii.gz"], ["c3.nii.gz"], "c3"),
    ],
)
def test_an_image_does_not_get_the_label_of_another_number(source, tmp_path, images, labels, first):
    for folder, names in (("images", images), ("labels", labels)):
        (tmp_path / "mine" / folder).mkdir(parents=True)
        for name in names:
            shutil.copy(source / "labelsTr/tiny_000.nii.gz", tmp_path / "mine" / folder / name)
    with pytest.raises(
        DatasetError, match=f"No image in .* belongs to a label by its name, e.g. to labels.{first}.nii"
    ):
        look(tmp_path / "mine")


def test_labels_of_other_numbers_and_endings_are_left_out(source, tmp_path):
    (tmp_path / "mine/images").mkdir(parents=True)
    (tmp_path / "mine/labels").mkdir()
    for name in ("c1.nii.gz", "c2.nii", "c3.nii.gz"):
        nibabel.save(nibabel.load(source / "imagesTr/tiny_000_0000.nii.gz"), tmp_path / "mine/images" / name)
    for name in ("c1.nii.gz", "c2.nii.gz", "c3.nii"):
        nibabel.save(nibabel.load(source / "labelsTr/tiny_000.nii.gz"), tmp_path / "mine/labels" / name)
    found = look(tmp_path / "mine")
    pairs = {
        case.identifier: [path.name for path in (*case.images, *case.references)]
        for case in found.cases
        if case.training
    }
    assert pairs == {"c1": ["c1.nii.gz", "c1.nii.gz"]}
    other = found.left_out["of another ending than .nii.gz, which the labels have"]
    assert [path.name for path in other] == ["c2.nii", "c3.nii"]


def test_what_lies_in_the_folder_and_is_no_list_hides_no_reason(source, tmp_path):
    folder = lay(source, tmp_path / "mine", "x/{case}", "y/{case}")
    (folder / "broken.json").write_text("{")
    (folder / "empty.json").write_text('{"training": []}')
    (folder / "unlabeled.csv").write_text("case,image,label\ntiny_000,x/tiny_000.nii.gz,\n")
    with pytest.raises(DatasetError, match="holds 6 images and nothing that looks like a label"):
        look(folder)
    (folder / "zlist.json").write_text(
        json.dumps({"training": [{"image": "x/tiny_000.nii.gz", "label": "y/tiny_001.nii.gz"}]})
    )
    assert [case.label.name for case in look(folder).cases] == ["tiny_001.nii.gz"]


@pytest.mark.parametrize(
    ("image", "label"),
    [("images{part}/{{case}}", "labels{part}/{{case}}"), ("{part}/images/{{case}}", "{part}/masks/{{case}}")],
)
def test_labeled_cases_in_folders_of_tests_become_test_cases(source, tmp_path, image, label):
    parts = ("Tr", "Ts") if "images{" in image else ("train", "test")
    for part, cases in zip(parts, (NAMES[:2], NAMES[2:]), strict=True):
        lay(source, tmp_path / "mine", image.format(part=part), label.format(part=part), cases=cases)
    found = look(tmp_path / "mine")
    assert {case.identifier: case.training for case in found.cases} == dict(
        zip(NAMES, (True, True, False), strict=True)
    )
    left = f"{label.format(part=parts[1]).format(case='tiny_002')}.nii.gz"
    assert f"  left out  1 file with labels of test cases: {left}" in found.lines()
    shutil.rmtree(tmp_path / "mine")
    alone = look(lay(source, tmp_path / "mine", image.format(part=parts[1]), label.format(part=parts[1])))
    assert all(case.training for case in alone.cases) and alone.left_out == {}


def test_masks_of_test_cases_are_left_out_too(source, tmp_path):
    for part, cases in (("train", NAMES[:2]), ("test", NAMES[2:])):
        lay(source, tmp_path / "mine", part + "/{case}/ct", part + "/{case}/masks/liver", cases=cases)
        lay(source, tmp_path / "mine", part + "/{case}/ct", part + "/{case}/masks/spleen", cases=cases)
    for path in (tmp_path / "mine").glob("*/*/masks/*"):
        mask, value = nibabel.load(path), 1 if "liver" in path.name else 2
        nibabel.save(nibabel.Nifti1Image((np.asarray(mask.dataobj) == value).astype(np.uint8), mask.affine), path)
    found = look(tmp_path / "mine")
    assert [(case.identifier, sorted(case.masks)) for case in found.cases] == [
        ("test_tiny_002", []),
        ("train_tiny_000", ["liver", "spleen"]),
        ("train_tiny_001", ["liver", "spleen"]),
    ]


@pytest.mark.parametrize("name", ["predictions", "preds_nnunet", "outputs", "labels/results", "pred_masks"])
def test_a_folder_of_predictions_is_neither_a_channel_nor_labels(source, tmp_path, name):
    folder = lay(source, tmp_path / "mine", "images/{case}", "labels/{case}")
    shutil.copytree(folder / "labels", folder / name, dirs_exist_ok=True)
    found = look(folder)
    assert found.channels == ("image",) and len(found.cases) == 3
    assert all(case.label.parent == folder / "labels" and len(case.images) == 1 for case in found.cases)
    assert {path.parent for path in found.left_out["in folders of predictions"]} == {folder / name}
    assert any(line.startswith("  left out  3 files in folders of predictions: ") for line in found.lines())


def test_results_are_taken_where_there_are_no_other_labels(source, tmp_path):
    found = look(lay(source, tmp_path / "mine", "images/{case}", "results/masks/{case}"))
    assert [case.label.parent.name for case in found.cases] == ["masks"] * 3
    found = look(lay(source, tmp_path / "other", "output/{case}", "output/{case}_seg"))
    assert [case.label.parent.name for case in found.cases] == ["output"] * 3


def test_images_and_labels_of_other_endings_are_said_to_be_so(source, tmp_path):
    folder = lay(source, tmp_path / "mine", "images/{case}", "labels/{case}")
    for path in list((folder / "images").iterdir()):
        nibabel.save(nibabel.load(path), str(path).removesuffix(".gz"))
        path.unlink()
    with pytest.raises(DatasetError, match="images in .* end in .nii, their labels in .nii.gz; .* Convert them to one"):
        look(folder)


def test_three_pictures_a_case_are_no_colors(tmp_path):
    draw = np.random.default_rng(0)
    for name in "ab":
        for part in ("images", "masks"):
            (tmp_path / "p" / part).mkdir(parents=True, exist_ok=True)
        for channel in range(3):
            Image.fromarray(draw.integers(0, 256, (9, 8), dtype=np.uint8)).save(
                tmp_path / f"p/images/{name}_000{channel}.png"
            )
        Image.fromarray(draw.integers(0, 2, (9, 8), dtype=np.uint8)).save(tmp_path / f"p/masks/{name}.png")
    found = look(tmp_path / "p")
    assert found.channels == ("image_0", "image_1", "image_2") and len(found.cases) == 2


def test_what_cannot_be_told_is_said(source, tmp_path):
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    unlabeled = lay(source, tmp_path / "unlabeled", "x/{case}", "y/{case}")
    strange = lay(source, tmp_path / "strange", "images/{case}", "labels/other{number}")
    several = lay(source, tmp_path / "several", "{case}", "{case}_liver_mask")
    lay(source, several, "{case}", "{case}_spleen_mask")
    mixed = lay(source, tmp_path / "mixed", "T1/{case}", "seg/{case}", cases=NAMES[:1])
    lay(source, mixed, "T2/{case}", "seg/{case}", cases=NAMES[1:2])
    lay(source, mixed, "ADC/{case}", "seg/{case}", cases=NAMES[2:])
    lay(source, mixed, "ADC/{case}", "seg/{case}", cases=NAMES[:1])
    empty = lay(source, tmp_path / "empty", "images/{case}", "labels/{case}")
    for path in (empty / "labels").iterdir():
        label = nibabel.load(path)
        nibabel.save(nibabel.Nifti1Image(np.zeros(label.shape, np.uint8), label.affine), path)
    for folder, message in (
        (nothing, "holds no image that a reader knows"),
        (unlabeled, "holds 6 images and nothing that looks like a label"),
        (strange, r"No image in .* belongs to a label by its name, e.g. to labels.other0.nii.gz"),
        (several, "mask .*tiny_000_liver_mask.nii.gz holds 3 values, up to 2; the mask of one structure"),
        (empty, "hold nothing but 0"),
    ):
        with pytest.raises(DatasetError, match=message):
            look(folder)
    found = look(mixed)  # T1 of one case is no T2 of another
    assert found.channels == ("ADC",) and [case.identifier for case in found.cases] == ["tiny_000", "tiny_002"]
    assert {path.parent.name for paths in found.left_out.values() for path in paths} == {"T1", "T2", "seg"}
    with pytest.raises(ConfigError, match="is in nnUNet_raw already"):
        look(mixed, tmp_path)


def test_names_that_were_given_are_not_asked_for_again(source, raw, tmp_path, capsys):
    words = [
        str(lay(source, tmp_path / "mine", "scan_{number}_{channel}", "scan_{number}_seg", channels=("T2", "ADC")))
    ]
    assert import_dataset.main([*words, "--no_pbar"]) == 2
    assert "Other names: samunet_import" in capsys.readouterr().out
    words += ["-d", "Dataset012_P", "--channels", "CT", "MR", "--labels", "organ=1", "tumor=2", "--no_pbar", "--yes"]
    assert import_dataset.main(words) == 0
    said = capsys.readouterr().out
    assert "Other names" not in said and "nothing names them" not in said
    assert "channels  0000 CT, 0001 MR (as given)" in said and "2 tumor (as given; the files hold 0, 1, 2)" in said
    assert (raw / "Dataset012_P" / "imagesTr" / "scan_0_0001.nii.gz").is_file()
