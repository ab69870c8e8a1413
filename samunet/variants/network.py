"""Build the network of a configuration."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from samunet.core.codec import file_sha256
from samunet.core.labels import Labels
from samunet.core.plan import Configuration, Plan
from samunet.errors import CheckpointError, ConfigError
from samunet.models.segmenter import SlabSegmenter
from samunet.models.spec import NetworkSpec
from samunet.planning.topology import divisors
from samunet.sam.backbones import TOKEN_PIXELS, backbone_named, encoder_size
from samunet.sam.build import build_sam
from samunet.sam.checkpoints import find_weights
from samunet.sam.weights import load_weights
from samunet.variants.method import load_variant

logger = logging.getLogger(__name__)


def build_network(
    plan: Plan, configuration: Configuration, labels: Labels, weights_folders: Sequence[Path] = ()
) -> SlabSegmenter:
    """Build a network with the plan's pretrained weights, or random ones from torch's global generator.

    The weights file is looked for at the plan's path and then, by its name, in `weights_folders`.

    Raises:
        ConfigError: the variant, the backbone or a variant option is unknown, or the topology does not divide the
            patch.
        WeightsAbsentError, CheckpointError: the plan's weights are absent or do not fit.
    """
    variant = load_variant(configuration.variant)
    parts = divisors(configuration.topology)
    if any(size % part for size, part in zip(configuration.patch_size, parts, strict=True)):
        raise ConfigError(
            f"The patch {configuration.patch_size} of the plan must be a multiple of {parts}, the product of the "
            "topology's strides."
        )
    where = f"configuration option variant_options of {configuration.variant}"
    options = variant.read(configuration.variant_options, where)
    backbone = backbone_named(configuration.backbone)
    size = encoder_size(configuration.patch_size[1:], configuration.encoder_scale)
    pretrained = configuration.weights is not None
    # A plane that fits into one window would be padded up to it; only pretrained weights expect that.
    one_window = not pretrained and max(size) // TOKEN_PIXELS <= backbone.window
    sam = build_sam(backbone, size, window=0 if one_window else None)
    if configuration.weights is not None:
        path = find_weights(configuration.weights, weights_folders)
        if configuration.weights_sha256 is None:
            raise ConfigError(f"The plan names the weights {configuration.weights} but no weights_sha256; plan again.")
        if file_sha256(path) != configuration.weights_sha256:
            raise CheckpointError(
                f"Weights file {path} is not the one that the plan was made with (SHA-256 "
                f"{configuration.weights_sha256}). Put that file back, or plan again."
            )
        logger.info("%s: %s", path.name, load_weights(sam, backbone, path))
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
