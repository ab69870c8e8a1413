"""Preprocess a whole dataset; what is done already stays."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any

from samunet.core.codec import encode, file_sha256, read_json, write_json
from samunet.core.dataset import Case, DatasetSpec
from samunet.core.plan import Configuration, Plan
from samunet.errors import DatasetError, SamunetError
from samunet.imageio import ImageReader
from samunet.imageio.case import read_case
from samunet.preprocessing.forward import preprocess
from samunet.progress import each
from samunet.storage import case_of, remove_case, save_case, stored_cases

logger = logging.getLogger(__name__)

RECORD, DESCRIPTION = "made_from.json", "dataset.json"
SHOWN = 20  # failures in a message
FORMAT = 1  # of what is stored; raise it when preprocessing gives other values


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

    Cases that lie there already, made from the same files in the same way, are left alone; others that lie there are removed.

    Raises:
        DatasetError: some cases cannot be read or written; they are named, and the others are done.
    """
    settings = _settings(spec, plan, configuration, reader)
    record = _read_record(folder)
    done: dict[str, str] = record.get("cases", {}) if record.get("settings") == settings else {}
    (folder / DESCRIPTION).unlink(missing_ok=True)
    _remove_others(folder, {case.identifier for case in cases} & set(done))
    there, lock = set(stored_cases(folder)), Lock()

    def run(case: Case) -> str | None:
        try:
            files = _digest([file_sha256(path) for path in (*case.images, *([case.label] if case.label else []))])
            if case.identifier in there and done.get(case.identifier) == files:
                return None
            remove_case(folder, case.identifier)
            volume, label = read_case(case, spec, reader)
            save_case(folder, case.identifier, preprocess(volume, label, plan, configuration), spec.labels, configuration.patch_size)
        except (SamunetError, OSError, MemoryError) as error:
            return f"case '{case.identifier}': {error or 'out of memory'}"
        with lock:
            done[case.identifier] = files
            write_json(folder / RECORD, {"settings": settings, "cases": dict(sorted(done.items()))})
        return None

    failures = [failure for failure in each(run, cases, threads=threads, title=f"Preprocessing {folder.name}", quiet=quiet) if failure]
    if failures:
        raise DatasetError(
            f"{len(failures)} of {len(cases)} cases could not be preprocessed; the others are done, and the next run leaves them alone.\n"
            + "\n".join(failures[:SHOWN])
        )
    write_json(folder / DESCRIPTION, spec.raw)  # last, so a folder that has it is whole


def _remove_others(folder: Path, kept: set[str]) -> None:
    """Remove what lies in the folder of all cases but those to keep."""
    for path in folder.iterdir() if folder.is_dir() else ():
        name = case_of(path)
        if name is not None and name not in kept and path.name != RECORD:
            path.unlink()


def _settings(spec: DatasetSpec, plan: Plan, configuration: Configuration, reader: ImageReader) -> str:
    """Hash everything but the files that a preprocessed case depends on."""
    decided = [reader.name, encode(plan.transpose), encode(plan.channels), configuration.dimensions, encode(configuration.spacing)]
    return _digest([FORMAT, *decided, spec.raw["labels"]])


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _read_record(folder: Path) -> dict[str, Any]:
    """What an earlier run noted; nothing where it is absent or unreadable, so that everything is made anew."""
    try:
        record = read_json(folder / RECORD) if (folder / RECORD).is_file() else {}
    except SamunetError as error:
        logger.info("%s All cases are preprocessed again.", error)
        return {}
    return record if isinstance(record, dict) else {}
