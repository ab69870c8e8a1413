"""Trained models as zip files: what is in them is listed with its SHA-256, and nothing is written before all of it is
verified.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from samunet import __version__
from samunet.checkpoints.file import check_frozen_weights, load_checkpoint
from samunet.checkpoints.model_card import CARD, SCORES, model_card
from samunet.checkpoints.zip_manifest import (
    CHECKPOINT_ENDING,
    CHUNK,
    DESCRIPTION,
    MANIFEST,
    OF_FOLD,
    OF_ITS_CASES,
    OF_MODEL,
    PACKED_CARD,
    PLAN,
    POSTPROCESSING,
    WEIGHTS,
    ZIP_FORMAT,
    Entry,
    Manifest,
    extract,
    opened,
    read_manifest,
)
from samunet.core.codec import atomic_path, encode, file_sha256, read_json, write_text
from samunet.core.dataset import read_dataset_json
from samunet.core.lock import held
from samunet.core.names import LONGEST_FILE_NAME, fault_of_name
from samunet.core.parts import naming, part_name
from samunet.core.plan import Plan, load_plan
from samunet.core.results import checkpoint_file, finished_folds
from samunet.core.units import readable
from samunet.core.workspace import Workspace
from samunet.errors import CheckpointError, ConfigError, SamunetError
from samunet.evaluation.postprocessing import load_postprocessing
from samunet.evaluation.summary import read_summary
from samunet.sam.checkpoints import find_weights, refuse_foreign

DAY_ONE = (1980, 1, 1, 0, 0, 0)  # equal models give equal files


def export_model(
    folder: Path,
    target: Path,
    *,
    folds: Sequence[str] | None,
    checkpoint: str,
    license_text: str,
    embed: bool,
    weights_folders: Sequence[Path],
) -> Manifest:
    """Write folds of a model folder to a zip, whole or not at all.

    Args:
        folder: `<results>/<dataset>/<Trainer>__<plans>__<configuration>`.
        folds: None for all that have the checkpoint.
        license_text: under which the model may be used, for its card.
        embed: pack the frozen weights too, so that the zip predicts without any other file.

    Raises:
        CheckpointError: a fold has no such checkpoint, or folds stand on other frozen weights.
        WeightsAbsentError: the frozen weights are to be packed and are not on this machine.
    """
    name = checkpoint_file(checkpoint)
    packed_folds = tuple(folds) if folds is not None else finished_folds(folder, name)
    if not packed_folds:
        raise CheckpointError(
            f"Model {folder} has no fold with {name}; train one first, or name another checkpoint with -chk."
        )
    plan = load_plan(folder / PLAN)
    configuration = plan.configuration(folder.name.rsplit("__", 1)[-1])
    for fold in packed_folds:
        path = folder / f"fold_{fold}" / name
        check_frozen_weights(load_checkpoint(path, with_optimizer=False).state, configuration, path)
    sources: dict[str, Path | bytes] = {}
    model = f"{folder.parent.name}/{folder.name}"
    for fold in packed_folds:
        kept = (name, *OF_FOLD)
        sources |= {
            f"{model}/fold_{fold}/{file}": folder / f"fold_{fold}" / file
            for file in kept
            if (folder / f"fold_{fold}" / file).is_file()
        }
        if (scores := folder / f"fold_{fold}" / SCORES).is_file():
            sources[f"{model}/fold_{fold}/{SCORES}"] = _scores_without_paths(scores)
    sources |= {f"{model}/{file}": folder / file for file in OF_MODEL if (folder / file).is_file()}
    described = {key: value for key, value in read_json(folder / DESCRIPTION).items() if key not in OF_ITS_CASES}
    sources[f"{model}/{DESCRIPTION}"] = (json.dumps(described, indent=2) + "\n").encode()
    sources[f"{model}/{PLAN}"] = (json.dumps(encode(_without_paths(plan)), indent=2) + "\n").encode()
    weights = None if configuration.weights is None else Path(configuration.weights).name
    if embed and configuration.weights is not None:
        path = find_weights(configuration.weights, weights_folders)
        refuse_foreign(path.name, configuration.weights_sha256)
        if file_sha256(path) != configuration.weights_sha256:
            raise CheckpointError(
                f"{path} is not the file that the model stands on (SHA-256 {configuration.weights_sha256})."
            )
        sources[f"{WEIGHTS}/{weights}"] = path
    sources[PACKED_CARD] = model_card(folder, folds=packed_folds, license_text=license_text).encode()
    files = {path: _entry(source) for path, source in sorted(sources.items())}
    sha256 = configuration.weights_sha256
    manifest = Manifest(
        format=ZIP_FORMAT,
        samunet=__version__,
        model=model,
        license=license_text,
        weights=weights,
        weights_sha256=sha256,
        files=files,
    )
    with atomic_path(target) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        _write(archive, MANIFEST, (json.dumps(encode(manifest), indent=2) + "\n").encode())
        for member in files:
            _write(archive, member, sources[member])
    return manifest


def install_model(source: Path, workspace: Workspace, *, overwrite: bool) -> Path:
    """Verify a zip and put its model into nnUNet_results; returns the model's folder.

    Frozen weights that are packed go to the first folder of checkpoints, unless a file of that name is there.

    Raises:
        CheckpointError: the file is no model of samunet, is damaged, lacks a part of a model that can predict, holds
            what its manifest does not list or its plan does not need, links, names that lead elsewhere; or another file
            of the frozen weights' name is there.
        ConfigError: the model is there already.
        InUseError: another command installs it, or trains a fold of the model that is there.
    """
    with opened(source) as archive, ExitStack() as stack:
        manifest = read_manifest(archive, source)
        stack.enter_context(held(workspace.results, name=manifest.model.replace("/", "__")))
        target = workspace.results / manifest.model
        if target.exists() and not overwrite:
            raise ConfigError(f"{target} exists already; move it away, or replace it with --overwrite.")
        needed, free = sum(entry.size for entry in manifest.files.values()), shutil.disk_usage(workspace.results).free
        if needed > free:
            raise CheckpointError(
                f"{source} unpacks to {readable(needed)}, and {readable(free)} are free in {workspace.results}."
            )
        with naming(target), tempfile.TemporaryDirectory(prefix=f"{part_name()}-", dir=workspace.results) as temporary:
            for path, entry in manifest.files.items():
                extract(archive, path, entry, Path(temporary, path), source)
            model = Path(temporary, manifest.model)
            try:
                _refuse_unfit(model, manifest)
                folds = [path.name.removeprefix("fold_") for path in sorted(model.glob("fold_*"))]
                # Made again, as the packed one may say anything.
                card = model_card(model, folds=folds, license_text=manifest.license, version=manifest.samunet)
                write_text(model / CARD, card)
            except SamunetError as error:
                raise CheckpointError(
                    f"{source} holds no model that can predict: {str(error).replace(f'{temporary}{os.sep}', '')}"
                ) from None
            if manifest.packed is not None:
                _keep_weights(Path(temporary, manifest.packed), manifest, workspace.weights_folders[0])
            _put(model, target, Path(temporary, "replaced"))
    return target


def _refuse_unfit(model: Path, manifest: Manifest) -> None:
    """Raise SamunetError unless the files of a model can be read and belong together, the frozen weights with them."""
    plan, name = load_plan(model / PLAN), model.name.rsplit("__", 1)[-1]
    read_dataset_json(model / "dataset.json")
    configuration = plan.configuration(name)
    for entry in plan.configurations.values():
        if entry.weights is not None and (fault := fault_of_name(entry.weights, LONGEST_FILE_NAME)) is not None:
            raise CheckpointError(
                f"{PLAN} names the weights {entry.weights!r}, whose name {fault}; a file's name without folder was "
                "expected."
            )
    if (configuration.weights, configuration.weights_sha256) != (manifest.weights, manifest.weights_sha256):
        raise CheckpointError(f"{PLAN} and {MANIFEST} name different frozen weights; export the model again.")
    if manifest.packed is not None and manifest.files[manifest.packed].sha256 != configuration.weights_sha256:
        raise CheckpointError(
            f"{manifest.packed} is not the file that {PLAN} names (SHA-256 {configuration.weights_sha256}); export the "
            "model again."
        )
    if (model / POSTPROCESSING).is_file():
        load_postprocessing(model / POSTPROCESSING)
    for scores in model.glob(f"fold_*/{SCORES}"):
        read_summary(scores)
    for path in sorted(model.glob(f"fold_*/*{CHECKPOINT_ENDING}")):
        state = load_checkpoint(path, with_optimizer=False).state
        if state.configuration != name:
            raise CheckpointError(
                f"{path} was trained as {state.configuration!r}, its model is {name}; export the model again."
            )
        check_frozen_weights(state, configuration, path)


def _keep_weights(packed: Path, manifest: Manifest, folder: Path) -> None:
    """Copy verified frozen weights to a folder of checkpoints, unless the same file is there."""
    kept = folder / packed.name
    if not kept.exists():
        refuse_foreign(packed.name, manifest.weights_sha256)
        with atomic_path(kept) as part:
            shutil.copyfile(packed, part)
    elif file_sha256(kept) != manifest.weights_sha256:
        raise CheckpointError(
            f"{kept} is another file than the model stands on (SHA-256 {manifest.weights_sha256}); move it away."
        )


def _put(model: Path, target: Path, aside: Path) -> None:
    """Move a model to its place; what was there comes back when that fails."""
    target.parent.mkdir(parents=True, exist_ok=True)
    replaces = target.exists()
    with ExitStack() as stack:
        for fold in filter(Path.is_dir, target.glob("fold_*")):
            stack.enter_context(held(fold))
        if replaces:
            os.replace(target, aside)
        try:
            os.replace(model, target)
        except OSError:
            if replaces:
                os.replace(aside, target)
            raise


def _without_paths(plan: Plan) -> Plan:
    """Keep of frozen weights the file's name: where it lay is nobody's business, and it is found by name."""
    entries = {
        name: entry if entry.weights is None else replace(entry, weights=Path(entry.weights).name)
        for name, entry in plan.configurations.items()
    }
    return replace(plan, configurations=entries)


def _scores_without_paths(path: Path) -> bytes:
    raw = read_json(path)
    for case in raw["metric_per_case"]:
        case |= {key: Path(case[key]).name for key in ("prediction_file", "reference_file")}
    return (json.dumps(raw, indent=4, sort_keys=True) + "\n").encode()


def _entry(source: Path | bytes) -> Entry:
    if isinstance(source, bytes):
        return Entry(sha256=hashlib.sha256(source).hexdigest(), size=len(source))
    return Entry(sha256=file_sha256(source), size=source.stat().st_size)


def _write(archive: zipfile.ZipFile, path: str, source: Path | bytes) -> None:
    info = zipfile.ZipInfo(path, DAY_ONE)
    info.external_attr = 0o644 << 16
    info.compress_type = (
        zipfile.ZIP_DEFLATED if isinstance(source, bytes) or source.suffix != CHECKPOINT_ENDING else zipfile.ZIP_STORED
    )
    with (
        archive.open(info, "w", force_zip64=True) as target,
        io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file,
    ):
        shutil.copyfileobj(file, target, CHUNK)
