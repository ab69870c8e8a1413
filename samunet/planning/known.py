"""Check that everything that a plan names is there."""

from __future__ import annotations

from pathlib import Path

from samunet.core.plan import Plan
from samunet.core.plugins import refuse_unknown_variant
from samunet.errors import ConfigError
from samunet.imageio import reader_for
from samunet.ops.normalize import refuse_unknown_scheme
from samunet.sam.backbones import backbone_named


def refuse_unknown_names(plan: Plan, path: Path) -> None:
    """Raise ConfigError for an unknown reader, normalization, backbone or method, before any of them is needed.

    Args:
        path: of the plan, for messages.
    """
    try:
        reader_for("", plan.reader)
        for channel in plan.channels:
            refuse_unknown_scheme(channel)
        for configuration in plan.configurations.values():
            backbone_named(configuration.backbone)
            refuse_unknown_variant(configuration.variant)
    except ConfigError as error:
        raise ConfigError(f"{path.name}: {error}") from None
