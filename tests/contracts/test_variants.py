"""What every adaptation method owes: the points of documentation/reference/variants.md."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from samunet.checkpoints.file import load_trainable_state, trainable_state
from samunet.core.batch import Batch
from samunet.core.labels import parse_labels
from samunet.core.plan import Topology
from samunet.core.plugins import variant_names
from samunet.inference.sliding_window import sliding_window
from samunet.models.segmenter import PromptedSegmenter
from samunet.models.spec import NetworkSpec
from samunet.sam.backbones import backbone_named, encoder_size
from samunet.sam.build import build_sam
from samunet.sam.encoder import embed_patches, encode
from samunet.variants.method import load_variant

TOPOLOGY_3D = Topology(
    strides=((1, 1, 1), (1, 2, 2), (2, 2, 2)), kernels=((1, 3, 3), (3, 3, 3), (3, 3, 3)), widths=(4, 8, 12)
)
PADDED = (2, 38, 46)
"""A patch whose 152 x 184 encoder pixels are no multiples of 16, so that SAM's plane is 160 x 192."""
TOPOLOGY_PADDED = Topology(strides=((1, 1, 1), (1, 2, 2)), kernels=((1, 3, 3),) * 2, widths=(4, 8))
TOPOLOGY_2D = Topology(strides=((1, 1, 1), (1, 2, 2), (1, 2, 2)), kernels=((1, 3, 3),) * 3, widths=(4, 8, 12))
NANO = backbone_named("vit_nano")


def labels_for(classes: int, kind: str = "classes"):
    names = {"background": 0} | {f"class {value}": value for value in range(1, classes + 1)}
    if kind == "regions":
        names = {"background": 0, "whole": [1, 2], "core": 2}
        return parse_labels(names, [1, 2])
    if kind == "ignore":
        names["ignore"] = classes + 1
    return parse_labels(names)


def topology_for(patch) -> Topology:
    if patch == PADDED:
        return TOPOLOGY_PADDED
    return TOPOLOGY_2D if patch[0] == 1 else TOPOLOGY_3D


def padded_spec_for(name: str, **settings) -> NetworkSpec:
    """A spec with PADDED, or the nearest that a U-Net with a stage of the token's pitch can halve."""
    if load_variant(name).convolutions is None:
        return spec_for(PADDED, **settings)
    strides, kernels = ((1, 1, 1), (1, 2, 1), (1, 2, 2)), ((1, 3, 3),) * 3
    topology = Topology(strides=strides, kernels=kernels, widths=(4, 8, 12))
    return dataclasses.replace(spec_for((2, 40, 46), **settings), topology=topology)


def spec_for(patch=(6, 24, 40), *, classes=2, channels=1, kind="classes", pretrained=False) -> NetworkSpec:
    return NetworkSpec(
        schemes=("zscore",) * channels,
        labels=labels_for(classes, kind),
        spacing=(3.0, 1.0, 1.0),
        patch_size=patch,
        encoder_scale=4.0,
        topology=topology_for(patch),
        pretrained=pretrained,
    )


def config_of(name: str, spec: NetworkSpec, **options):
    if name == "frozen" and not spec.pretrained:
        options["random_encoder"] = True  # refused otherwise
    return load_variant(name).read(options, name)


def network_for(name: str, spec: NetworkSpec, *, perturbed: bool = False, **options):
    torch.manual_seed(0)
    variant = load_variant(name)
    sam = build_sam(NANO, encoder_size(spec.patch_size[1:], spec.encoder_scale))
    network = variant.build(sam, spec, config_of(name, spec, **options))
    if perturbed:
        with torch.no_grad():
            for parameter in network.parameters():
                if parameter.requires_grad and not parameter.any():
                    parameter.normal_(std=0.05)
    return network


def batch_for(spec: NetworkSpec, size: int = 2) -> Batch:
    generator = torch.Generator().manual_seed(3)
    image = torch.randn(size, len(spec.schemes), *spec.patch_size, generator=generator)
    label = torch.randint(0, len(spec.labels.expected_in_files), (size, *spec.patch_size), generator=generator)
    return Batch(image=image, label=label.to(torch.int16))


def predict(network, image: torch.Tensor, spec: NetworkSpec, **options) -> torch.Tensor:
    settings = {"steps": (1.0, 1.0, 1.0), "tile_batch": 2, "device": torch.device("cpu"), **options}
    total = torch.zeros(spec.labels.outputs, *image.shape[1:])
    return sliding_window(network.eval(), image, total, tile=spec.patch_size, **settings)


@pytest.fixture(params=variant_names())
def name(request) -> str:
    return request.param


PRETRAINED = pytest.mark.parametrize("pretrained", [False, True], ids=["from scratch", "pretrained"])


@pytest.mark.parametrize(
    ("classes", "patch"),
    [
        (1, (6, 24, 40)),
        (40, (6, 24, 40)),
        (2, (1, 24, 40)),
        (40, (1, 24, 40)),
        (1, (2, 40, 24)),
        (5, (2, 40, 24)),
    ],
)
@PRETRAINED
def test_logits_have_the_size_of_the_patch_and_one_channel_a_class(name, classes, patch, pretrained):
    spec = spec_for(patch, classes=classes, pretrained=pretrained)
    with torch.no_grad():
        logits = network_for(name, spec).eval()(batch_for(spec).image)
    assert logits.shape == (2, classes + 1, *patch)
    assert logits.isfinite().all()


@PRETRAINED
def test_a_plane_that_the_encoder_pads_takes_a_step_and_gives_the_logits_of_the_patch(name, pretrained):
    spec = padded_spec_for(name, pretrained=pretrained)
    network = network_for(name, spec)
    loss = sum(network.loss(batch_for(spec)).values())
    loss.backward()
    with torch.no_grad():
        logits = network.eval()(batch_for(spec).image)
    assert loss.isfinite() and logits.isfinite().all() and logits.shape == (2, 3, *spec.patch_size)


def test_pixels_of_a_padded_plane_are_the_interpolated_image_at_its_top_left(name):
    spec = padded_spec_for(name, pretrained=True)
    network, image = network_for(name, spec).eval(), batch_for(spec).image
    pixels = network.pixels if load_variant(name).convolutions is None else network.sam.tokens
    depth, height, width = spec.patch_size
    with torch.no_grad():
        given = pixels(image)
        plain = pixels.layers(image).movedim(1, 2) if name == "masksam" else expected_pixels(image)
    assert given.shape == (2, depth, 3, 160, 192)
    assert torch.allclose(given[..., : 4 * height, : 4 * width], plain, atol=1e-5)
    assert not given[..., 4 * height :, :].any() and not given[..., 4 * width :].any()


def expected_pixels(image: torch.Tensor) -> torch.Tensor:
    """SAM's pixels of a z-scored image: every slice alone, four times as large by linear interpolation."""
    slices = image.movedim(1, 2).flatten(0, 1)
    planes = torch.nn.functional.interpolate(slices, scale_factor=4, mode="bilinear", align_corners=False)
    return planes.unflatten(0, (len(image), image.shape[2])).expand(-1, -1, 3, -1, -1)


def test_what_sam_says_of_a_padded_plane_falls_on_its_voxels(name):
    """A map that holds the place of each of its cells, on the padded plane, holds the voxels' places on the patch."""
    spec = padded_spec_for(name, pretrained=True)
    network = network_for(name, spec).eval()
    depth, height, width = spec.patch_size
    if load_variant(name).convolutions is not None:
        features = torch.randn(1, 12, depth, 10, 12, generator=torch.Generator().manual_seed(6))
        image = batch_for(spec, 1).image
        with torch.no_grad():
            whole, part = (
                network.sam(image, features[..., :rows, :columns])[1] for rows, columns in ((10, 12), (9, 10))
            )
        assert whole.shape[3:] == (10, 12) and torch.equal(part, whole[..., :9, :10])
        return
    rows, columns = torch.meshgrid(torch.arange(40.0), torch.arange(48.0), indexing="ij")
    places = torch.stack((rows, columns)).view(1, 2, 1, 40, 48).expand(-1, -1, depth, -1, -1)  # a cell a voxel
    fit = network._fit if name == "masksam" else network.fit
    found = fit(places, spec.patch_size)
    assert found.shape == (1, 2, *spec.patch_size)
    inside = (..., slice(1, height), slice(1, width))  # linear interpolation repeats the first half of a cell
    assert torch.allclose(found[inside], places[..., :height, :width][inside], atol=1e-3)


@pytest.mark.parametrize(("classes", "channels"), [(1, 4), (2, 1), (5, 3), (40, 2)])
@pytest.mark.parametrize("depth", [1, 4], ids=["2D", "3D"])
def test_any_number_of_classes_and_channels_takes_a_step_and_predicts(name, depth, classes, channels):
    spec = spec_for((depth, 16, 24), classes=classes, channels=channels)
    network = network_for(name, spec)
    loss = sum(network.loss(batch_for(spec)).values())
    loss.backward()
    torch.optim.AdamW(network.parameters(), lr=1e-3).step()
    image = torch.randn(channels, depth, 20, 24, generator=torch.Generator().manual_seed(5))
    logits = predict(network, image, spec)
    assert loss.isfinite() and logits.isfinite().all() and logits.shape == (classes + 1, *image.shape[1:])


@pytest.mark.parametrize("channels", [2, 3])
def test_several_channels_enter_a_frozen_encoder(name, channels):
    spec = spec_for(channels=channels, pretrained=True)
    assert all(term.isfinite() for term in network_for(name, spec).loss(batch_for(spec)).values())


def test_regions_get_one_channel_each_and_ignored_voxels_do_not_count(name):
    regions = spec_for(kind="regions")
    assert network_for(name, regions).eval()(batch_for(regions).image).shape[1] == 2
    spec = spec_for(kind="ignore")
    batch = batch_for(spec)
    network = network_for(name, spec).eval()
    batch.label[:] = spec.labels.ignore
    loss = sum(network.loss(batch).values())
    loss.backward()
    assert loss.isfinite() and all(
        parameter.grad is None or not parameter.grad.any() for parameter in network.parameters()
    )


@PRETRAINED
@pytest.mark.parametrize("source", ["patches", "features"])
def test_batch_elements_do_not_see_each_other_and_slices_do(name, pretrained, source):
    options = {"token_source": source} if load_variant(name).convolutions is not None else {}
    spec = spec_for(pretrained=pretrained)
    network = network_for(name, spec, perturbed=True, **options).eval()
    image = batch_for(spec).image
    changed = image.clone()
    changed[1] += 1
    moved = image.clone()
    moved[0, :, 0] += torch.randn(moved[0, :, 0].shape, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        logits, other, slab = network(image), network(changed), network(moved)
    assert torch.equal(logits[0], other[0])
    assert not torch.equal(logits[1], other[1])
    meets = [not torch.equal(logits[0, :, depth], slab[0, :, depth]) for depth in range(1, spec.patch_size[0])]
    assert meets == [load_variant(name).slices_meet] * len(meets)
    assert not torch.equal(logits[0, :, 0], slab[0, :, 0])


@PRETRAINED
def test_the_loss_reaches_every_trainable_parameter_and_no_step_moves_a_frozen_one(name, pretrained):
    spec = spec_for(pretrained=pretrained)
    network = network_for(name, spec, perturbed=True)
    grouped = [parameter for group in network.parameter_groups() for parameter in group.parameters]
    trainable = {key: parameter for key, parameter in network.named_parameters() if parameter.requires_grad}
    assert len(grouped) == len(trainable) and {id(p) for p in grouped} == {id(p) for p in trainable.values()}
    frozen = {key: parameter.clone() for key, parameter in network.named_parameters() if not parameter.requires_grad}
    assert pretrained or not frozen or name == "frozen"
    sum(network.loss(batch_for(spec)).values()).backward()
    allowed = load_variant(name).without_gradient
    unreached = [key for key, parameter in trainable.items() if parameter.grad is None or not parameter.grad.any()]
    assert [key for key in unreached if not any(key.startswith(prefix) for prefix in allowed)] == []
    torch.optim.AdamW(grouped, lr=0.1).step()
    now = dict(network.named_parameters())
    assert all(torch.equal(now[key], before) for key, before in frozen.items())


@PRETRAINED
def test_the_trainable_state_alone_restores_the_logits(name, pretrained, tmp_path):
    spec = spec_for(pretrained=pretrained)
    network = network_for(name, spec, perturbed=True).eval()
    if pretrained:  # frozen weights come from the same file, here from the same seed
        fresh = network_for(name, spec).eval()
    else:
        torch.manual_seed(99)
        variant = load_variant(name)
        sam = build_sam(NANO, encoder_size(spec.patch_size[1:], spec.encoder_scale))
        fresh = variant.build(sam, spec, config_of(name, spec)).eval()
    load_trainable_state(fresh, trainable_state(network, pretrained=pretrained), tmp_path, pretrained=pretrained)
    image = batch_for(spec).image
    with torch.no_grad():
        assert torch.equal(network(image), fresh(image))


def test_the_network_starts_as_it_says(name):
    variant = load_variant(name)
    assert isinstance(network_for(name, spec_for()), PromptedSegmenter) == variant.prompted
    assert variant.starts_as in ("sam", "unet", None)
    assert variant.source
    if variant.starts_as is None:
        pytest.skip("the publication starts elsewhere")
    spec = spec_for()
    network = network_for(name, spec).eval()
    image = batch_for(spec).image
    if variant.starts_as == "sam":
        with torch.no_grad():
            pixels = network.pixels(image)
            branch = getattr(network, "branch", None)
            tokens, after = embed_patches(network.image_encoder, pixels), branch and branch(pixels)
            adapted = encode(network.image_encoder, tokens, network.sites, after=after).neck
            assert torch.allclose(adapted.flatten(0, 1), network.image_encoder(pixels.flatten(0, 1)), atol=2e-5)
        return
    with torch.no_grad():
        features, skips = image, []
        for stage in network.convolutions.stages:
            features = stage(features)
            skips.append(features)
        plain = network.outputs[0](network.decoder(skips)[0])
        assert torch.equal(network(image), plain)


def test_two_steps_and_a_sliding_window_prediction_run(name):
    spec = spec_for()
    network = network_for(name, spec)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    losses = []
    for _ in range(2):
        optimizer.zero_grad()
        loss = sum(network.loss(batch_for(spec)).values())
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[1] < losses[0]
    logits = predict(network, torch.randn(1, 9, 30, 50), spec, steps=(0.5, 0.5, 0.5))
    assert logits.shape == (3, 9, 30, 50) and logits.isfinite().all()


def test_pixels_far_from_square_give_a_network_too(name):
    # In-plane strides differ: 2.2 mm pixels are halved less often than 1 mm ones.
    topology = Topology(
        strides=((1, 1, 1), (1, 2, 1), (2, 2, 2)), kernels=((1, 3, 1), (3, 3, 3), (3, 3, 3)), widths=(4, 8, 12)
    )
    scale = load_variant(name).preferred(topology, (6, 24, 14), 9.0)[0].scale
    for pretrained in (False, True):
        spec = dataclasses.replace(spec_for((6, 24, 14), pretrained=pretrained), topology=topology, encoder_scale=scale)
        assert all(term.isfinite() for term in network_for(name, spec).loss(batch_for(spec)).values())


def test_cost_grows_with_patch_and_batch_and_preferred_gives_a_reason(name):
    variant = load_variant(name)
    spec, larger = spec_for(), spec_for((6, 48, 80))
    config = config_of(name, spec)
    small, more, most = (
        variant.cost(*asked, config) for asked in ((spec, NANO, 2), (spec, NANO, 4), (larger, NANO, 4))
    )
    assert small < more < most
    preferences = variant.preferred(spec.topology, spec.patch_size, 9.0)
    scales = [preference.scale for preference in preferences]
    assert (
        scales
        and min(scales) > 0
        and scales == sorted(scales, reverse=True)
        and all(len(preference.reason) > 20 for preference in preferences)
    )


def test_every_field_of_the_config_has_a_default_and_a_text(name):
    from samunet.cli.fields import field_texts

    config = load_variant(name).config()
    fields = dataclasses.fields(config)
    parts = [part for field in fields if dataclasses.is_dataclass(part := getattr(config, field.name))]
    for some in (config, *parts):
        assert set(field_texts(type(some))) == {field.name for field in dataclasses.fields(some)}
    names = [field.name for some in parts for field in dataclasses.fields(some)]
    assert len(names) == len(set(names)), "parts share an option"
