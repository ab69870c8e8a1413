"""Draw the slice with the most classes of every training case, image and reference side by side, from the raw files.

Next: look through the folder; a label that lies beside its structure is seen at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from samunet.cli.common import DEFAULT_THREADS, Dataset, Threads, command


@dataclass(frozen=True, kw_only=True)
class Options:
    dataset: Dataset
    output: Annotated[Path, "-o FOLDER"]
    """Folder for the pictures."""
    channel: Annotated[int, "-channel_idx N"] = 0
    """Channel to draw."""
    use_raw: bool = False
    """Accepted as nnU-Net's command takes it; raw files are drawn anyway."""
    threads: Threads = DEFAULT_THREADS


@command("samunet_plot_overlay_pngs", __doc__, Options)
def main(options: Options) -> None:
    from samunet.comparison.report import draw_training_cases
    from samunet.core.workspace import workspace_from_environment

    workspace = workspace_from_environment()
    dataset = workspace.dataset_name(options.dataset)
    cases = draw_training_cases(workspace, dataset, options.output, channel=options.channel, threads=options.threads)
    print(f"Wrote {len(cases)} pictures to {options.output}")
