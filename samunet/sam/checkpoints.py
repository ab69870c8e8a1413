"""SAM's official checkpoints: where they come from, where they lie on this machine, and which files are trusted.

A file is trusted when its SHA-256 is in the table below or is given by the user. For official files without a published
hash the accepted one is recorded in `<file>.sha256` (the format of sha256sum). Nothing here uses the network; see
`samunet.sam.download`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from samunet.core.codec import file_sha256, write_text
from samunet.errors import CheckpointError, ConfigError, WeightsAbsentError, did_you_mean


@dataclass(frozen=True, kw_only=True)
class OfficialCheckpoint:
    """A checkpoint that its authors publish."""

    name: str
    backbone: str
    url: str
    size: int
    """Bytes."""
    sha256: str | None
    """None where no hash is known."""

    @property
    def file(self) -> str:
        return self.url.rsplit("/", 1)[1]


RECORD_ENDING, PART_ENDING = ".sha256", ".part"
META = "https://dl.fbaipublicfiles.com/segment_anything/"
CHECKPOINTS = (
    OfficialCheckpoint(
        name="sam_vit_b",
        backbone="vit_b",
        url=META + "sam_vit_b_01ec64.pth",
        size=375_042_383,
        sha256="ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
    ),
    OfficialCheckpoint(
        name="sam_vit_l",
        backbone="vit_l",
        url=META + "sam_vit_l_0b3195.pth",
        size=1_249_524_607,
        sha256="3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
    ),
    OfficialCheckpoint(
        name="sam_vit_h",
        backbone="vit_h",
        url=META + "sam_vit_h_4b8939.pth",
        size=2_564_550_879,
        sha256="a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
    ),
    # Address and size of MedSAM as its users give them; its authors link a shared folder and publish no hash.
    OfficialCheckpoint(
        name="medsam_vit_b",
        backbone="vit_b",
        url="https://zenodo.org/records/10689643/files/medsam_vit_b.pth",
        size=375_049_145,
        sha256=None,
    ),
)


def checkpoint_named(name: str) -> OfficialCheckpoint:
    """Return a checkpoint by its name or file name; raises ConfigError that names the nearest one."""
    for checkpoint in CHECKPOINTS:
        if name in (checkpoint.name, checkpoint.file):
            return checkpoint
    names = [checkpoint.name for checkpoint in CHECKPOINTS]
    raise ConfigError(f"There is no official checkpoint '{name}'.{did_you_mean(name, names)}")


def find_checkpoint(checkpoint: OfficialCheckpoint, folders: Sequence[Path]) -> Path | None:
    """Return the first file of that name in the folders, or None."""
    return next((folder / checkpoint.file for folder in folders if (folder / checkpoint.file).is_file()), None)


def find_weights(path_or_name: str, folders: Sequence[Path]) -> Path:
    """Turn a path or the name of an official checkpoint, from a user or a plan, into an existing file's absolute path.

    Args:
        path_or_name: a path, or a name of `CHECKPOINTS`.
        folders: where a file of that name is looked for when the path does not exist, in this order.

    Raises:
        WeightsAbsentError: there is no such file.
    """
    path = Path(os.path.expanduser(path_or_name))  # Path's own raises where there is no such user
    official = _official(path.name)
    name = official.file if official else path.name
    for candidate in (path, *(folder / name for folder in folders)):
        if candidate.is_file():
            return candidate.resolve()
    looked = f"looked for {name} in {', '.join(map(str, folders))}" if folders else "no folder of checkpoints is known"
    if official is None:
        names = ", ".join(checkpoint.name for checkpoint in CHECKPOINTS)
        if path.is_dir():
            raise WeightsAbsentError(f"{path_or_name} is a folder; give a weights file in it, or one of {names}.")
        raise WeightsAbsentError(
            f"Weights file {path_or_name} does not exist ({looked}). Put it there, or give another path or "
            f"one of {names}."
        )
    raise WeightsAbsentError(
        f"Checkpoint {official.name} is not on this machine ({looked}). Get it with: samunet_weights download "
        f"{official.name}"
    )


def trusted_sha256(path: Path, given: str | None = None, folders: Sequence[Path] = ()) -> str:
    """Return the SHA-256 of a weights file that may be used.

    A published hash decides for a file of an official name. Where none is published, the hash that the user gives
    decides, or the one that was recorded when the file came into one of `folders`.

    Raises:
        CheckpointError: the file has another hash, or there is none to compare with.
    """
    sha256 = file_sha256(path)
    official = next((checkpoint for checkpoint in CHECKPOINTS if path.name == checkpoint.file), None)
    recorded = (
        recorded_sha256(path)
        if official is not None and path.parent.resolve() in [folder.resolve() for folder in folders]
        else None
    )
    expected = (official.sha256 if official is not None else None) or given or recorded
    if expected is not None and expected.lower() != sha256:
        raise CheckpointError(
            f"Weights file {path} has SHA-256 {sha256}, expected {expected}. It is damaged or another file; get it "
            "again."
        )
    if expected is None and sha256 not in {checkpoint.sha256 for checkpoint in CHECKPOINTS}:
        raise CheckpointError(
            f"Weights file {path} is none of SAM's official checkpoints (SHA-256 {sha256}). If you trust it, say so by "
            f"giving its hash: --sha256 {sha256}"
        )
    return sha256


def refuse_foreign(name: str, sha256: str | None) -> None:
    """Raise CheckpointError for a file that has the name of an official one, or of its record, and is not that file."""
    official = _official(name.removesuffix(PART_ENDING))
    if name.endswith(RECORD_ENDING):
        raise CheckpointError(
            f"'{name}' is the name of a record of hashes, which {name.removesuffix(RECORD_ENDING)} would be trusted by."
        )
    unfinished = name.endswith(PART_ENDING)  # what a download would go on with
    if official is not None and (unfinished or official.sha256 is None or official.sha256 != sha256):
        published = f"has the published SHA-256 {official.sha256}" if official.sha256 else "has no published hash"
        raise CheckpointError(
            f"A file '{name}' with SHA-256 {sha256} is not taken from others: {official.name} {published}. Bring it "
            "with samunet_weights."
        )


def _official(name: str) -> OfficialCheckpoint | None:
    return next((checkpoint for checkpoint in CHECKPOINTS if name.lower() in (checkpoint.name, checkpoint.file)), None)


def record_of(path: Path) -> Path:
    """Return the file that records the hash of a weights file."""
    return path.with_name(path.name + RECORD_ENDING)


def recorded_sha256(path: Path) -> str | None:
    """Return the recorded hash of a weights file, or None."""
    record = record_of(path)
    words = record.read_text(encoding="utf-8").split() if record.is_file() else []
    return words[0].lower() if words else None


def record_sha256(path: Path, sha256: str) -> None:
    """Record the hash of a weights file beside it, as sha256sum writes it."""
    write_text(record_of(path), f"{sha256}  {path.name}\n")
