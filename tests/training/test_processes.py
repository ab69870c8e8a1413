"""Two processes that share each batch take the steps of one."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import nullcontext

import pytest
import torch
from samples import START
from training.test_accumulate import gradients, setup

from samunet.checkpoints.file import load_checkpoint
from samunet.core.batch import Batch
from samunet.errors import ConfigError
from samunet.training.accumulate import backward, split
from samunet.training.processes import Processes, joined
from samunet.variants import ma_sam, sam_unet

FINAL = "checkpoint_final.safetensors"
CASES = {
    "dice over the batch": (ma_sam, {"adapter_width": 16, "rank": 4, "dropout": 0.0}),
    "2D": (sam_unet, {"slices": 1}),
    "3D with ignored voxels": (sam_unet, {"slices": 2}),
}


def test_items_are_shared_out_and_none_goes_without():
    shares = [list(Processes(rank=rank, count=3).items(7)) for rank in range(3)]
    assert sorted(sum(shares, [])) == list(range(7)) and max(map(len, shares)) - min(map(len, shares)) <= 1
    with pytest.raises(ConfigError, match="batch of 2 cannot be shared by 3 processes"):
        Processes(rank=0, count=3).items(2)


def share(rank: int, port: int, kind: str, folder: str) -> None:
    """Compute this process's share of a gradient, sum it with the other's, and save the sum."""
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    variant, options = CASES[kind]
    network, batch = setup(variant, slabs=5, **options)
    with joined(rank, 2, torch.device("cpu")) as processes:
        mine = list(processes.items(5))
        part = Batch(image=batch.image[mine], label=batch.label[mine])
        loss = backward(
            network, split(part, 2), autocast=nullcontext, scale=lambda value: value, reduce=processes.sum, samples=5
        )
        trained = [parameter for parameter in network.parameters() if parameter.grad is not None]
        (total,) = processes.sum_gradients(trained, [float(loss)])
        assert [
            len(state) for state in processes.gather(torch.tensor([rank], dtype=torch.uint8), torch.device("cpu"))
        ] == [1, 1]
        if processes.first:
            torch.save({"loss": total, "gradients": [parameter.grad for parameter in trained]}, f"{folder}/shared.pt")
        processes.wait()


@pytest.mark.parametrize("kind", CASES)
def test_gradients_of_two_processes_add_up_to_those_of_one(kind, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    both = [START.Process(target=share, args=(rank, port, kind, str(tmp_path))) for rank in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(120)
    assert [process.exitcode for process in both] == [0, 0]
    shared = torch.load(tmp_path / "shared.pt", weights_only=True)
    variant, options = CASES[kind]
    network, batch = setup(variant, slabs=5, **options)
    loss, whole = gradients(network, [batch])
    assert shared["loss"] == pytest.approx(loss.item(), rel=1e-6)
    largest = max(slope.abs().max().item() for slope in whole)
    for ours, theirs in zip(whole, shared["gradients"], strict=True):
        assert (ours - theirs).abs().max().item() <= 1e-6 * max(ours.abs().max().item(), 0.01 * largest)


def test_the_command_starts_processes_that_train_together(project, tmp_path):
    settings = [
        "--epochs",
        "1",
        "--iterations",
        "1",
        "--batch_size",
        "3",
        "--precision",
        "fp32",
        "--workers",
        "0",
        "--skip_validation",
    ]
    single = project.train(
        results=tmp_path / "one", config={"epochs": 1, "iterations": 1, "batch_size": 3}, validate=False
    )
    environment = os.environ | project.environment | {"nnUNet_results": str(tmp_path / "two")}
    command = [
        sys.executable,
        "-m",
        "samunet.cli.train",
        project.dataset,
        "3d_adapter",
        "0",
        "-num_gpus",
        "2",
        "-device",
        "cpu",
        *settings,
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Done:") == 1 and "in 2 processes" in done.stdout
    shared = next((tmp_path / "two").glob("*/*/fold_0"))
    first, second = (load_checkpoint(fold / FINAL) for fold in (single, shared))
    for name in ("train_loss", "val_loss"):
        assert second.state.history[name] == pytest.approx(first.state.history[name], rel=1e-5)
    moments = [name for name in first.optimizer if name.endswith(".exp_avg")]  # after one step a tenth of the gradient
    largest = max(first.optimizer[name].abs().max().item() for name in moments)
    for name in moments:
        scale = max(first.optimizer[name].abs().max().item(), 0.01 * largest)
        assert (second.optimizer[name] - first.optimizer[name]).abs().max().item() <= 1e-3 * scale, name  # in fp32
    assert set(second.random) == {"cpu.0", "cpu.1"}
