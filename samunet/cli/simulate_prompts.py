"""Make the prompts that a user could give from reference segmentations, to score models that segment what prompts show.

Next: samunet_predict -i IMAGES -o PREDICTIONS --prompts FILE
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from samunet.cli.common import DEFAULT_THREADS, Threads, command
from samunet.core.units import counted
from samunet.pipeline.options import Clicking


@dataclass(frozen=True, kw_only=True)
class Options:
    references: Annotated[Path, "references"]
    """Folder of reference segmentations."""
    dataset_json: Annotated[Path, "-djfile FILE"]
    """dataset.json that names the labels."""
    output: Annotated[Path, "-o FILE"]
    """File to write."""
    box: bool = False
    """One 3D box per structure instead of clicks."""
    clicking: Clicking
    threads: Threads = DEFAULT_THREADS


@command("samunet_simulate_prompts", __doc__, Options)
def main(options: Options) -> None:
    from samunet.core.dataset import Case, files_with_ending, read_dataset_json
    from samunet.core.prompts import write_prompts
    from samunet.errors import ConfigError, DatasetError
    from samunet.imageio import reader_of_segmentations
    from samunet.pipeline.simulated_prompts import prompts_from_references

    clicking = options.clicking
    if options.box:
        if clicking.points != Clicking.points:
            raise ConfigError("Give --points or --box, not both.")
        if clicking.whole:
            raise ConfigError("A box shows a structure as a whole already; leave --whole out.")
        clicking = replace(clicking, points=0)
    elif clicking.points < 1:
        raise ConfigError(f"--points must be 1 or more; got {clicking.points}. For boxes give --box.")
    elif clicking.relaxation:
        raise ConfigError("--relaxation makes boxes larger; give --box too.")
    spec = read_dataset_json(options.dataset_json)
    found = files_with_ending(options.references, spec.file_ending)
    if not found:
        raise DatasetError(f"No file ending in {spec.file_ending} is in {options.references}.")
    cases = [
        Case(identifier=name.removesuffix(spec.file_ending), images=(), label=file) for name, file in found.items()
    ]
    prompts = prompts_from_references(
        cases, spec, reader_of_segmentations(options.references, spec), clicking, threads=options.threads
    )
    write_prompts(options.output, prompts)
    print(f"Wrote prompts of {counted(len(cases), 'case')}, {prompts.origin}, to {options.output}")
