"""Trained models as zip files: what is in them is listed with its SHA-256, and nothing is written before all of it is verified."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from samunet import __version__
from samunet.checkpoint import load_checkpoint
from samunet.core.codec import atomic_path, decode, encode, file_sha256, parse_json, read_json
from samunet.core.parts import naming, part_name, remove_dead_parts
from samunet.core.plan import Plan, load_plan
from samunet.core.results import FINAL, checkpoint_file, finished_folds
from samunet.core.units import readable
from samunet.core.workspace import Workspace
from samunet.errors import CheckpointError, ConfigError
from samunet.evaluation.summary import SUMMARY
from samunet.network import check_frozen_weights
from samunet.sam.checkpoints import find_weights

FORMAT = 1
MANIFEST, CARD = "samunet_model.json", "MODEL_CARD.md"
WEIGHTS = "weights"  # folder of frozen weights within the zip
OF_FOLD = ("config.json", "log.jsonl", "progress.png")  # what names no path of the machine
SCORES = f"validation/{SUMMARY}"
OF_MODEL = ("dataset.json", "postprocessing.json")
DAY_ONE = (1980, 1, 1, 0, 0, 0)  # equal models give equal files
CHUNK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One file of a zip."""

    sha256: str
    size: int
    """Bytes."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a zip holds."""

    format: int
    samunet: str
    """Version that wrote it."""
    model: str
    """Path of the model's folder below nnUNet_results."""
    license: str
    weights: str | None
    """File name of the frozen weights below the model; None without."""
    weights_sha256: str | None
    files: dict[str, Entry]
    """By path in the zip; the manifest itself is not among them."""


def export_model(
    folder: Path, target: Path, *, folds: Sequence[str] | None, checkpoint: str, license_text: str, embed: bool, weights_folders: Sequence[Path]
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
    chosen = tuple(folds) if folds is not None else finished_folds(folder, name)
    if not chosen:
        raise CheckpointError(f"Model {folder} has no fold with {name}; train one first, or name another checkpoint with -chk.")
    plan = load_plan(folder / "plans.json")
    configuration = plan.configuration(folder.name.rsplit("__", 1)[-1])
    for fold in chosen:
        path = folder / f"fold_{fold}" / name
        check_frozen_weights(load_checkpoint(path, with_optimizer=False).state, configuration, path)
    sources: dict[str, Path | bytes] = {}
    model = f"{folder.parent.name}/{folder.name}"
    for fold in chosen:
        kept = (name, *OF_FOLD)
        sources |= {f"{model}/fold_{fold}/{file}": folder / f"fold_{fold}" / file for file in kept if (folder / f"fold_{fold}" / file).is_file()}
        if (scores := folder / f"fold_{fold}" / SCORES).is_file():
            sources[f"{model}/fold_{fold}/{SCORES}"] = _scores_without_paths(scores)
    sources |= {f"{model}/{file}": folder / file for file in OF_MODEL if (folder / file).is_file()}
    sources[f"{model}/plans.json"] = (json.dumps(encode(_without_paths(plan)), indent=2) + "\n").encode()
    weights = None if configuration.weights is None else Path(configuration.weights).name
    if embed and configuration.weights is not None:
        path = find_weights(configuration.weights, weights_folders)
        if file_sha256(path) != configuration.weights_sha256:
            raise CheckpointError(f"{path} is not the file that the model stands on (SHA-256 {configuration.weights_sha256}).")
        sources[f"{WEIGHTS}/{weights}"] = path
    sources[CARD] = _card(plan, model, chosen, license_text, weights).encode()
    files = {path: _entry(source) for path, source in sorted(sources.items())}
    sha256 = configuration.weights_sha256
    manifest = Manifest(format=FORMAT, samunet=__version__, model=model, license=license_text, weights=weights, weights_sha256=sha256, files=files)
    with atomic_path(target) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        _write(archive, MANIFEST, (json.dumps(encode(manifest), indent=2) + "\n").encode())
        for path in files:
            _write(archive, path, sources[path])
    return manifest


def install_model(source: Path, workspace: Workspace, *, overwrite: bool) -> Path:
    """Verify a zip and put its model into nnUNet_results; returns the model's folder.

    Frozen weights that are packed go to the first folder of checkpoints, unless a file of that name is there.

    Raises:
        CheckpointError: the file is no model of samunet, is damaged, or holds what its manifest does not list, links, or paths that lead elsewhere.
        ConfigError: the model is there already.
    """
    with _opened(source) as archive:
        manifest = _manifest(archive, source)
        target = workspace.results / manifest.model
        if target.exists() and not overwrite:
            raise ConfigError(f"{target} exists already; move it away, or replace it with --overwrite.")
        workspace.results.mkdir(parents=True, exist_ok=True)
        remove_dead_parts(workspace.results)
        needed, free = sum(entry.size for entry in manifest.files.values()), shutil.disk_usage(workspace.results).free
        if needed > free:
            raise CheckpointError(f"{source} unpacks to {readable(needed)}, and {readable(free)} are free in {workspace.results}.")
        with naming(target), tempfile.TemporaryDirectory(prefix=f"{part_name()}-", dir=workspace.results) as temporary:
            for path, entry in manifest.files.items():
                _extract(archive, path, entry, Path(temporary, path), source)
            model = Path(temporary, manifest.model)
            if not (model / "plans.json").is_file():
                raise CheckpointError(f"{source} holds no plans.json of its model; export the model again.")
            load_plan(model / "plans.json")
            for fold in finished_folds(model):
                load_checkpoint(model / f"fold_{fold}" / FINAL, with_optimizer=False)
            for weights in Path(temporary, WEIGHTS).glob("*"):
                kept = workspace.weights_folders[0] / weights.name
                if not kept.exists():
                    with atomic_path(kept) as part:
                        shutil.copyfile(weights, part)
            _put(model, target, Path(temporary, "replaced"))
    return target


def _put(model: Path, target: Path, aside: Path) -> None:
    """Move a model to its place; what was there comes back when that fails."""
    target.parent.mkdir(parents=True, exist_ok=True)
    replaces = target.exists()
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
        name: entry if entry.weights is None else replace(entry, weights=Path(entry.weights).name) for name, entry in plan.configurations.items()
    }
    return replace(plan, configurations=entries)


def _scores_without_paths(path: Path) -> bytes:
    raw = read_json(path)
    for case in raw["metric_per_case"]:
        case |= {key: Path(case[key]).name for key in ("prediction_file", "reference_file")}
    return (json.dumps(raw, indent=4, sort_keys=True) + "\n").encode()


def _card(plan: Plan, model: str, folds: Sequence[str], license_text: str, weights: str | None) -> str:
    scored = f"Folds: {', '.join(folds)}. Scores of their validation cases are in `fold_<n>/validation/summary.json` where they were made."
    frozen = (
        f"It stands on the frozen weights `{weights}`, which have a licence of their own." if weights else "All its weights are in the checkpoints."
    )
    return (
        f"# {model}\n\nA segmentation model of samunet {__version__} for {plan.dataset}. {frozen}\n\n{scored}\n\nLicence: {license_text}\n\n"
        f"Install: `samunet_install_pretrained_model_from_zip FILE`. Not a medical device.\n"
    )


def _entry(source: Path | bytes) -> Entry:
    if isinstance(source, bytes):
        return Entry(sha256=hashlib.sha256(source).hexdigest(), size=len(source))
    return Entry(sha256=file_sha256(source), size=source.stat().st_size)


def _write(archive: zipfile.ZipFile, path: str, source: Path | bytes) -> None:
    info = zipfile.ZipInfo(path, DAY_ONE)
    info.external_attr = 0o644 << 16
    info.compress_type = zipfile.ZIP_DEFLATED if isinstance(source, bytes) or source.suffix != ".safetensors" else zipfile.ZIP_STORED
    with archive.open(info, "w", force_zip64=True) as target, io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
        shutil.copyfileobj(file, target, CHUNK)


@contextmanager
def _opened(source: Path) -> Iterator[zipfile.ZipFile]:
    if not source.is_file():
        raise CheckpointError(f"{source} does not exist; give the zip file of a model.")
    try:
        with zipfile.ZipFile(source) as archive:
            yield archive
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:  # the last of encrypted files and unknown compression
        raise CheckpointError(f"{source} is no zip file, or damaged ({error}); copy or download it again.") from None


def _manifest(archive: zipfile.ZipFile, source: Path) -> Manifest:
    """Read the manifest, and refuse a zip that holds anything else than what it lists."""
    infos = {info.filename: info for info in archive.infolist()}
    if MANIFEST not in infos or infos[MANIFEST].file_size > CHUNK:
        raise CheckpointError(f"{source} is not a model of samunet; it has no {MANIFEST}.")
    try:
        manifest = decode(Manifest, parse_json(archive.read(MANIFEST), MANIFEST), MANIFEST)
    except ConfigError as error:
        raise CheckpointError(f"{source} has a manifest that cannot be read ({error}); export the model again.") from None
    if manifest.format != FORMAT:
        raise CheckpointError(f"{source} has format {manifest.format}; this version of samunet reads format {FORMAT}.")
    for path in (*infos, manifest.model):
        _refuse_path(path, source)
    if len(PurePosixPath(manifest.model).parts) != 2:
        raise CheckpointError(f"{source} names the model folder '{manifest.model}', expected <dataset>/<trainer>__<plans>__<configuration>.")
    if set(infos) != {MANIFEST, *manifest.files} or len(infos) != len(archive.infolist()):
        others = sorted(set(infos) ^ {MANIFEST, *manifest.files})
        raise CheckpointError(f"{source} does not hold what its manifest lists, first {others[:3] or 'a file that is there twice'}.")
    for path, entry in manifest.files.items():
        if not (path == CARD or path.startswith((f"{manifest.model}/", f"{WEIGHTS}/"))):
            raise CheckpointError(f"{source} holds {path}, which belongs to no model.")
        mode = infos[path].external_attr >> 16
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
            raise CheckpointError(f"{source} holds a link or a device, {path}; a model holds plain files only.")
        if infos[path].file_size != entry.size:
            raise CheckpointError(f"{source}: {path} has {infos[path].file_size} bytes, its manifest says {entry.size}.")
    return manifest


def _refuse_path(path: str, source: Path) -> None:
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or "\\" in path or ":" in path or "\0" in path or not pure.parts:
        raise CheckpointError(f"{source} holds the path '{path}', which leads elsewhere; do not use this file.")


def _extract(archive: zipfile.ZipFile, path: str, entry: Entry, target: Path, source: Path) -> None:
    """Unpack one file and verify it; zipfile gives no more than the size that was compared with the manifest."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(path) as packed, target.open("wb") as file:
        shutil.copyfileobj(packed, file, CHUNK)
        file.flush()
        os.fsync(file.fileno())
    if file_sha256(target) != entry.sha256:
        raise CheckpointError(f"{source}: {path} is not the file that the manifest lists; copy or download the zip again.")
