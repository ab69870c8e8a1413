"""Download an official checkpoint: resumable, checked by hash, in place only when whole. Used on request only."""

from __future__ import annotations

import os
import shutil
import urllib.request
from collections.abc import Callable
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.error import HTTPError

from tqdm import tqdm

from samunet.core.codec import file_sha256
from samunet.core.lock import held
from samunet.core.units import readable
from samunet.errors import CheckpointError, WeightsAbsentError
from samunet.sam.checkpoints import PART_ENDING, OfficialCheckpoint, record_sha256

TIMEOUT_S = 30.0
NOTHING_MORE = 416  # HTTP: the range asked for begins at or beyond the end


def download(
    checkpoint: OfficialCheckpoint,
    target: Path,
    *,
    given: str | None = None,
    accept: Callable[[str], bool] = lambda _: False,
    quiet: bool = False,
) -> str:
    """Fetch a checkpoint to `target` and return its SHA-256; what a broken connection left is continued.

    Args:
        target: where the file shall lie; until it is whole and checked it is `<target>.part`.
        given: the hash that the user expects, where none is published.
        accept: asked with the file's hash when nothing else says what it should be.
        quiet: no progress bar.

    Raises:
        WeightsAbsentError: the server cannot be reached, refuses, or breaks off; the message says how to get the file
            otherwise.
        CheckpointError: the file that arrived has another hash (it is removed), or its hash was not accepted (it is
            kept).
    """
    if given is not None and checkpoint.sha256 not in (None, given.lower()):
        raise CheckpointError(
            f"{checkpoint.name} has the published SHA-256 {checkpoint.sha256}; --sha256 says {given}. Leave --sha256 "
            "out."
        )
    expected = checkpoint.sha256 or (given.lower() if given else None)
    with held(target.parent, name=target.name):
        return _download(checkpoint, target, expected, accept, quiet)


def _download(
    checkpoint: OfficialCheckpoint, target: Path, expected: str | None, accept: Callable[[str], bool], quiet: bool
) -> str:
    part = target.with_name(target.name + PART_ENDING)
    try:
        _fetch(checkpoint, part, quiet)
    except (OSError, HTTPException) as error:  # URLError and timeouts are OSErrors
        raise WeightsAbsentError(
            f"{checkpoint.name} cannot be downloaded ({_reason(error)}). {by_hand(checkpoint, target)}"
        ) from None
    sha256 = file_sha256(part)
    if expected is not None and sha256 != expected:
        part.unlink()
        raise CheckpointError(
            f"What came from {checkpoint.url} has SHA-256 {sha256}, expected {expected}; it was removed. Try again, or "
            "from another network."
        )
    if expected is None and not accept(sha256):
        raise CheckpointError(
            f"No SHA-256 of {checkpoint.name} is published, and {sha256} of the file that came was not accepted. If "
            f"you trust it: samunet_weights download {checkpoint.name} --sha256 {sha256}"
        )
    if checkpoint.sha256 is None:
        record_sha256(target, sha256)
    os.replace(part, target)
    return sha256


def by_hand(checkpoint: OfficialCheckpoint, target: Path) -> str:
    """Say where a checkpoint can be had and where it belongs, for machines without a network."""
    return (
        f"Fetch {checkpoint.url} ({readable(checkpoint.size)}, SHA-256 {checkpoint.sha256 or 'not published'}) "
        f"elsewhere and put it at {target}, or run: samunet_weights import FILE"
    )


def _fetch(checkpoint: OfficialCheckpoint, part: Path, quiet: bool) -> None:
    """Bring the part file to the length that the server says, from where an earlier try ended."""
    have = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(checkpoint.url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response: HTTPResponse = urllib.request.urlopen(request, timeout=TIMEOUT_S)
    except HTTPError as error:
        error.close()
        if have and error.code == NOTHING_MORE:
            return  # whole already, or of another version: the hash decides
        raise
    with response:
        resumed = response.status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        start = have if resumed else 0  # a server that knows no ranges sends everything again
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else None
        free = shutil.disk_usage(part.parent).free
        if total is not None and total - start > free:
            raise OSError(f"{part.parent} has {readable(free)} free, {readable(total - start)} are needed")
        progress = tqdm(
            total=total, initial=start, unit="B", unit_scale=True, desc=checkpoint.file, disable=True if quiet else None
        )
        with open(part, "ab" if resumed else "wb") as file, progress:
            while block := response.read(1 << 20):
                file.write(block)
                progress.update(len(block))
            file.flush()
            os.fsync(file.fileno())
    arrived = part.stat().st_size
    if total is not None and arrived < total:
        raise OSError(f"the connection ended after {arrived} of {total} bytes; the same command goes on from there")
    if total is not None and arrived > total:
        part.unlink()  # two commands wrote it at the same time, or the file on the server changed
        raise OSError(f"{arrived} bytes came, {total} were announced; the file was removed, start again")


def _reason(error: Exception) -> str:
    return str(getattr(error, "reason", None) or error) or type(error).__name__
