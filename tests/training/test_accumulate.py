"""A batch in parts gives the gradient of the whole batch, also where the loss looks at the whole batch at once."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from segment_anything.modeling.prompt_encoder import PositionEmbeddingRandom

from samunet.core.batch import Batch
from samunet.core.labels import parse_labels
from samunet.core.plan import Topology
from samunet.models.spec import NetworkSpec
from samunet.sam.backbones import backbone_named
from samunet.sam.build import build_sam
from samunet.training.accumulate import backward, split
from samunet.variants import ma_sam, sam_unet

LABELS = parse_labels({"background": 0, "common": 1, "rare": 2, "ignore": 3})
TOPOLOGY = Topology(strides=((1, 1, 1), (1, 2, 2), (1, 2, 2)), kernels=((1, 3, 3),) * 3, widths=(4, 8, 12))


def setup(variant, slabs=24, slices=2, labels=LABELS, **options):
    torch.manual_seed(0)
    spec = NetworkSpec(
        schemes=("zscore",),
        labels=labels,
        spacing=(3.0, 1.0, 1.0),
        patch_size=(slices, 32, 32),
        encoder_scale=4.0,
        topology=TOPOLOGY,
        pretrained=True,
    )
    network = variant.build(build_sam(backbone_named("vit_nano"), (128, 128)), spec, variant.Config(**options))
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad and not parameter.any():
                parameter.normal_(std=0.05)  # what starts at zero would keep others without gradient
    label = torch.randint(0, 2, (slabs, slices, 32, 32), generator=torch.Generator().manual_seed(1))
    label[0, 0, :4] = 2  # in one slab only: the parts' own losses would call it absent elsewhere
    label[1:3, :, 8:] = 3
    for module in network.double().modules():
        if isinstance(module, PositionEmbeddingRandom):
            module.float()  # the package gives it coordinates in single precision
    return network, Batch(image=torch.randn(slabs, 1, slices, 32, 32, dtype=torch.float64), label=label.short())


def gradients(network, parts, **options):
    network.zero_grad()
    loss = backward(network, parts, autocast=nullcontext, scale=lambda value: value, **options)
    return loss, [parameter.grad.clone() for parameter in network.parameters() if parameter.grad is not None]


def assert_equal(first, second):
    assert first[0].item() == pytest.approx(second[0].item(), rel=1e-5)
    assert len(first[1]) == len(second[1]) > 0
    smallest = 1e-6 * max(slope.abs().max() for slope in first[1])  # below this a gradient is rounding of larger ones
    assert all(
        (a - b).abs().max() <= 1e-5 * max(a.abs().max(), smallest) for a, b in zip(first[1], second[1], strict=True)
    )


@pytest.mark.parametrize("parts", [24, 5])
def test_one_slab_24_times_equals_24_slabs_at_once(parts):
    network, batch = setup(ma_sam, adapter_width=16, rank=4, dropout=0.0)
    assert_equal(gradients(network, [batch]), gradients(network, split(batch, parts)))


def test_naive_accumulation_would_train_something_else():
    network, batch = setup(ma_sam, slabs=6, adapter_width=16, rank=4, dropout=0.0)
    _, whole = gradients(network, [batch])
    network.zero_grad()
    for part in split(batch, 6):
        (sum(network.loss(part).values()) / 6).backward()
    naive = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    assert max((a - b).abs().max() for a, b in zip(whole, naive, strict=True)) > 1e-2 * max(
        slope.abs().max() for slope in whole
    )


def test_processes_that_share_a_batch_add_up_to_it():
    network, batch = setup(ma_sam, slabs=6, adapter_width=16, rank=4, dropout=0.0)
    parts = split(batch, 3)
    with torch.no_grad():
        sums = [network.sums(part) for part in parts]
    total = {name: sum(part[name] for part in sums) for name in sums[0]}
    shares = [
        gradients(network, [part], reduce=lambda _: {name: value.clone() for name, value in total.items()}, samples=6)
        for part in parts
    ]
    added = [sum(slopes) for slopes in zip(*(share[1] for share in shares), strict=True)]
    assert_equal(gradients(network, [batch]), (sum(share[0] for share in shares), added))


def test_both_passes_drop_the_same():
    network, batch = setup(ma_sam, slabs=2, adapter_width=16, rank=4, dropout=0.5)
    parts = split(batch, 2)
    torch.manual_seed(7)
    given = gradients(network.train(), parts)
    # The same in one graph: every part once, in the same order, from the same generator.
    torch.manual_seed(7)
    network.zero_grad()
    sums = [network.sums(part) for part in parts]
    loss = sum(network.terms({name: sums[0][name] + sums[1][name] for name in sums[0]}).values())
    loss.backward()
    assert_equal(
        given, (loss.detach(), [parameter.grad for parameter in network.parameters() if parameter.grad is not None])
    )


@pytest.mark.parametrize("slices", [1, 2])
def test_sam_unet_is_exact_in_parts_with_dice_over_the_batch_and_ignored_voxels(slices):
    network, batch = setup(sam_unet, slabs=3, slices=slices)
    assert_equal(gradients(network, [batch]), gradients(network, split(batch, 3)))


def test_a_mean_over_samples_takes_one_pass():
    network, batch = setup(
        sam_unet, slabs=3, labels=parse_labels({"background": 0, "common": 1, "rare": 2, "other": 3})
    )
    assert network.mean_over_samples
    calls, inner = [], network.sums
    network.sums = lambda part: (calls.append(1), inner(part))[1]
    assert_equal(gradients(network, [batch]), gradients(network, split(batch, 3)))
    assert len(calls) == 1 + 3
