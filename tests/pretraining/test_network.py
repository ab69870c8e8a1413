"""What pretraining asks of a network."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage

from samunet.core.batch import Batch
from samunet.core.labels import parse_labels
from samunet.pipeline.pretraining import plan_of
from samunet.pretraining.network import FARTHEST, PretrainingNetwork, clipped_distance
from samunet.pretraining.recipe import Recipe
from samunet.pretraining.source import SceneSource
from samunet.variants.network import build_network


def model(auxiliary=True):
    recipe = Recipe(side=32, width=4, stages=3)
    plan = plan_of(recipe)
    torch.manual_seed(0)
    network = build_network(
        plan, plan.configuration("2d_sam_unet_prompted"), parse_labels({"background": 0, "object": 1})
    )
    return PretrainingNetwork(network, 4, auxiliary=auxiliary).train()


def batch(count=6):
    source = SceneSource(shape=(1, 32, 32), batch_size=count, seed=0)
    images, labels = zip(*(source[number] for number in range(count)), strict=True)
    return Batch(image=torch.stack(images), label=torch.stack(labels))


def test_distances_are_scipys_chessboard_distances():
    mask = np.zeros((1, 1, 40, 40), bool)
    mask[0, 0, 5:30, 8:20] = True
    ours = clipped_distance(torch.from_numpy(mask))[0, 0].numpy()
    inside, outside = (ndimage.distance_transform_cdt(m, "chessboard") for m in (mask[0, 0], ~mask[0, 0]))
    assert np.allclose(ours, (np.minimum(inside, FARTHEST) - np.minimum(outside, FARTHEST)) / FARTHEST)


def test_every_task_has_a_term_and_every_weight_a_gradient():
    net = model()
    terms = net.loss(batch())
    assert set(terms) == {"bce", "dice", "quality", "distance", "denoising"}
    sum(terms.values()).backward()
    assert [name for name, parameter in net.named_parameters() if parameter.grad is None] == []
    assert set(model(auxiliary=False).loss(batch())) == {"bce", "dice", "quality"}


def test_without_maps_no_reference_is_shown():
    recipe = Recipe(side=32, width=4, stages=4, backbone="vit_nano", tokens=True, maps=False)
    plan = plan_of(recipe)
    labels = parse_labels({"background": 0, "object": 1})
    network = build_network(plan, plan.configuration("2d_sam_unet_prompted"), labels)
    assert not network.takes_references
    assert all(term.isfinite() for term in PretrainingNetwork(network, 4).train().loss(batch()).values())
