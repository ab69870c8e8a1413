"""samunet_weights: list, download, import and verify SAM's official checkpoints."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from samunet.cli.common import make_parser, run
from samunet.core.units import readable

if TYPE_CHECKING:
    from samunet.sam.checkpoints import OfficialCheckpoint


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = make_parser(
        "samunet_weights",
        "List, download, import and verify SAM's official checkpoints. Only 'download' uses the network.",
        "Next: samunet_plan_and_preprocess -d DATASET -backbone vit_b",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    actions.add_parser("list", help="what there is, and where it lies on this machine")
    download = actions.add_parser("download", help="fetch a checkpoint; an interrupted download is continued")
    download.add_argument("name", metavar="NAME", help="see 'list'")
    download.add_argument("--no_pbar", action="store_true", help="no progress bar")
    bring = actions.add_parser("import", help="copy a file that you have into the weights folder")
    bring.add_argument("file", type=Path, metavar="FILE", help="checkpoint in the official layout")
    bring.add_argument("--name", metavar="NAME", help="which checkpoint it is, where no hash tells")
    for action in (download, bring):
        action.add_argument("--sha256", metavar="HASH", help="the file's hash, where its authors publish none")
        action.add_argument(
            "--yes", action="store_true", help="accept a file whose hash nobody publishes; the hash is recorded"
        )
    verify = actions.add_parser("verify", help="read every checkpoint again and compare its hash")
    verify.add_argument("name", nargs="*", metavar="NAME", help="see 'list' (default: all that are here)")
    return run(parser, _command, argv)


def _command(arguments: argparse.Namespace) -> None:
    from samunet.core.workspace import workspace_from_environment

    folders = workspace_from_environment().weights_folders
    {"list": _list, "download": _download, "import": _import, "verify": _verify}[arguments.action](arguments, folders)


def _list(arguments: argparse.Namespace, folders: Sequence[Path]) -> None:
    from samunet.sam.checkpoints import CHECKPOINTS, find_checkpoint

    for checkpoint in CHECKPOINTS:
        where = find_checkpoint(checkpoint, folders)
        print(
            f"{checkpoint.name:<13} {checkpoint.backbone}  {readable(checkpoint.size):>8}  "
            f"{where or 'not here: ' + checkpoint.url}"
        )
    print(f"Looked in: {', '.join(map(str, folders))}")


def _download(arguments: argparse.Namespace, folders: Sequence[Path]) -> None:
    from samunet.sam.checkpoints import checkpoint_named, find_checkpoint
    from samunet.sam.download import download

    checkpoint = checkpoint_named(arguments.name)
    if (there := find_checkpoint(checkpoint, folders)) is not None:
        print(f"{checkpoint.name} is here already: {there}   (samunet_weights verify {checkpoint.name} reads it again)")
        return
    target = folders[0] / checkpoint.file
    print(f"Downloading {checkpoint.url} ({readable(checkpoint.size)}) to {target}")
    sha256 = download(
        checkpoint,
        target,
        given=arguments.sha256,
        accept=lambda found: _accepted(found, arguments),
        quiet=arguments.no_pbar,
    )
    print(f"{checkpoint.name}: {target}, SHA-256 {sha256}")


def _import(arguments: argparse.Namespace, folders: Sequence[Path]) -> None:
    import shutil

    from samunet.core.codec import atomic_path, file_sha256
    from samunet.errors import CheckpointError, WeightsAbsentError
    from samunet.sam.backbones import backbone_named
    from samunet.sam.checkpoints import record_sha256
    from samunet.sam.weights import check_weights

    if not arguments.file.is_file():
        raise WeightsAbsentError(f"Weights file {arguments.file} does not exist.")
    found = file_sha256(arguments.file)
    checkpoint = _recognized(arguments, found)
    if arguments.file.suffix == ".safetensors":
        raise CheckpointError(
            f"{arguments.file}: official files are .pth; use this one where it lies, with -weights FILE --sha256 "
            f"{found}."
        )
    check_weights(backbone_named(checkpoint.backbone), arguments.file)
    target = folders[0] / checkpoint.file
    with atomic_path(target) as temporary:
        shutil.copyfile(arguments.file, temporary)
    if checkpoint.sha256 is None:
        record_sha256(target, found)
    print(f"{checkpoint.name}: {target}, SHA-256 {found}")


def _recognized(arguments: argparse.Namespace, found: str) -> OfficialCheckpoint:
    """Tell which official checkpoint a file with the SHA-256 `found` is: by its hash, or by name and consent where none
    is published.
    """
    from samunet.errors import CheckpointError
    from samunet.sam.checkpoints import CHECKPOINTS

    by_hash = [known for known in CHECKPOINTS if known.sha256 == found]
    if by_hash:
        return by_hash[0]
    by_name = [known for known in CHECKPOINTS if (arguments.name or arguments.file.name) in (known.name, known.file)]
    if not by_name or by_name[0].sha256 is not None:
        raise CheckpointError(
            f"Weights file {arguments.file} (SHA-256 {found}) is none of the official files with a published hash; it "
            "is damaged or another. "
            "Get it again, or add --name where its authors publish none (samunet_weights list), or use it where it "
            "lies: "
            f"samunet_plan_experiment -d DATASET -weights FILE --sha256 {found}"
        )
    checkpoint = by_name[0]
    if arguments.sha256 is not None and arguments.sha256.lower() != found:
        raise CheckpointError(
            f"Weights file {arguments.file} has SHA-256 {found}; --sha256 says {arguments.sha256}. It is another file."
        )
    if arguments.sha256 is None and not _accepted(found, arguments):
        raise CheckpointError(
            f"No SHA-256 of {checkpoint.name} is published, and that of {arguments.file}, {found}, was not accepted. "
            "Add --yes to use it."
        )
    return checkpoint


def _verify(arguments: argparse.Namespace, folders: Sequence[Path]) -> None:
    from samunet.errors import CheckpointError, SamunetError
    from samunet.sam.backbones import backbone_named
    from samunet.sam.checkpoints import CHECKPOINTS, checkpoint_named, find_checkpoint, find_weights, trusted_sha256
    from samunet.sam.weights import check_weights

    if arguments.name:
        wanted = [
            (checkpoint, find_weights(checkpoint.name, folders)) for checkpoint in map(checkpoint_named, arguments.name)
        ]
    else:
        wanted = [
            (checkpoint, path)
            for checkpoint in CHECKPOINTS
            if (path := find_checkpoint(checkpoint, folders)) is not None
        ]
    if not wanted:
        print(f"No checkpoint lies in {', '.join(map(str, folders))}. Get one with: samunet_weights download sam_vit_b")
    bad = []
    for checkpoint, path in wanted:
        try:
            sha256 = trusted_sha256(path, folders=folders)
            check_weights(backbone_named(checkpoint.backbone), path)
        except SamunetError as error:
            bad.append(checkpoint.name)
            print(f"{checkpoint.name}: {error}")
        else:
            print(f"{checkpoint.name}: whole, {path}, SHA-256 {sha256}")
    if bad:
        raise CheckpointError(
            f"{len(bad)} of {len(wanted)} checkpoints cannot be used: {', '.join(bad)}. Remove the files and get them "
            "again."
        )


def _accepted(found: str, arguments: argparse.Namespace) -> bool:
    if arguments.yes or not sys.stdin.isatty():
        return arguments.yes
    return input(
        f"Nobody publishes a SHA-256 of this file; the one here has {found}. Use it? [y/N] "
    ).strip().lower() in ("y", "yes")
