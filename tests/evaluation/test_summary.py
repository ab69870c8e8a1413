"""The means, keys and file layout of summary.json."""

from __future__ import annotations

import json
import math

import pytest

from samunet.errors import ConfigError, DatasetError
from samunet.evaluation.summary import (
    CaseScore,
    Metrics,
    parse_target_key,
    read_summary,
    summarize,
    target_key,
    write_summary,
)

NAN = math.nan


def metrics(tp: int, fp: int, fn: int, tn: int = 10) -> Metrics:
    wrong = tp + fp + fn
    return Metrics(
        dice=2 * tp / (wrong + tp) if wrong else NAN,
        iou=tp / wrong if wrong else NAN,
        tp=tp,
        fp=fp,
        fn=fn,
        tn=tn,
        n_pred=tp + fp,
        n_ref=tp + fn,
    )


def case(name: str, **scores: Metrics) -> CaseScore:
    targets = {parse_target_key(key.strip("t").replace("_", ",")): value for key, value in scores.items()}
    return CaseScore(reference_file=f"gt/{name}.nii.gz", prediction_file=f"out/{name}.nii.gz", metrics=targets)


def test_means_skip_cases_without_a_number():
    summary = summarize(
        [case("a", t1=metrics(3, 1, 1)), case("b", t1=metrics(0, 0, 0)), case("c", t1=metrics(0, 2, 0))]
    )
    assert summary.mean[(1,)].dice == pytest.approx((0.75 + 0.0) / 2)  # 2*3/(2*3+1+1) and 0/(0+2), by hand
    assert summary.mean[(1,)].iou == pytest.approx((0.6 + 0.0) / 2)
    assert summary.mean[(1,)].tp == pytest.approx(1.0)  # counts have a number in all three cases
    assert summary.dice((1,)) == (0.75, 0.0)


def test_foreground_mean_leaves_out_background_and_classes_without_a_number():
    summary = summarize([case("a", t0=metrics(9, 0, 1), t1=metrics(1, 1, 1), t2=metrics(0, 0, 0), t3=metrics(2, 0, 0))])
    assert math.isnan(summary.mean[(2,)].dice)
    assert summary.foreground_mean.dice == pytest.approx((0.5 + 1.0) / 2)
    assert summary.foreground_mean.tp == pytest.approx((1 + 0 + 2) / 3)


def test_foreground_mean_is_nan_when_no_class_has_a_number():
    assert math.isnan(summarize([case("a", t1=metrics(0, 0, 0))]).foreground_mean.dice)


def test_an_empty_summary_and_cases_with_different_targets_are_refused():
    with pytest.raises(DatasetError, match="no cases"):
        summarize([])
    with pytest.raises(DatasetError, match="'b.nii.gz'"):
        summarize([case("a", t1=metrics(1, 0, 0)), case("b", t2=metrics(1, 0, 0))])


@pytest.mark.parametrize(("target", "key"), [((1,), "1"), ((1, 2, 3), "(1, 2, 3)"), ((0,), "0")])
def test_keys_are_those_of_nnunet(target, key):
    assert target_key(target) == key
    assert parse_target_key(key) == target


def test_a_region_of_one_value_in_brackets_is_read():
    assert parse_target_key("(2,)") == (2,)


def test_the_file_has_sorted_keys_and_nan_tokens(tmp_path):
    path = tmp_path / "new" / "summary.json"
    write_summary(path, summarize([case("a", t1_2=metrics(0, 0, 0), t2=metrics(1, 0, 0))]))
    raw = json.loads(path.read_text())
    assert list(raw) == ["foreground_mean", "mean", "metric_per_case"]
    assert list(raw["mean"]) == ["(1, 2)", "2"]
    assert list(raw["mean"]["2"]) == ["Dice", "FN", "FP", "IoU", "TN", "TP", "n_pred", "n_ref"]
    assert list(raw["metric_per_case"][0]) == ["metrics", "prediction_file", "reference_file"]
    assert raw["metric_per_case"][0]["metrics"]["2"]["TP"] == 1
    assert '"Dice": NaN' in path.read_text()


def test_a_summary_survives_the_disk(tmp_path):
    summary = summarize(
        [case("a", t1_2=metrics(1, 2, 3), t2=metrics(1, 0, 0)), case("b", t1_2=metrics(4, 0, 1), t2=metrics(1, 1, 0))]
    )
    write_summary(tmp_path / "summary.json", summary)
    assert read_summary(tmp_path / "summary.json") == summary


@pytest.mark.parametrize(
    "text", ["[]", '{"mean": {}}', '{"metric_per_case": [], "mean": {"1": {"Dice": "x"}}, "foreground_mean": {}}']
)
def test_a_file_that_is_no_summary_is_named(tmp_path, text):
    (tmp_path / "other.json").write_text(text)
    with pytest.raises(ConfigError, match="other.json is not a summary"):
        read_summary(tmp_path / "other.json")


def hurt(raw, value, *place):
    *parents, last = place
    for key in parents:
        raw = raw[key]
    raw[last] = value


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (("foreground_mean", "Dice"), 1.1, "Dice is 1.1, expected 0 to 1"),
        (("mean", "1", "Dice"), -0.1, "Dice is -0.1, expected 0 to 1"),
        (("mean", "1", "TP"), True, "TP is True, not a number"),
        (("mean", "1", "FN"), -1, "FN is -1, expected 0 or more"),
        (("mean", "1", "HD95"), "3", "HD95 is '3', not a number"),
        (("metric_per_case", 0, "metrics", "1", "IoU"), None, "IoU is None, not a number"),
        (("metric_per_case", 0, "metrics"), {}, "case 'a.nii.gz' has other classes than the mean"),
        (("metric_per_case", 0, "reference_file"), 7, "the files of case 'a.nii.gz' are no text"),
        (("metric_per_case", 0, "prediction_file"), None, "is not a summary"),
        (("prompts",), 7, "prompts is 7, not text"),
    ],
)
def test_scores_that_cannot_be_are_named(tmp_path, place, value, words):
    write_summary(tmp_path / "summary.json", summarize([case("a", t1=metrics(1, 2, 3))]))
    raw = json.loads((tmp_path / "summary.json").read_text())
    hurt(raw, value, *place)
    (tmp_path / "summary.json").write_text(json.dumps(raw))
    with pytest.raises(ConfigError, match=rf"summary\.json is not a summary.*{words}|{words}"):
        read_summary(tmp_path / "summary.json")
