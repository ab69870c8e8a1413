"""Show versions, folders, datasets, plans, trained models, SAM checkpoints and GPUs.

Next: samunet_plan_and_preprocess -d DATASET
"""

from __future__ import annotations

from dataclasses import dataclass

from samunet.cli.common import command


@dataclass(frozen=True, kw_only=True)
class Options:
    ext_trainer: bool = False
    """Print only the folder of samunet's trainers for stock nnU-Net."""
    json: bool = False
    """As JSON, for programs."""


@command("samunet_info", __doc__, Options)
def main(options: Options) -> None:
    import json
    from pathlib import Path

    import samunet
    from samunet.core.workspace import workspace_from_environment
    from samunet.pipeline.information import gather, lines

    if options.ext_trainer:
        print(Path(samunet.__file__).parent / "ext_trainer")
        return
    found = gather(workspace_from_environment())
    print(json.dumps(found, indent=2) if options.json else "\n".join(lines(found)))
