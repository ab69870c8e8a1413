"""Datasets by id or name, and folders by environment variable."""

from __future__ import annotations

from pathlib import Path

import pytest

from samunet.core.workspace import Workspace, expand_path, workspace_from_environment
from samunet.errors import ConfigError, DatasetError


def workspace(root: Path, *, raw=(), preprocessed=(), results=()) -> Workspace:
    folders = {}
    for part, names in (("raw", raw), ("preprocessed", preprocessed), ("results", results)):
        folders[f"{part}_folder"] = root / part
        for name in names:
            (root / part / name).mkdir(parents=True)
    return Workspace(**folders)


@pytest.mark.parametrize("wanted", [4, "4", "004", "Dataset004_Hippocampus", "Hippocampus"])
def test_an_id_in_any_form_and_the_full_name_find_the_dataset(tmp_path, wanted):
    there = workspace(tmp_path, raw=["Dataset004_Hippocampus", "Dataset040_Other", "Dataset017_Abdomen"])
    assert there.dataset_name(wanted) == "Dataset004_Hippocampus"


def test_the_same_name_in_several_folders_is_one_dataset(tmp_path):
    name = "Dataset004_Hippocampus"
    assert workspace(tmp_path, raw=[name], preprocessed=[name], results=[name]).dataset_name(4) == name


def test_a_dataset_that_only_has_results_is_found(tmp_path):
    assert workspace(tmp_path, results=["Dataset004_Hippocampus"]).dataset_name(4) == "Dataset004_Hippocampus"


def test_an_ambiguous_id_lists_the_candidates(tmp_path):
    there = workspace(tmp_path, raw=["Dataset004_New"], results=["Dataset004_Old"])
    with pytest.raises(
        DatasetError, match=r"Dataset id 4 is ambiguous: Dataset004_New, Dataset004_Old\. Give the full name"
    ):
        there.dataset_name(4)
    assert there.dataset_name("Dataset004_Old") == "Dataset004_Old"


def test_a_name_without_its_number_that_two_datasets_have_lists_them(tmp_path):
    there = workspace(tmp_path, raw=["Dataset004_Liver", "Dataset005_Liver"])
    with pytest.raises(DatasetError, match="Dataset Liver is ambiguous: Dataset004_Liver, Dataset005_Liver. Give"):
        there.dataset_name("Liver")


def test_an_unknown_dataset_lists_the_known_ones_and_the_nearest(tmp_path):
    there = workspace(tmp_path, raw=["Dataset004_Hippocampus", "Dataset017_Abdomen"])
    with pytest.raises(
        DatasetError, match=r"Dataset '5' is not in .*raw.* Known: Dataset004_Hippocampus, Dataset017_Abdomen\."
    ):
        there.dataset_name(5)
    with pytest.raises(DatasetError, match=r"Did you mean 'Dataset004_Hippocampus'\?"):
        there.dataset_name("Dataset004_Hipocampus")


def test_an_unknown_id_gets_no_neighbor_and_folders_that_do_not_exist_are_marked(tmp_path):
    there = workspace(tmp_path, raw=["Dataset901_Tiny"])
    there = Workspace(raw_folder=there.raw_folder, preprocessed_folder=tmp_path / "gone")
    with pytest.raises(
        DatasetError, match=r"Dataset '99' is not in .*raw, .*gone \(which does not exist\)\. Known: Dataset901_Tiny\.$"
    ):
        there.dataset_name(99)


def test_what_can_be_no_dataset_is_told_what_one_is_called(tmp_path):
    there = workspace(tmp_path, raw=["Dataset004_Hippocampus"])
    with pytest.raises(
        DatasetError,
        match=r"'None' is not in .*, and this is no id or name of one, such as 4 or Dataset004_Hippocampus\. Known",
    ):
        there.dataset_name(None)


def test_four_digits_are_not_matched_by_their_first_three(tmp_path):
    # nnU-Net compares the prefix Dataset001, so there id 1 would find this one
    there = workspace(tmp_path, raw=["Dataset0010_x"])
    assert there.dataset_name(10) == "Dataset0010_x"
    with pytest.raises(DatasetError, match="Dataset '1' is not in"):
        there.dataset_name(1)


def test_what_is_no_dataset_folder_does_not_count(tmp_path):
    there = workspace(tmp_path, raw=["Dataset4_Short", "dataset004_lower", "Dataset004", "notes"])
    (tmp_path / "raw" / "Dataset004_File").touch()
    with pytest.raises(DatasetError, match="Known: none"):
        there.dataset_name(4)


def test_nothing_set_names_the_variable():
    with pytest.raises(DatasetError, match="Set the environment variable nnUNet_raw"):
        Workspace().dataset_name(4)


@pytest.mark.parametrize(
    "variable,part", [("nnUNet_raw", "raw"), ("nnUNet_preprocessed", "preprocessed"), ("nnUNet_results", "results")]
)
def test_an_unset_or_empty_variable_is_named_when_it_is_used(variable, part):
    for environment in ({}, {variable: ""}):
        there = workspace_from_environment(environment)
        with pytest.raises(ConfigError, match=rf"environment variable {variable} is not set; .* export {variable}="):
            getattr(there, part)


def test_folders_come_from_the_environment(monkeypatch, tmp_path):
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(name, str(tmp_path / name))
    there = workspace_from_environment()
    assert (there.raw, there.preprocessed, there.results) == (
        tmp_path / "nnUNet_raw",
        tmp_path / "nnUNet_preprocessed",
        tmp_path / "nnUNet_results",
    )


def test_paths_may_hold_variables_and_the_home_folder(monkeypatch):
    monkeypatch.setenv("SAMUNET_TEST_FOLDER", "/data")
    monkeypatch.delenv("SAMUNET_TEST_UNSET", raising=False)
    assert expand_path("$SAMUNET_TEST_FOLDER/a") == Path("/data/a") and expand_path("$SAMUNET_TEST_UNSET/a") == Path(
        "$SAMUNET_TEST_UNSET/a"
    )
    assert expand_path("~/a") == Path.home() / "a" and expand_path("plain/a") == Path("plain/a")


def test_a_tilde_is_the_home_folder_and_never_a_folder_of_that_name(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    made = workspace_from_environment({"nnUNet_raw": "~/raw", "nnUNet_results": "~", "SAMUNET_WEIGHTS": "~/w"})
    assert (made.raw, made.results, made.weights_folders[0]) == (tmp_path / "raw", tmp_path, tmp_path / "w")
    with pytest.raises(ConfigError, match=r"nnUNet_raw is '~nobody-here/raw', and there is no such home folder"):
        workspace_from_environment({"nnUNet_raw": "~nobody-here/raw"})
