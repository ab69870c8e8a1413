"""What a GPU does otherwise than a CPU: half precision, and tensors that lie elsewhere.

python -m pytest -m gpu                            # where there is a CUDA device
SAMUNET_TEST_DEVICE=cpu python -m pytest -m gpu    # tries the tests themselves
"""

from __future__ import annotations

import os

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from tiny import write_tiny_dataset

from samunet.checkpoints.seeds import shipped_seed
from samunet.cli import plan_and_preprocess, predict, train
from samunet.core.batch import Batch
from samunet.core.labels import parse_labels
from samunet.core.plan import Topology
from samunet.core.plugins import variant_names
from samunet.core.prompts import INSIDE
from samunet.interaction.slices import SeedModel
from samunet.machine.hardware import autocast, choose_device, choose_precision
from samunet.models.spec import NetworkSpec
from samunet.sam.backbones import backbone_named
from samunet.sam.build import build_sam
from samunet.variants.method import load_variant

NAME = os.environ.get("SAMUNET_TEST_DEVICE", "cuda")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(NAME == "cuda" and not torch.cuda.is_available(), reason="there is no CUDA device"),
]
SPEC = NetworkSpec(
    schemes=("zscore",),
    labels=parse_labels({"background": 0, "small": 1, "large": 2}),
    spacing=(3.0, 1.0, 1.0),
    patch_size=(4, 64, 64),
    encoder_scale=1.0,
    topology=Topology(
        strides=((1, 1, 1), *((1, 2, 2),) * 4), kernels=((1, 3, 3), *((3, 3, 3),) * 4), widths=(8, 16, 32, 32, 32)
    ),
    pretrained=True,
)


def network_of(name):
    torch.manual_seed(0)
    variant = load_variant(name)
    return variant.build(build_sam(backbone_named("vit_nano"), SPEC.patch_size[1:]), SPEC, variant.read({}, name))


def batch_on(device):
    rows, columns = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    label = ((rows > 20) & (columns > 20)).int() + ((rows > 40) & (columns > 40)).int()
    label = label.expand(2, 4, 64, 64)
    torch.manual_seed(1)
    image = label[:, None] + 0.2 * torch.randn(2, 1, 4, 64, 64)
    return Batch(image=image.to(device), label=label.short().to(device))


@pytest.mark.parametrize("name", variant_names())
def test_a_method_takes_steps_in_half_precision(name):
    device = choose_device(NAME)
    network, batch = network_of(name).to(device).train(), batch_on(device)
    weights = [weight for group in network.parameter_groups() for weight in group.parameters]
    optimizer, losses = torch.optim.AdamW(weights, lr=1e-3), []
    for _ in range(3):
        optimizer.zero_grad()
        with autocast(device, choose_precision("auto", device)):
            loss = torch.stack(list(network.loss(batch).values())).sum()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.isfinite(losses).all() and all(weight.isfinite().all() for weight in weights)


@pytest.mark.parametrize("name", [name for name in variant_names() if not name.endswith("_prompted")])
def test_a_method_answers_as_on_a_cpu(name):
    network, image = network_of(name).eval(), batch_on("cpu").image
    device = choose_device(NAME)
    with torch.inference_mode():
        there, here = network.to(device)(image.to(device)).cpu(), network.cpu()(image)
    assert (there - here).abs().max() <= 0.01 * here.abs().max()  # convolutions in TF32 are that exact


def test_the_seed_answers_as_on_a_cpu():
    plane = np.zeros((1, 120, 90), np.float32)
    plane[:, 40:70, 30:60] = 1
    drawn = np.zeros((120, 90), np.uint8)
    drawn[55, 45] = INSIDE
    one, other = (
        model.answer(model.encode(plane, (1, 1)), drawn, (1, 1)).mask
        for model in (SeedModel(shipped_seed(2), device=name) for name in (NAME, "cpu"))
    )
    assert other.sum() > 600 and (one != other).sum() <= 0.02 * other.sum()


def test_commands_train_and_predict_there(tmp_path, monkeypatch):
    (tmp_path / "raw").mkdir()
    folder = write_tiny_dataset(tmp_path / "raw")
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    assert plan_and_preprocess.main(["-d", "999", "-c", "3d_adapter", "-backbone", "vit_nano"]) == 0
    short = f"999 3d_adapter 0 --epochs 2 --iterations 5 --batch_size 2 -device {NAME}"
    assert train.main(short.split()) == 0
    for device in (NAME, "cpu"):
        words = f"-i {folder}/imagesTs -o {tmp_path}/{device} -d 999 -c 3d_adapter -f 0 -device {device}"
        assert predict.main(words.split()) == 0
    files = [next((tmp_path / device).glob("tiny_*.nii.gz")) for device in (NAME, "cpu")]
    one, other = (sitk.GetArrayFromImage(sitk.ReadImage(file)) for file in files)
    assert (one == other).mean() > 0.98
