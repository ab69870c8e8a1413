"""List, download, import and verify SAM's official checkpoints, and samunet's own. Only 'download' uses the network.

Next: samunet_plan_and_preprocess -d DATASET -backbone vit_b
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from samunet.cli.common import Actions, Quiet, agrees, run_action
from samunet.core.units import counted, readable

if TYPE_CHECKING:
    from samunet.sam.checkpoints import OfficialCheckpoint


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What there is, and where it lies on this machine."""


@dataclass(frozen=True, kw_only=True)
class Trust:
    """Whether a file may be used."""

    sha256: Annotated[str | None, "--sha256 HASH"] = None
    """The file's hash, where its authors publish none."""
    yes: bool = False
    """Accept a file whose hash nobody publishes; the hash is recorded."""

    def accepts(self, found: str) -> bool:
        """Tell whether a file with a hash that nobody publishes may be used; asks where somebody can answer."""
        return agrees(self.yes, f"Nobody publishes a SHA-256 of this file; the one here has {found}. Use it?")


@dataclass(frozen=True, kw_only=True)
class Download(Trust):
    """Fetch a checkpoint; an interrupted download is continued."""

    name: Annotated[str, "NAME"]
    """See 'list'."""
    quiet: Quiet = False


@dataclass(frozen=True, kw_only=True)
class Import(Trust):
    """Copy a file that you have into the weights folder."""

    file: Annotated[Path, "FILE"]
    """Checkpoint in the official layout."""
    name: Annotated[str | None, "--name NAME"] = None
    """Which checkpoint it is, where no hash tells."""


@dataclass(frozen=True, kw_only=True)
class Verify:
    """Read every checkpoint again and compare its hash."""

    names: Annotated[tuple[str, ...], "NAME"] = ()
    """See 'list' (default: all that are here)."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    actions: Actions = {
        "list": (Listing, _list),
        "download": (Download, _download),
        "import": (Import, _import),
        "verify": (Verify, _verify),
    }
    return run_action("samunet_weights", __doc__, actions, argv)


def _folders() -> Sequence[Path]:
    from samunet.core.workspace import workspace_from_environment

    return workspace_from_environment().weights_folders


def _list(_: Listing) -> None:
    from samunet.checkpoints.seeds import shipped_seeds
    from samunet.sam.checkpoints import CHECKPOINTS, find_checkpoint

    folders = _folders()
    for checkpoint in CHECKPOINTS:
        where = find_checkpoint(checkpoint, folders)
        print(
            f"{checkpoint.name:<13} {checkpoint.backbone}  {readable(checkpoint.size):>8}  "
            f"{where or 'not here: ' + checkpoint.url}"
        )
    print(f"Looked in: {', '.join(map(str, folders))}")
    for path in shipped_seeds():
        print(f"{path.stem:<13} samunet's own, from procedural scenes  {readable(path.stat().st_size):>8}  {path}")


def _download(options: Download) -> None:
    from samunet.sam.checkpoints import checkpoint_named, find_checkpoint
    from samunet.sam.download import download

    folders = _folders()
    checkpoint = checkpoint_named(options.name)
    if (there := find_checkpoint(checkpoint, folders)) is not None:
        print(f"{checkpoint.name} is here already: {there}   (samunet_weights verify {checkpoint.name} reads it again)")
        return
    target = folders[0] / checkpoint.file
    print(f"Downloading {checkpoint.url} ({readable(checkpoint.size)}) to {target}")
    sha256 = download(checkpoint, target, given=options.sha256, accept=options.accepts, quiet=options.quiet)
    print(f"{checkpoint.name}: {target}, SHA-256 {sha256}")


def _import(options: Import) -> None:
    import shutil

    from samunet.core.codec import atomic_path, file_sha256
    from samunet.errors import CheckpointError, WeightsAbsentError
    from samunet.sam.backbones import backbone_named
    from samunet.sam.checkpoints import record_sha256
    from samunet.sam.weights import check_weights

    folders = _folders()
    if not options.file.is_file():
        raise WeightsAbsentError(f"Weights file {options.file} does not exist.")
    found = file_sha256(options.file)
    checkpoint = _recognized(options, found)
    if options.file.suffix == ".safetensors":
        raise CheckpointError(
            f"{options.file}: official files are .pth; use this one where it lies, with -weights FILE --sha256 {found}."
        )
    check_weights(backbone_named(checkpoint.backbone), options.file)
    target = folders[0] / checkpoint.file
    with atomic_path(target) as temporary:
        shutil.copyfile(options.file, temporary)
    if checkpoint.sha256 is None:
        record_sha256(target, found)
    print(f"{checkpoint.name}: {target}, SHA-256 {found}")


def _recognized(options: Import, found: str) -> OfficialCheckpoint:
    """Tell which official checkpoint a file with the SHA-256 `found` is: by its hash, or by name and consent where none
    is published.
    """
    from samunet.errors import CheckpointError
    from samunet.sam.checkpoints import CHECKPOINTS

    by_hash = [known for known in CHECKPOINTS if known.sha256 == found]
    if by_hash:
        return by_hash[0]
    by_name = [known for known in CHECKPOINTS if (options.name or options.file.name) in (known.name, known.file)]
    if not by_name or by_name[0].sha256 is not None:
        raise CheckpointError(
            f"Weights file {options.file} (SHA-256 {found}) is none of the official files with a published hash; it is "
            "damaged or another. Get it again, or add --name where its authors publish none (samunet_weights list), or "
            f"use it where it lies: samunet_plan_experiment -d DATASET -weights FILE --sha256 {found}"
        )
    checkpoint = by_name[0]
    if options.sha256 is not None and options.sha256.lower() != found:
        raise CheckpointError(
            f"Weights file {options.file} has SHA-256 {found}; --sha256 says {options.sha256}. It is another file."
        )
    if options.sha256 is None and not options.accepts(found):
        raise CheckpointError(
            f"No SHA-256 of {checkpoint.name} is published, and that of {options.file}, {found}, was not accepted. "
            "Add --yes to use it."
        )
    return checkpoint


def _verify(options: Verify) -> None:
    from samunet.errors import CheckpointError, SamunetError

    checks = _checks(options.names)
    if not checks:
        folders = ", ".join(map(str, _folders()))
        print(f"No checkpoint lies in {folders}. Get one with: samunet_weights download sam_vit_b")
    bad = []
    for name, check in checks.items():
        try:
            whole = check()
        except SamunetError as error:
            bad.append(name)
            print(f"{name}: {error}")
        else:
            print(f"{name}: whole, {whole}")
    if bad:
        raise CheckpointError(
            f"{len(bad)} of {counted(len(checks), 'checkpoint')} cannot be used: {', '.join(bad)}. Remove the files "
            "and get them "
            "again."
        )


def _checks(names: Sequence[str]) -> dict[str, Callable[[], str]]:
    """Return what reads each of these files, or all that are here, again; it says where the file is, with its hash."""
    from samunet.checkpoints.seeds import load_seed, shipped_seeds
    from samunet.sam.backbones import backbone_named
    from samunet.sam.checkpoints import CHECKPOINTS, checkpoint_named, find_checkpoint, find_weights, trusted_sha256
    from samunet.sam.weights import check_weights

    folders, seeds = _folders(), {path.stem: path for path in shipped_seeds()}

    def of_seed(path: Path) -> str:
        return f"{path}, {load_seed(path).card['contains']}"

    def official(checkpoint: OfficialCheckpoint, path: Path) -> str:
        sha256 = trusted_sha256(path, folders=folders)
        check_weights(backbone_named(checkpoint.backbone), path)
        return f"{path}, SHA-256 {sha256}"

    checks: dict[str, Callable[[], str]] = {
        name: partial(of_seed, path) for name, path in seeds.items() if name in names or not names
    }
    wanted = [checkpoint_named(name) for name in names if name not in seeds] if names else CHECKPOINTS
    for checkpoint in wanted:
        path = find_weights(checkpoint.name, folders) if names else find_checkpoint(checkpoint, folders)
        if path is not None:
            checks[checkpoint.name] = partial(official, checkpoint, path)
    return checks
