"""Copy a task of the Medical Segmentation Decathlon into nnUNet_raw: one file per channel, labels by name. The task
stays as it is.

Next: samunet_check_dataset -d DATASET
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from samunet.cli.common import DEFAULT_THREADS, Quiet, Threads, command, print_next
from samunet.core.units import counted


@dataclass(frozen=True, kw_only=True)
class Options:
    task: Annotated[Path, "-i FOLDER"]
    """TaskXX_Name with dataset.json, imagesTr, labelsTr."""
    overwrite_id: Annotated[int | None, "-overwrite_id ID"] = None
    """Dataset id to use instead of the task's number."""
    threads: Threads = DEFAULT_THREADS
    quiet: Quiet = False


@command("samunet_convert_MSD_dataset", __doc__, Options)
def main(options: Options) -> None:
    from samunet.core.workspace import workspace_from_environment
    from samunet.importing.dataset import write_dataset
    from samunet.importing.layouts import from_msd

    raw = workspace_from_environment().raw
    name, cases, channels, labels = from_msd(options.task)
    if options.overwrite_id is not None:
        name = f"Dataset{options.overwrite_id:03d}_{name.split('_', 1)[1]}"
    folder = write_dataset(
        raw, name, cases, channels=channels, labels=labels, threads=options.threads, quiet=options.quiet
    )
    print(f"Wrote {counted(len(cases), 'case')} to {folder}")
    print_next("samunet_check_dataset", "-d", folder.name)
