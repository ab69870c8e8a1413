"""Names of cases: one rule, whichever file or folder they come from."""

from __future__ import annotations

import csv
import json
import unicodedata

import pytest
from tiny import write_tiny_dataset

from samunet.checking.run import check_dataset
from samunet.core.dataset import files_with_ending, group_channels, read_dataset_json, training_cases
from samunet.core.names import check_case_name, fault_of_name, in_utf8
from samunet.core.prompts import read_prompts
from samunet.errors import ConfigError, DatasetError
from samunet.evaluation.summary import read_summary
from samunet.importing import layouts
from samunet.importing.dataset import FoundCase
from samunet.inference.ensemble import ensemble
from samunet.inference.extras import Extras
from samunet.pipeline.inputs import cases_to_predict
from samunet.planning.splits import read_splits
from samunet.preprocessing.storage import CASES, stored_cases

HOSTILE = {
    "../../x": r"begins with a dot",
    "a/../../x": "holds the character '/'",
    "/etc/x": "holds the character '/'",
    "..": "begins with a dot",
    "C:\\x": "holds the character",
    "a\0b": r"holds the character '\\x00'",
    "a\nb": r"holds the character '\\n'",
    "a\x1b[2Jb": r"holds the character '\\x1b'",
    "a\u202eb": r"holds the character '\\u202e'",
    "a\u2028b": r"holds the character '\\u2028'",
    "a\udcffb": r"holds the byte \\xff, which is no UTF-8",
    ".hidden": "begins with a dot",
    " a": "begins or ends with a space",
    "": "is empty",
    "x" * 300: "has 300 bytes, more than 200",
    "患" * 80: "has 240 bytes, more than 200",
}
FINE = (
    "患者_01",
    "Müller 3",
    unicodedata.normalize("NFD", "Müller 3"),
    "a.b-c+d (2)",
    "रोगी १",
    "می\u200cروم",
    "пациент№7",
    "x" * 200,
)
ON_DISK = [
    name
    for name in HOSTILE
    if name and "/" not in name and "\0" not in name and len(name.encode(errors="replace")) < 240
]


@pytest.mark.parametrize("name", FINE)
def test_letters_of_any_script_digits_and_usual_marks_are_fine(name):
    assert fault_of_name(name) is None


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_what_would_lead_elsewhere_is_refused_in_one_line(name):
    with pytest.raises(DatasetError, match=HOSTILE[name]) as raised:
        check_case_name(name, "list.json")
    message = str(raised.value)
    assert (
        message.startswith("list.json: the case name ")
        and message.isprintable()
        and len(message) < 250
        and raised.value.code == "case-name"
    )


def test_what_is_no_text_is_no_name():
    assert fault_of_name(3) == "is no text"


@pytest.mark.parametrize("name", [name for name in HOSTILE if "\udcff" not in name], ids=ascii)
def test_every_file_that_names_cases_is_held_to_it(tmp_path, name):
    path = tmp_path / "file.json"

    def holds(content):
        path.write_text(json.dumps(content))
        return path

    refused = pytest.raises(DatasetError, match=HOSTILE[name])
    with refused:
        read_splits(holds([{"train": ["a", name], "val": ["b"]}]))
    with refused:
        read_prompts(holds({"cases": {name: {"structures": {}}}}))
    with refused:
        FoundCase(identifier=name, images=(tmp_path / "a.nii.gz",), label=None)
    (tmp_path / CASES).write_text(json.dumps([name]))
    with refused:
        stored_cases(tmp_path)
    if name and "\0" not in name:
        with (tmp_path / "t.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([["case", "image", "label"], [name, "a.nii.gz", "b.nii.gz"]])
        with refused:
            layouts.from_table(tmp_path / "t.csv")


@pytest.mark.parametrize("name", [name for name in HOSTILE if "\udcff" not in name], ids=ascii)
def test_a_dataset_json_that_lists_cases_is_held_to_it(tmp_path, name):
    folder = write_tiny_dataset(tmp_path, cases=2)
    raw = json.loads((folder / "dataset.json").read_text())
    files = {"images": ["imagesTr/tiny_000_0000.nii.gz"], "label": "labelsTr/tiny_000.nii.gz"}
    (folder / "dataset.json").write_text(json.dumps({**raw, "dataset": {name: files, "b": files}}))
    with pytest.raises(DatasetError, match=HOSTILE[name]):
        training_cases(folder, read_dataset_json(folder / "dataset.json"))
    report = check_dataset(folder, threads=1, quiet=True)
    assert [case.identifier for case in report.cases] == ["b"] and "case-name" in {
        finding.code for finding in report.errors
    }
    assert all(line.isprintable() for line in report.lines())


@pytest.mark.parametrize("name", ON_DISK, ids=ascii)
def test_folders_are_held_to_it(tmp_path, name):
    folder = write_tiny_dataset(tmp_path, cases=2)
    for part, ending in (("imagesTr", "_0000.nii.gz"), ("labelsTr", ".nii.gz")):
        (folder / part / f"tiny_000{ending}").rename(folder / part / f"{name}{ending}")
    images, spec = folder / "imagesTr", read_dataset_json(folder / "dataset.json")
    report = check_dataset(folder, threads=1, quiet=True)
    if name.startswith("."):  # files that nobody looks at
        assert list(group_channels(images, ".nii.gz")) == ["tiny_001"] and list(
            files_with_ending(folder / "labelsTr", ".nii.gz")
        ) == ["tiny_001.nii.gz"]
        return
    assert [finding.file for finding in report.errors if finding.code == "case-name"] == ["imagesTr", "labelsTr"]
    assert [case.identifier for case in report.cases] == ["tiny_001"]
    predicting = (
        lambda: cases_to_predict(images, spec, tmp_path / "out"),
        lambda: cases_to_predict(folder / "labelsTr" / f"{name}.nii.gz", spec, tmp_path / "out"),
    )
    for read in (
        lambda: group_channels(images, ".nii.gz"),
        lambda: training_cases(folder, spec),
        lambda: files_with_ending(folder / "labelsTr", ".nii.gz"),
        *(predicting if in_utf8(name) == name else ()),  # what is no UTF-8 fails alone, when it is its turn
    ):
        with pytest.raises(DatasetError, match=HOSTILE[name]):
            read()


def test_names_of_folders_of_dicom_files_and_of_probabilities_are_held_to_it(tmp_path):
    spec = read_dataset_json(write_tiny_dataset(tmp_path, cases=2) / "dataset.json")
    (tmp_path / "series/a\nb").mkdir(parents=True)
    (tmp_path / "series/a\nb/1.dcm").write_bytes(bytes(128) + b"DICM")
    with pytest.raises(DatasetError, match=HOSTILE["a\nb"]):
        cases_to_predict(tmp_path / "series", spec, tmp_path / "out")
    for model in ("1", "2"):
        (tmp_path / model).mkdir()
        (tmp_path / model / "a\nb.npz").touch()
        (tmp_path / model / "dataset.json").write_text(json.dumps(spec.raw))
    with pytest.raises(DatasetError, match=HOSTILE["a\nb"]):
        ensemble([tmp_path / "1", tmp_path / "2"], tmp_path / "out", threads=1, quiet=True)


def test_scores_name_files_without_folders(tmp_path):
    metrics = dict.fromkeys(("Dice", "IoU", "TP", "FP", "FN", "TN", "n_pred", "n_ref"), 0.0)
    for name, fault in (("/x/..", "begins with a dot"), ("a\nb", "holds the character"), ("x" * 300, "has 300 bytes")):
        case = {"reference_file": "r", "prediction_file": name, "metrics": {"1": metrics}}
        (tmp_path / "s.json").write_text(
            json.dumps({"metric_per_case": [case], "mean": {"1": metrics}, "foreground_mean": metrics})
        )
        with pytest.raises(ConfigError, match=fault):
            read_summary(tmp_path / "s.json")


def test_a_table_of_earlier_cases_looks_at_no_other_folder(tmp_path):
    (tmp_path / "secret.txt").touch()
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "a.nii.gz").touch()
    (folder / "uncertainty.json").write_text(json.dumps({"../secret": 1.0, str(tmp_path / "secret"): 1.0, "a": 0.5}))
    spec = read_dataset_json(write_tiny_dataset(tmp_path, cases=1) / "dataset.json")
    assert Extras(folder=folder, labels=spec.labels)._with_earlier("uncertainty", {"b": 0.25}) == {"a": 0.5, "b": 0.25}


@pytest.mark.parametrize(
    "ending", ["/../../x.nii.gz", ".nii.gz/", "nii.gz", ".", 3, [".nii.gz"], ".nii\0.gz", "." + "x" * 300]
)
def test_a_file_ending_is_an_ending(tmp_path, ending):
    path = write_tiny_dataset(tmp_path, cases=1) / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "file_ending": ending}))
    with pytest.raises(DatasetError, match="file_ending must be an ending with its dot"):
        read_dataset_json(path)


def test_a_home_that_nobody_has_is_a_file_that_does_not_exist(tmp_path):
    folder = write_tiny_dataset(tmp_path, cases=1)
    raw = json.loads((folder / "dataset.json").read_text())
    listed = {"a": {"images": ["~nobody-of-this-name/x.nii.gz"], "label": "labelsTr/tiny_000.nii.gz"}}
    (folder / "dataset.json").write_text(json.dumps({**raw, "dataset": listed}))
    with pytest.raises(
        DatasetError, match=r"Case 'a': file .*~nobody-of-this-name/x\.nii\.gz named in dataset\.json does not exist"
    ):
        training_cases(folder, read_dataset_json(folder / "dataset.json"))


def test_a_name_that_is_no_utf_8_is_shown_with_its_bytes():
    with pytest.raises(
        DatasetError, match=r"the case name 'M\\xfcller' holds the byte \\xfc, which is no UTF-8; rename the case"
    ):
        check_case_name(b"M\xfcller".decode("utf-8", "surrogateescape"), "in")
