"""Seeds: weights learned from procedural scenes, in one file with the card that says what they are.

Some come with samunet, in its folder `seeds`; `samunet_pretrain` makes others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from samunet.checkpoints.file import save_tensors, tensors_sha256
from samunet.core.codec import parse_json
from samunet.errors import CheckpointError

SHIPPED = Path("seed")
"""What a user writes for the seed that comes with samunet."""
HEADER_KEY, SHA256 = "samunet_seed", "sha256"


@dataclass(frozen=True, kw_only=True)
class Seed:
    """Weights of a promptable network, and what they are."""

    path: Path
    card: Mapping[str, Any]
    """Recipe, settings, steps and what it has seen."""
    weights: dict[str, Tensor]


def shipped_seeds() -> list[Path]:
    """Return the files that come with samunet."""
    return sorted(Path(str(files("samunet"))).joinpath("seeds").glob("*.safetensors"))


def shipped_seed(dimensions: int) -> Path:
    """Return the seed for slices (2) or volumes (3), for which that of slices serves where there is no other.

    Raises:
        CheckpointError: samunet was installed without its seeds.
    """
    there = {path.stem: path for path in shipped_seeds()}
    for name in (f"seed_{dimensions}d", "seed_2d"):
        if name in there:
            return there[name]
    raise CheckpointError("This samunet was installed without its seeds; install it again, or name a file.")


def save_seed(path: Path, weights: Mapping[str, Tensor], card: Mapping[str, Any]) -> None:
    """Write weights and their card; raises CheckpointError where the file cannot be written."""
    save_tensors(path, weights, {HEADER_KEY: {**card, SHA256: tensors_sha256(weights)}})


def is_seed(path: Path) -> bool:
    """Tell whether a file is a seed; one that cannot be read is none."""
    try:
        with safe_open(path, framework="pt") as file:
            return HEADER_KEY in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False


def load_seed(path: Path) -> Seed:
    """Read a seed.

    Raises:
        CheckpointError: the file is absent, damaged (which its checksum tells too), or no seed.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get(HEADER_KEY)
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"Seed {path} cannot be read ({error}). Pretrain again, or name another file.") from None
    card = parse_json(header, f"The header of seed {path}") if header is not None else None
    if not isinstance(card, dict) or card.pop(SHA256, None) != tensors_sha256(weights):
        raise CheckpointError(
            f"{path} is no whole seed of samunet, by its header and checksum. Pretrain again, or name another file."
        )
    return Seed(path=path, card=card, weights=weights)
