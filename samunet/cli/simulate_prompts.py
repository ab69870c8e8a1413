"""Make the prompts that a user could give from reference segmentations, to score models that segment what prompts show.

Next: samunet_predict -i IMAGES -o PREDICTIONS --prompts FILE
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from samunet.cli.common import DEFAULT_THREADS, Threads, command
from samunet.core.units import counted


@dataclass(frozen=True, kw_only=True)
class Options:
    references: Annotated[Path, "references"]
    """Folder of reference segmentations."""
    dataset_json: Annotated[Path, "-djfile FILE"]
    """dataset.json that names the labels."""
    output: Annotated[Path, "-o FILE"]
    """File to write."""
    points: Annotated[int | None, "--points N"] = None
    """Clicks inside a structure in each slice (default: 1)."""
    whole: bool = False
    """Click at structures as a whole, not at each of their slices, for models such as 3d_adapter_prompted."""
    box: bool = False
    """One 3D box per structure instead."""
    relaxation: Annotated[int, "--relaxation VOXELS"] = 0
    """Make boxes larger on every side."""
    axis: Annotated[int, "-axis AXIS"] = 0
    """File axis along which slices follow: 0 is z, 1 y, 2 x."""
    seed: Annotated[int, "-seed N"] = 1234
    """Of the clicks after the first."""
    threads: Threads = DEFAULT_THREADS


@command("samunet_simulate_prompts", __doc__, Options)
def main(options: Options) -> None:
    from samunet.core.dataset import Case, files_with_ending, read_dataset_json
    from samunet.core.prompts import write_prompts
    from samunet.errors import ConfigError, DatasetError
    from samunet.imageio import reader_of_segmentations
    from samunet.pipeline.simulated_prompts import Clicking, prompts_from_references

    if options.box and options.points is not None:
        raise ConfigError("Give --points or --box, not both.")
    points = 0 if options.box else 1 if options.points is None else options.points
    if points < 1 and not options.box:
        raise ConfigError(f"--points must be 1 or more; got {points}. For boxes give --box.")
    if options.whole and options.box:
        raise ConfigError("A box shows a structure as a whole already; leave --whole out.")
    if options.relaxation and not options.box:
        raise ConfigError("--relaxation makes boxes larger; give --box too.")
    spec = read_dataset_json(options.dataset_json)
    found = files_with_ending(options.references, spec.file_ending)
    if not found:
        raise DatasetError(f"No file ending in {spec.file_ending} is in {options.references}.")
    cases = [
        Case(identifier=name.removesuffix(spec.file_ending), images=(), label=file) for name, file in found.items()
    ]
    clicking = Clicking(
        points=points, whole=options.whole, relaxation=options.relaxation, axis=options.axis, seed=options.seed
    )
    prompts = prompts_from_references(
        cases, spec, reader_of_segmentations(options.references, spec), clicking, threads=options.threads
    )
    write_prompts(options.output, prompts)
    print(f"Wrote prompts of {counted(len(cases), 'case')}, {prompts.origin}, to {options.output}")
