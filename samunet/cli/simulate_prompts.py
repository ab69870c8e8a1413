"""samunet_simulate_prompts: clicks and boxes made from reference segmentations."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from samunet.cli.common import DEFAULT_THREADS, make_parser, run
from samunet.core.units import counted


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = make_parser(
        "samunet_simulate_prompts",
        (
            "Make the prompts that a user could give from reference segmentations, to score models that segment what "
            "prompts show."
        ),
        "Next: samunet_predict -i IMAGES -o PREDICTIONS --prompts FILE",
    )
    parser.add_argument("references", type=Path, help="folder of reference segmentations")
    parser.add_argument("-djfile", type=Path, required=True, metavar="FILE", help="dataset.json that names the labels")
    parser.add_argument("-o", type=Path, required=True, metavar="FILE", help="file to write")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument(
        "--points",
        type=int,
        default=1,
        metavar="N",
        help="clicks inside a structure in each slice (default: %(default)s)",
    )
    kind.add_argument("--box", action="store_true", help="one 3D box per structure instead")
    parser.add_argument(
        "--relaxation",
        type=int,
        default=0,
        metavar="VOXELS",
        help="make boxes larger on every side (default: %(default)s)",
    )
    parser.add_argument(
        "-axis",
        type=int,
        default=0,
        metavar="AXIS",
        help="file axis along which slices follow: 0 is z, 1 y, 2 x (default: %(default)s)",
    )
    parser.add_argument(
        "-seed", type=int, default=1234, metavar="N", help="of the clicks after the first (default: %(default)s)"
    )
    parser.add_argument(
        "-np", type=int, default=DEFAULT_THREADS, metavar="N", help="cases read at a time (default: %(default)s)"
    )
    return run(parser, _command, argv)


def _command(arguments: argparse.Namespace) -> None:
    from samunet.core.dataset import Case, files_with_ending, read_dataset_json
    from samunet.core.prompts import write_prompts
    from samunet.errors import ConfigError, DatasetError
    from samunet.imageio import reader_of_segmentations
    from samunet.pipeline.simulated_prompts import Clicking, prompts_from_references

    if arguments.points < 1:
        raise ConfigError(f"--points must be 1 or more; got {arguments.points}. For boxes give --box.")
    if arguments.relaxation and not arguments.box:
        raise ConfigError("--relaxation makes boxes larger; give --box too.")
    spec = read_dataset_json(arguments.djfile)
    found = files_with_ending(arguments.references, spec.file_ending)
    if not found:
        raise DatasetError(f"No file ending in {spec.file_ending} is in {arguments.references}.")
    cases = [
        Case(identifier=name.removesuffix(spec.file_ending), images=(), label=file) for name, file in found.items()
    ]
    clicking = Clicking(
        points=0 if arguments.box else arguments.points,
        relaxation=arguments.relaxation,
        axis=arguments.axis,
        seed=arguments.seed,
    )
    prompts = prompts_from_references(
        cases, spec, reader_of_segmentations(arguments.references, spec), clicking, threads=arguments.np
    )
    write_prompts(arguments.o, prompts)
    print(f"Wrote prompts of {counted(len(cases), 'case')}, {prompts.origin}, to {arguments.o}")
