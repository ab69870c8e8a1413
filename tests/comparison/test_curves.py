"""What trainings cost and how they went, read from folders of both tools."""

from __future__ import annotations

import math

import pytest
import torch

from samunet.comparison.curves import curve_of
from samunet.core.cost import read_cost
from samunet.machine.hardware import device_name

LOG = """
2026-11-22 10:00:00.0: Epoch 0
2026-11-22 10:00:01.0: Pseudo dice [np.float32(0.25), np.float32(0.75)]
2026-11-22 10:00:02.0: Epoch time: 7.64 s
2026-11-22 10:00:02.0: Epoch 1
2026-11-22 10:00:03.0: Pseudo dice [nan, np.float64(1.5e-05)]
2026-11-22 10:00:03.5: Epoch 2
2026-11-22 10:00:04.0: Pseudo dice [0.1, 0.1]
2026-11-22 10:00:04.5: Epoch 2
2026-11-22 10:00:05.0: Pseudo dice [0.5, 0.9]
2026-11-22 10:00:05.5: Epoch 3
2026-11-22 10:00:06.0: Pseudo dice [nan]
"""


def test_the_curve_of_nnunet_is_read_from_its_log_whatever_numpy_prints(tmp_path):
    (tmp_path / "training_log_2026_11_22.txt").write_text(LOG)
    curve = curve_of(tmp_path)
    assert curve[:3] == pytest.approx([0.5, 1.5e-5, 0.7]) and math.isnan(curve[3])


def test_our_own_curve_and_cost_are_read(trained):
    assert len(curve_of(trained)) == 2 and all(0 <= value <= 1 for value in curve_of(trained))
    cost = read_cost(trained)
    assert (cost.epochs, cost.steps, cost.minutes) == (2, 6, None) and cost.wall_minutes > 0
    assert cost.device == device_name(torch.device("cpu")) and cost.threads == 1


def test_a_folder_without_either_tells_nothing(tmp_path):
    assert read_cost(tmp_path) is None and curve_of(tmp_path) == ()


def test_lines_of_our_log_that_are_no_epochs_are_left_out(tmp_path):
    lines = [
        '{"epoch": 1, "mean_fg_dice": 0.5}',
        "[" * 100_000,
        '{"epoch": ' + "1" * 5000 + "}",
        "3",
        '{"epoch": 2, "mean_fg_dice": "x"}',
        '{"epoch": 3, "me',
    ]
    (tmp_path / "log.jsonl").write_text("\n".join(lines))
    found = curve_of(tmp_path)
    assert found[0] == 0.5 and math.isnan(found[1]) and len(found) == 2
