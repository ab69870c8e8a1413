"""Save the plan of one dataset as a plan of another, for pretraining: all decisions and intensity statistics stay as
they are.

Next: samunet_preprocess -d TARGET -plans_name NAME
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from samunet.cli.common import command


@dataclass(frozen=True, kw_only=True)
class Options:
    source: Annotated[str, "-s DATASET"]
    """Id or name of the dataset that has the plan."""
    target: Annotated[str, "-t DATASET"]
    """Id or name of the dataset that gets it."""
    source_plans: Annotated[str, "-sp NAME"]
    """The plan."""
    target_plans: Annotated[str | None, "-tp NAME"] = None
    """Its name there (default: the same)."""
    configurations: Annotated[tuple[str, ...], "-c CONFIGURATION"] = ()
    """Configurations to move besides those in the plan, e.g. 3d_ma_sam."""


@command("samunet_move_plans_between_datasets", __doc__, Options)
def main(options: Options) -> None:
    from samunet import pipeline
    from samunet.core.workspace import workspace_from_environment

    workspace = workspace_from_environment()
    source, target = workspace.dataset_name(options.source), workspace.dataset_name(options.target)
    path = pipeline.move_plan(
        workspace,
        source,
        target,
        source_plans=options.source_plans,
        target_plans=options.target_plans or options.source_plans,
        configurations=options.configurations,
    )
    print(f"Wrote {path}")
