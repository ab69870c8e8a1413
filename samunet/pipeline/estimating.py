"""A method as the planner asks it, and the memory that a training step of a configuration is estimated to need."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from samunet.core.dataset import DatasetSpec
from samunet.core.geometry import Shape
from samunet.core.plan import Configuration, Topology, parse_configuration_name
from samunet.models.spec import NetworkSpec
from samunet.ops.normalize import scheme_for
from samunet.planning.planners.default import ConvolutionalPath, PlannedMethod
from samunet.sam.backbones import Backbone, backbone_named
from samunet.variants.method import load_variant

# Memory of a training step, of that in mixed precision; see benchmarks/memory_model.py.
MEMORY_FACTORS = {"mixed": 1.0, "fp32": 1.31}
TRAINED_IN = {"mixed": "auto", "fp32": "fp32"}  # a training's own names


def estimate_gib(configuration: Configuration, spec: DatasetSpec, precision: str = "mixed") -> float:
    """Return the planner's estimate of the memory of one training step in GiB."""
    name, backbone = f"{configuration.dimensions}d_{configuration.variant}", backbone_named(configuration.backbone)
    options, pretrained = configuration.variant_options, configuration.weights is not None
    method = planned_method(name, spec, backbone, pretrained=pretrained, precision=precision, options=options)
    step = (configuration.topology, configuration.patch_size, configuration.encoder_scale, configuration.batch_size)
    return method.cost(*step)


def planned_method(
    name: str,
    spec: DatasetSpec,
    backbone: Backbone,
    *,
    pretrained: bool,
    precision: str = "mixed",
    options: Mapping[str, Any] = {},
) -> PlannedMethod:
    """Return a method as the planner asks it, for one of its configurations.

    Args:
        name: of the configuration, e.g. 3d_adapter.
        pretrained: the backbone's weights come from a file.
        precision: one of MEMORY_FACTORS.
        options: the method's, where they are not its defaults.
    """
    dimensions, variant_name = parse_configuration_name(name)
    variant = load_variant(variant_name)
    where = f"configuration option variant_options of {variant_name}"
    config = variant.read(options, where)
    schemes = tuple(scheme_for(channel) for channel in spec.channels)

    def spec_of(topology: Topology, patch: Shape, scale: float) -> NetworkSpec:
        return NetworkSpec(
            schemes=schemes,
            labels=spec.labels,
            spacing=(1.0, 1.0, 1.0),
            patch_size=patch,
            encoder_scale=scale,
            topology=topology,
            pretrained=pretrained,
        )

    def cost(topology: Topology, patch: Shape, scale: float, batch: int, config: Any = config) -> float:
        return MEMORY_FACTORS[precision] * variant.cost(spec_of(topology, patch, scale), backbone, batch, config)

    convolutions, path = None, variant.convolutions
    if path is not None:
        alone, operations = variant.read({**options, **path.without_encoder}, where), path.operations
        convolutions = ConvolutionalPath(
            cost=lambda topology, patch, batch: cost(topology, patch, 1.0, batch, alone),
            work=lambda topology, patch, scale: operations(spec_of(topology, patch, scale), backbone, config),
        )
    sparing = None
    if path is not None and not options:
        sparing = planned_method(name, spec, backbone, pretrained=pretrained, precision=precision, options=path.sparing)
    return PlannedMethod(
        variant=variant_name,
        dimensions=dimensions,
        preferred=variant.preferred,
        cost=cost,
        convolutions=convolutions,
        options=options,
        sparing=sparing,
    )
