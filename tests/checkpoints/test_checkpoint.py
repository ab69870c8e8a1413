"""A checkpoint comes back as it was written, or is refused by name."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from samunet.checkpoints.file import CHECKPOINT_FORMAT, Checkpoint, CheckpointState, load_checkpoint, save_checkpoint
from samunet.errors import CheckpointError, ConfigError

STATE = CheckpointState(
    format=CHECKPOINT_FORMAT,
    configuration="3d_adapter",
    trainer="SAMTrainer",
    step=3,
    epoch=1,
    epoch_loss=0.5,
    best_dice=-1.0,
    weights_sha256=None,
    scaler={},
    training={"epochs": 2},
    precision="fp32",
    history={"train_loss": (0.25,), "mean_fg_dice": (None,)},
)
KINDS = {"half": torch.bfloat16, "whole": torch.int64, "truth": torch.bool, "plain": torch.float32}


@pytest.fixture
def saved(tmp_path):
    model = {name: torch.arange(6).view(2, 3).to(kind) for name, kind in KINDS.items()} | {
        "none": torch.zeros(0, 2),
        "one": torch.tensor(2.0),
    }
    checkpoint = Checkpoint(
        state=STATE,
        model=model,
        optimizer={"plain.exp_avg": torch.ones(2, 3).T},
        random={"cpu.0": torch.get_rng_state()[:64]},
        average={"plain": torch.zeros(2, 3)},
    )
    save_checkpoint(tmp_path / "checkpoint.safetensors", checkpoint)
    return tmp_path / "checkpoint.safetensors", checkpoint


def alike(one: Checkpoint, two: Checkpoint) -> bool:
    parts = ("model", "optimizer", "random", "average")
    return one.state == two.state and all(
        getattr(one, part).keys() == getattr(two, part).keys()
        and all(
            torch.equal(tensor, getattr(two, part)[name]) and tensor.dtype == getattr(two, part)[name].dtype
            for name, tensor in getattr(one, part).items()
        )
        for part in parts
    )


def test_a_checkpoint_comes_back_and_equal_ones_are_equal_files(saved, tmp_path):
    path, checkpoint = saved
    assert alike(load_checkpoint(path), checkpoint)
    part = load_checkpoint(path, with_optimizer=False)
    assert (
        part.optimizer == part.random == {}
        and part.state == STATE
        and torch.equal(part.weights["plain"], torch.zeros(2, 3))
    )
    save_checkpoint(tmp_path / "again.safetensors", load_checkpoint(path))
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


def test_a_checkpoint_that_is_replaced_while_it_is_read_is_read_again(saved, tmp_path, monkeypatch):
    path, checkpoint = saved
    following = replace(checkpoint, state=replace(STATE, step=4), model={"plain": torch.ones(1)})
    save_checkpoint(tmp_path / "next", following)
    opened = []

    def and_replaced(*arguments, **options):
        opened.append(safe_open(*arguments, **options))
        if len(opened) == 1:
            os.replace(tmp_path / "next", path)
        return opened[-1]

    monkeypatch.setattr("samunet.checkpoints.file.safe_open", and_replaced)
    assert alike(load_checkpoint(path), following) and len(opened) == 2


@pytest.mark.parametrize("with_optimizer", [True, False])
def test_a_flipped_bit_in_a_checkpoint_is_refused_by_name(saved, with_optimizer):
    path, _ = saved
    whole, expected = path.read_bytes(), load_checkpoint(path, with_optimizer=with_optimizer)
    refused = 0
    for bit in np.random.default_rng(1).choice(8 * len(whole), 150, replace=False):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            found = load_checkpoint(path, with_optimizer=with_optimizer)
        except (CheckpointError, ConfigError) as error:
            assert path.name in str(error)
            refused += 1
        else:  # in padding, or in what only resuming needs
            assert alike(found, expected)
    assert refused > (140 if with_optimizer else 110)


def rewritten(path, change):
    """Write a checkpoint again with another header, as an earlier version or an editor would have."""
    with safe_open(path, framework="pt") as file:
        header, tensors = file.metadata()["samunet"], {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    save_file(tensors, path, metadata={"samunet": change(header)})


def test_a_checkpoint_of_before_there_were_checksums_is_read(saved):
    path, checkpoint = saved
    rewritten(
        path, lambda header: json.dumps({key: value for key, value in json.loads(header).items() if key != "sha256"})
    )
    assert alike(load_checkpoint(path), checkpoint)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "no json",
        "[" * 100_000,
        "1" * 5000,
        "[]",
        "{}",
        '{"format": "2"}',
        '{"format": 2}',
        '{"format": 2, "sha256": 5}',
        '{"format": 2, "sha256": []}',
    ],
)
def test_a_header_that_is_no_state_is_refused_by_name(saved, header):
    path, _ = saved
    rewritten(path, lambda _: header)
    with pytest.raises((CheckpointError, ConfigError), match=re.escape(path.name)):
        load_checkpoint(path)
