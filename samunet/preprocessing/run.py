"""Preprocess a whole dataset; what is done already stays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from samunet.core.codec import digest, encode, file_sha256, write_json
from samunet.core.dataset import Case, DatasetSpec
from samunet.core.lock import held
from samunet.core.memory import Room
from samunet.core.parts import is_full
from samunet.core.plan import Configuration, Plan
from samunet.core.units import counted
from samunet.errors import MOST_FAULTS, DatasetError, SamunetError
from samunet.imageio import ImageReader
from samunet.imageio.case import peek_case, read_case
from samunet.imageio.reader import files_of
from samunet.machine.progress import each
from samunet.preprocessing.forward import preprocess
from samunet.preprocessing.memory import storing_bytes
from samunet.preprocessing.storage import (
    CASES,
    Origin,
    file_names,
    is_whole,
    listed_cases,
    load_record,
    remove_all_but,
    remove_case,
    save_case,
)

DESCRIPTION = "dataset.json"
NNUNET_CASES = "*.pkl"  # what nnU-Net keeps beside its cases, and we never do
STORED_FORMAT = 2  # of what is stored; raise it when preprocessing gives other values


def preprocess_dataset(
    folder: Path,
    spec: DatasetSpec,
    cases: Sequence[Case],
    plan: Plan,
    configuration: Configuration,
    reader: ImageReader,
    *,
    threads: int,
    quiet: bool = False,
) -> None:
    """Write every training case, and dataset.json, to a folder of preprocessed cases.

    Cases that lie there already, made from the same files in the same way and undamaged, are left alone; others that
    were stored there are removed.

    Raises:
        DatasetError: the folder is nnU-Net's or another's; two cases would be stored in one file; or some cases cannot
            be read or written, which are named while the others are done.
        InUseError: another command writes there, or trains on what is there.
    """
    if next(folder.glob(NNUNET_CASES), None) is not None:
        raise DatasetError(
            f"{folder} holds cases that nnU-Net has preprocessed; give the configuration a data_identifier of its own."
        )
    _refuse_shared_names(cases)
    with held(folder):
        if (
            (folder / DESCRIPTION).exists()
            and listed_cases(folder) is None
            and not any(_origin_of(folder, case.identifier) for case in cases)
        ):
            raise DatasetError(
                f"{folder} holds a {DESCRIPTION} and nothing that samunet stored; give the configuration a "
                "data_identifier of its own."
            )
        settings = settings_hash(spec, plan, configuration)
        (folder / DESCRIPTION).unlink(missing_ok=True)
        remove_all_but(folder, [case.identifier for case in cases])

        room = Room()

        def run(case: Case) -> str | None:
            try:
                origin = Origin(
                    settings=settings,
                    files=digest([reader.name, *(file_sha256(path) for path in files_of(case, reader))]),
                )
                if _origin_of(folder, case.identifier) == origin and is_whole(folder, case.identifier):
                    return None
                remove_case(folder, case.identifier)
                with room.of(storing_bytes(peek_case(case, spec, reader), plan, configuration), case.identifier):
                    volume, label = read_case(case, spec, reader)
                    save_case(
                        folder,
                        case.identifier,
                        preprocess(volume, label, plan, configuration),
                        spec.labels,
                        configuration.patch_size,
                        origin,
                    )
                    del volume, label
            except (SamunetError, OSError, MemoryError) as error:
                if is_full(error):  # which no other case escapes
                    raise
                return f"case '{case.identifier}': {str(error) or 'out of memory'}"
            return None

        failures = [
            failure
            for failure in each(run, cases, threads=threads, title=f"Preprocessing {folder.name}", quiet=quiet)
            if failure
        ]
        if failures:
            raise DatasetError(
                f"{len(failures)} of {counted(len(cases), 'case')} could not be preprocessed; the others are done, "
                "and the next run "
                "leaves them alone.\n" + "\n".join(failures[:MOST_FAULTS])
            )
        write_json(folder / DESCRIPTION, spec.raw)  # last, so a folder that has it is whole


def settings_hash(spec: DatasetSpec, plan: Plan, configuration: Configuration) -> str:
    """Hash everything but the files that a preprocessed case depends on."""
    decided = [
        plan.orientation,
        encode(plan.transpose),
        encode(plan.channels),
        configuration.dimensions,
        encode(configuration.spacing),
    ]
    return digest([STORED_FORMAT, *decided, spec.raw["labels"]])


def check_made_by(
    folder: Path, cases: Sequence[str], spec: DatasetSpec, plan: Plan, configuration: Configuration
) -> str:
    """Return a hash of what preprocessed cases were made from; raises DatasetError unless that was with the settings of
    a plan.
    """
    settings = settings_hash(spec, plan, configuration)
    origins = {case: _origin_of(folder, case) for case in cases}
    others = [case for case, origin in origins.items() if origin is None or origin.settings != settings]
    if others:
        raise DatasetError(
            f"{len(others)} of {counted(len(cases), 'case')} in {folder} were preprocessed by another plan or an "
            "earlier version, "
            f"first '{others[0]}'. Run first: samunet_preprocess -d {plan.dataset} -plans_name {plan.plans_name}"
        )
    return digest({case: origin.files for case, origin in origins.items() if origin is not None})


def _origin_of(folder: Path, identifier: str) -> Origin | None:
    """Return what a stored case was made from; None where nothing whole of today's form is stored."""
    if not all((folder / name).is_file() for name in file_names(identifier)):
        return None
    try:
        return load_record(folder, identifier).origin
    except SamunetError:
        return None


def _refuse_shared_names(cases: Sequence[Case]) -> None:
    """Refuse identifiers whose stored files have one name, as those of 'a' and 'a_seg'."""
    owners = {name: name for name in (DESCRIPTION, CASES)}
    for case in cases:
        for name in file_names(case.identifier):
            if name in owners:
                raise DatasetError(
                    f"Case '{case.identifier}' would be stored in {name}, which belongs to '{owners[name]}'; rename "
                    "its files."
                )
            owners[name] = case.identifier
