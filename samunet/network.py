"""Build the network of a configuration."""

from __future__ import annotations

from pathlib import Path

from samunet.core.codec import decode
from samunet.core.labels import Labels
from samunet.core.plan import Configuration, Plan
from samunet.core.plugins import load_variant
from samunet.models.inputs import encoder_size
from samunet.models.segmenter import NetworkSpec, SlabSegmenter
from samunet.sam.build import TOKEN_PIXELS, backbone_named, build_sam
from samunet.sam.weights import load_weights


def build_network(plan: Plan, configuration: Configuration, labels: Labels) -> SlabSegmenter:
    """Build a network with the plan's pretrained weights, or random ones from torch's global generator.

    Raises:
        ConfigError: the variant, the backbone or a variant option is unknown.
        WeightsAbsentError, CheckpointError: the plan's weights are absent or do not fit.
    """
    variant = load_variant(configuration.variant)
    options = decode(variant.Config, configuration.variant_options, f"configuration option variant_options of {configuration.variant}")
    backbone = backbone_named(configuration.backbone)
    size = encoder_size(configuration.patch_size[1:], configuration.encoder_scale)
    pretrained = configuration.weights is not None
    # A plane that fits into one window would be padded up to it; only pretrained weights expect that.
    one_window = not pretrained and max(size) // TOKEN_PIXELS <= backbone.window
    sam = build_sam(backbone, size, window=0 if one_window else None)
    if configuration.weights is not None:
        load_weights(sam, backbone, Path(configuration.weights))
    spec = NetworkSpec(
        schemes=tuple(channel.scheme for channel in plan.channels),
        labels=labels,
        spacing=configuration.spacing,
        patch_size=configuration.patch_size,
        encoder_scale=configuration.encoder_scale,
        topology=configuration.topology,
        pretrained=pretrained,
    )
    return variant.build(sam, spec, options)
