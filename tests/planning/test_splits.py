"""Folds by nnU-Net's file and rule."""

from __future__ import annotations

import json

import numpy as np
import pytest

from samunet.errors import ConfigError, DatasetError
from samunet.planning import splits
from samunet.planning.splits import (
    add_new_cases,
    groups_from,
    load_or_make_splits,
    make_splits,
    new_cases,
    read_splits,
    split_for_fold,
)

NAMES = tuple(f"case_{i:02d}" for i in range(12))


def test_five_folds_validate_every_case_once():
    splits = make_splits(NAMES)
    assert len(splits) == 5 and sorted(name for split in splits for name in split.val) == sorted(NAMES)
    for split in splits:
        assert set(split.train) | set(split.val) == set(NAMES) and not set(split.train) & set(split.val)


def test_the_order_in_which_cases_are_given_does_not_matter():
    assert make_splits(NAMES[::-1]) == make_splits(NAMES)


def test_a_wrong_file_of_the_raw_folder_is_named_and_not_kept(tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "splits_final.json").write_text('{"train": []}')
    with pytest.raises(ConfigError, match="raw/splits_final.json"):
        load_or_make_splits(tmp_path, NAMES, raw)
    (raw / "splits_final.json").write_text(json.dumps([{"train": NAMES[1:], "val": NAMES[:1]}]))
    assert load_or_make_splits(tmp_path, NAMES, raw)[0].val == NAMES[:1]


@pytest.mark.parametrize("count", [2, 3, 4])
def test_fewer_than_five_cases_give_one_fold_a_case(count):
    splits = make_splits(NAMES[:count])
    assert [len(split.val) for split in splits] == [1] * count and {split.val[0] for split in splits} == set(
        NAMES[:count]
    )


def test_one_case_cannot_be_split_and_the_way_out_is_fold_all(tmp_path):
    with pytest.raises(DatasetError, match="needs two cases or more; the dataset has 1. Train with fold 'all'"):
        make_splits(NAMES[:1])
    both = split_for_fold(tmp_path, NAMES[:1], "all")
    assert both.train == both.val == NAMES[:1] and not list(tmp_path.iterdir())


def test_the_file_is_made_once_and_then_followed(tmp_path):
    first = load_or_make_splits(tmp_path, NAMES)
    written = (tmp_path / "splits_final.json").read_bytes()
    assert json.loads(written) == [{"train": list(split.train), "val": list(split.val)} for split in first]
    assert (
        load_or_make_splits(tmp_path, NAMES[:7]) == first and (tmp_path / "splits_final.json").read_bytes() == written
    )


def test_nnunets_file_is_honoured_and_left_byte_for_byte(tmp_path):
    own = [
        {"train": ["case_00", "case_01"], "val": ["case_02"]},
        {"val": ["case_00"], "train": ["case_02"], "test": ["case_09"]},
    ]
    (tmp_path / "splits_final.json").write_text(json.dumps(own, sort_keys=True, indent=4))
    before = (tmp_path / "splits_final.json").read_bytes()
    split = split_for_fold(tmp_path, NAMES, "1")
    assert split.train == ("case_02",) and split.val == ("case_00",)
    assert split_for_fold(tmp_path, NAMES, "0").train == ("case_00", "case_01")
    assert (tmp_path / "splits_final.json").read_bytes() == before


def test_a_fold_beyond_the_file_is_a_random_80_20_split_seeded_by_its_number_and_said(tmp_path, caplog):
    caplog.set_level("INFO", "samunet")
    splits = {fold: split_for_fold(tmp_path, NAMES, str(fold)) for fold in (5, 6)}
    for fold, split in splits.items():
        expected = np.random.RandomState(12345 + fold).choice(12, 9, replace=False)  # int(12 * 0.8)
        assert set(split.train) == {NAMES[i] for i in expected} and set(split.val) == set(NAMES) - set(split.train)
    assert splits[5] != splits[6] and splits[5] == split_for_fold(tmp_path, NAMES[::-1], "5")
    assert "splits_final.json has folds 0 to 4, so that for fold 5 a random 80 % of the cases train" in caplog.text


def test_fold_all_trains_and_validates_on_everything(tmp_path):
    split = split_for_fold(tmp_path, NAMES[::-1], "all")
    assert split.train == split.val == NAMES


@pytest.mark.parametrize("fold", ["-1", "one", "0.5", ""])
def test_other_folds_are_refused(tmp_path, fold):
    with pytest.raises(ConfigError, match=f"must be a number from 0 up, or 'all'; got '{fold}'"):
        split_for_fold(tmp_path, NAMES, fold)


def test_cases_that_are_not_preprocessed_are_named(tmp_path):
    (tmp_path / "splits_final.json").write_text(json.dumps([{"train": ["case_00", "stranger"], "val": ["case_01"]}]))
    with pytest.raises(
        DatasetError, match=r"splits_final\.json: fold 0 names 1 case without preprocessed data, first 'stranger'"
    ):
        split_for_fold(tmp_path, NAMES, "0")


@pytest.mark.parametrize("train,val", [([], ["case_00"]), (["case_00"], [])])
def test_an_empty_side_is_refused(tmp_path, train, val):
    (tmp_path / "splits_final.json").write_text(json.dumps([{"train": train, "val": val}]))
    with pytest.raises(
        DatasetError, match=rf"fold 0 has {len(train)} training and {len(val)} validation cases; it needs both"
    ):
        split_for_fold(tmp_path, NAMES, "0")


@pytest.mark.parametrize(
    "raw", ['{"train": []}', '[{"train": ["a"]}]', '[["a"]]', '[{"train": "a", "val": ["b"]}]', "["]
)
def test_a_file_of_another_form_is_refused_by_name(tmp_path, raw):
    (tmp_path / "splits_final.json").write_text(raw)
    with pytest.raises(ConfigError, match=r"splits_final\.json"):
        split_for_fold(tmp_path, NAMES, "0")


@pytest.mark.parametrize(
    ("train", "val", "words"),
    [
        (["case_00", "case_00"], ["case_01"], "2 times"),
        (["case_00"], ["case_01", "case_01"], "2 times"),
        (["case_00", "case_01"], ["case_01"], "in training and in validation"),
    ],
)
def test_a_case_stands_once_in_a_fold(tmp_path, train, val, words):
    (tmp_path / "splits_final.json").write_text(
        json.dumps([{"train": ["case_02"], "val": ["case_03"]}, {"train": train, "val": val}])
    )
    with pytest.raises(
        ConfigError, match=rf"splits_final\.json: fold 1 has the case 'case_0[01]' {words}; leave it once"
    ):
        split_for_fold(tmp_path, NAMES, "0")


VISITS = tuple(f"p{patient}_visit{visit}" for patient in range(7) for visit in range(1 + patient % 3))


@pytest.mark.parametrize("given", [r"^(p\d)_", {name: name[:2] for name in VISITS}])
def test_a_patient_is_never_in_both_halves(tmp_path, given):
    groups = groups_from(given, VISITS)
    assert groups == {name: name[:2] for name in VISITS}
    for fold in range(8):  # the last three are beyond the file
        split = split_for_fold(tmp_path, VISITS, str(fold), groups=groups)
        assert set(split.train) | set(split.val) == set(VISITS) and split.train and split.val
        assert not {name[:2] for name in split.train} & {name[:2] for name in split.val}
    assert sorted(name for split in make_splits(VISITS, groups) for name in split.val) == sorted(VISITS)


def test_a_file_that_parts_a_patient_is_refused(tmp_path):
    (tmp_path / "splits_final.json").write_text(
        json.dumps([{"train": ["p1_visit0", "p3_visit0"], "val": ["p1_visit1"]}])
    )
    assert split_for_fold(tmp_path, VISITS, "0").val == ("p1_visit1",)
    with pytest.raises(DatasetError, match="fold 0 has 1 group in training and in validation, first 'p1'"):
        split_for_fold(tmp_path, VISITS, "0", groups=groups_from(r"(p\d)", VISITS))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("(p", "is no regular expression"),
        ("(" * 5000 + ")" * 5000, "is no regular expression"),
        ("(p{99999999999})", "is no regular expression"),
        ("p.", "must be an expression with a group"),
        (3, "must be an expression with a group"),
        ("(x)", "does not match 13 cases, first 'p0_visit0'"),
        (r"^(p[0-5])_|^(q)", "does not match 1 case,"),
        (dict.fromkeys(VISITS), "the group None; expected a name"),
        ({"p0_visit0": "a"}, "groups lacks 12 cases, first 'p1_visit0'"),
    ],
)
def test_wrong_groups_are_named(given, message):
    with pytest.raises(DatasetError, match=message):
        groups_from(given, VISITS)


@pytest.mark.parametrize("expression", ["^(a+)+$", "^(a*)*a*a*a*a*a*a*b"])
def test_an_expression_that_takes_too_long_is_refused_in_time(monkeypatch, expression):
    monkeypatch.setattr(splits, "MATCHING_SECONDS", 0.5)
    with pytest.raises(DatasetError, match="takes more than 0.5 s for 2 names; write it without repetitions within"):
        groups_from(expression, ("short", "a" * 199 + "c"))


def test_one_patient_cannot_be_split():
    with pytest.raises(DatasetError, match="needs two groups of cases or more; the dataset has 1"):
        make_splits(("a", "b"), {"a": "p", "b": "p"})


def test_an_expression_may_have_alternatives():
    assert groups_from(r"^(a\d)_|^(b\d)_", ("a1_x", "b2_y")) == {"a1_x": "a1", "b2_y": "b2"}


def test_new_cases_validate_once_and_train_in_the_other_folds(tmp_path):
    load_or_make_splits(tmp_path, NAMES)
    before = read_splits(tmp_path / "splits_final.json")
    fresh = ("fresh_1", "fresh_2")
    assert new_cases(tmp_path, (*NAMES, *fresh)) == add_new_cases(tmp_path, (*NAMES, *fresh)) == fresh
    after = read_splits(tmp_path / "splits_final.json")
    for name in fresh:
        assert sorted((name in split.val, name in split.train) for split in after) == [(False, True)] * 4 + [
            (True, False)
        ]
    for old, new in zip(before, after, strict=True):
        assert set(new.val) - set(fresh) == set(old.val) and set(new.train) - set(fresh) == set(old.train)
    assert (
        max(len(split.val) for split in after) - min(len(split.val) for split in after) <= 1
    )  # 12 + 2 cases in five folds
    assert new_cases(tmp_path, (*NAMES, *fresh)) == add_new_cases(tmp_path, (*NAMES, *fresh)) == ()


def test_a_new_case_goes_where_its_group_is(tmp_path):
    groups = {name: name[-1] for name in NAMES} | {"fresh_a3": "3", "fresh_b3": "3", "fresh_z": "z", "more_z": "z"}
    load_or_make_splits(tmp_path, NAMES, groups={name: groups[name] for name in NAMES})
    add_new_cases(tmp_path, tuple(groups), groups)
    for split in read_splits(tmp_path / "splits_final.json"):
        assert not {groups[name] for name in split.train} & {groups[name] for name in split.val}
        assert len({*split.train, *split.val}) == len(groups)


def test_new_cases_train_where_a_file_has_one_fold_and_further_keys_stay(tmp_path):
    (tmp_path / "splits_final.json").write_text(json.dumps([{"train": NAMES[1:], "val": NAMES[:1], "note": "by hand"}]))
    add_new_cases(tmp_path, (*NAMES, "fresh"))
    (fold,) = json.loads((tmp_path / "splits_final.json").read_text())
    assert fold == {"train": [*NAMES[1:], "fresh"], "val": [NAMES[0]], "note": "by hand"}


def test_without_a_splits_file_no_case_is_new(tmp_path):
    assert new_cases(tmp_path, NAMES) == add_new_cases(tmp_path, NAMES) == () and not list(tmp_path.iterdir())


def test_folds_of_seven_cases_are_those_that_nnunet_makes():
    splits = make_splits([f"case_{index}" for index in range(7)])  # nnunetv2.utilities.crossval_split, its seed 12345
    assert [" ".join(name[-1] for name in split.val) for split in splits] == ["3 6", "0 4", "1", "5", "2"]
