"""Preprocess the training cases of planned datasets.

Next: samunet_train DATASET 3d_adapter 0   (2d_adapter for 2D images)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from samunet.cli import planning
from samunet.cli.common import command
from samunet.core.names import DEFAULT_PLANS_NAME


@dataclass(frozen=True, kw_only=True)
class Options(planning.Common):
    plans_name: Annotated[str, "-plans_name NAME"] = DEFAULT_PLANS_NAME
    """Plan to follow."""
    preprocessing: planning.Preprocessing


@command("samunet_preprocess", __doc__, Options)
def main(options: Options) -> None:
    from samunet import pipeline
    from samunet.core.workspace import workspace_from_environment

    workspace = workspace_from_environment()
    for wanted in options.datasets:
        dataset = planning.open_dataset(workspace, wanted, add_new_cases=options.preprocessing.add_new_cases)
        plan = pipeline.open_plan(workspace, dataset.spec.name, options.plans_name)
        planning.preprocess_configurations(workspace, dataset, plan, options.preprocessing, quiet=options.quiet)
        planning.print_training(dataset, plan, options.preprocessing)
