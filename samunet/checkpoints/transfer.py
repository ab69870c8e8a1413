"""Take the weights of one U-Net into another of other stages, kernels, strides and channels.

What fits by name and shape is loaded. A kernel without depth becomes the middle of one with depth, and the other way
round, so that a slice alone gives what it gave; of kernels as large as their stride the mean is spread. Several image
channels share what one had. A wider network takes channels over as its first ones, which do not look at its others at
first, so that it gives what the narrower one gave; narrower networks are left as they began. So are the outputs of a
network of another number of classes: what showed one structure would be its background.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

STAGE = re.compile(r"convolutions\.stages\.(?P<number>\d+)\.")
UPWARD = re.compile(r"(decoder\.(?:upward|levels)\.)(\d+)(\..*)")
RISING, OUTPUTS = "decoder.upward.", "outputs."
FIRST = "convolutions.stages.0.0.weight"
JOINED = re.compile(r"decoder\.levels\.\d+\.0\.weight|quality\.layers\.0\.weight")
"""Layers that see two sets of channels, one after the other."""
GATE = re.compile(r"injections\.(?P<number>\d+)(\..*)")
"""Where SAM's features join the U-Net: at one of its stages and each after it, or, where there is one gate, at any."""
NARROW = re.compile(r"(convolutions|decoder|outputs|quality|stem\.joins|injections)\.")
"""What has a U-Net's widths."""


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """What became of every tensor; names are the new network's, but for `unused`."""

    loaded: tuple[str, ...]
    adapted: tuple[str, ...]
    """Loaded with another kernel, stride, width, number of image channels, or table of positions."""
    fresh: tuple[str, ...]
    """As the network began."""
    unused: tuple[str, ...]
    """Of the weights, that the network has no place for."""

    def __str__(self) -> str:
        fresh, unused = set(self.fresh), set(self.unused)
        lists = {
            "adapted": self.adapted,
            "of another shape": sorted(fresh & unused),
            "absent there": sorted(fresh - unused),
            "not used": sorted(unused - fresh),
        }
        taken = len(self.loaded) + len(self.adapted)
        parts = [f"{taken} of {taken + len(fresh)} tensors"]
        parts += [
            f"{len(names)} {word} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
            for word, names in lists.items()
            if names
        ]
        return "; ".join(parts)


def transfer(model: nn.Module, weights: Mapping[str, Tensor], into: Collection[str] | None = None) -> Transfer:
    """Fill a network with what fits of another's weights; see the module docstring.

    Args:
        into: names of the tensors that may be filled; None for all.
    """
    wanted = {name: tensor for name, tensor in model.state_dict().items() if into is None or name in into}
    deeper, gates = (_count(STAGE, weights) - _count(STAGE, wanted), (_count(GATE, wanted), _count(GATE, weights)))
    found: dict[str, Tensor] = {}
    loaded: list[str] = []
    adapted: list[str] = []
    used: set[str] = set()
    for name, tensor in wanted.items():
        source = _source_name(name, deeper, gates)
        if source not in weights:
            continue
        given = weights[source].to(tensor.dtype)
        fitted = given if given.shape == tensor.shape else _adapted(name, given, tensor)
        if fitted is not None:
            found[name] = fitted
            used.add(source)
            (loaded if fitted is given else adapted).append(name)
    model.load_state_dict(found, strict=False)
    return Transfer(
        loaded=tuple(loaded),
        adapted=tuple(adapted),
        fresh=tuple(name for name in wanted if name not in found),
        unused=tuple(name for name in weights if name not in used),
    )


def _count(pattern: re.Pattern[str], names: Mapping[str, Tensor]) -> int:
    return 1 + max((int(match["number"]) for match in map(pattern.match, names) if match), default=-1)


def _source_name(name: str, deeper: int, gates: tuple[int, int]) -> str:
    """Return a tensor's name in the other network: decoders are counted from the deepest level, which differs, and
    gates go with their stage, where that is known.

    Args:
        deeper: how many stages the other network has more.
        gates: of this network and of the other one.
    """
    if match := UPWARD.fullmatch(name):
        return f"{match[1]}{int(match[2]) + deeper}{match[3]}"
    if match := GATE.fullmatch(name):
        own, other = gates
        number = int(match["number"]) - deeper + other - own if min(gates) > 1 else 0 if own == other else -1
        return f"injections.{number}{match[2]}"
    return name


def _adapted(name: str, given: Tensor, began: Tensor) -> Tensor | None:
    """Bring a tensor to the shape of one as it began; None where that cannot be done."""
    shape = began.shape
    if given.ndim != began.ndim:
        return None
    if name.endswith("pos_embed") and given.ndim == 4 and given.shape[-1] == shape[-1]:
        grid = F.interpolate(given.movedim(-1, 1), size=list(shape[1:3]), mode="bilinear", align_corners=False)
        return grid.movedim(1, -1)
    if "rel_pos" in name and given.ndim == 2 and given.shape[1] == shape[1]:
        return F.interpolate(given.T[None], size=shape[0], mode="linear", align_corners=False)[0].T
    if name == FIRST and given.shape[1] == 1:
        given = given.expand(-1, shape[1], -1, -1, -1) / shape[1]
    if given.ndim == 5:
        given = _spread(given, shape) if name.startswith(RISING) else _centered(given, shape)
    return given if given.shape == shape else _widened(name, given, began)


def _widened(name: str, given: Tensor, began: Tensor) -> Tensor | None:
    """Put a tensor's channels before those of a wider one, which they do not look at."""
    if not NARROW.match(name) or any(have > want for have, want in zip(given.shape[:2], began.shape[:2], strict=True)):
        return None
    if name.startswith(OUTPUTS) and len(given) != len(began):
        return None
    wide = began.clone()
    if given.ndim == 1:
        wide[: len(given)] = given
        return wide
    if name.startswith(RISING):  # (inputs, outputs, ...), unlike others
        given, wide = given.transpose(0, 1), wide.transpose(0, 1)
    own = wide[: len(given)].zero_()
    sets = 2 if JOINED.fullmatch(name) else 1
    for part, place in zip(given.chunk(sets, 1), own.chunk(sets, 1), strict=True):
        place[:, : part.shape[1]] = part
    return wide.transpose(0, 1) if name.startswith(RISING) else wide


def _spread(kernel: Tensor, shape: Sequence[int]) -> Tensor:
    """Average along axes that become shorter, and repeat along those that become longer."""
    pooled = F.adaptive_avg_pool3d(kernel, [min(a, b) for a, b in zip(kernel.shape[2:], shape[2:], strict=True)])  # type: ignore[arg-type]
    return F.interpolate(pooled, size=list(shape[2:]), mode="nearest")


def _centered(kernel: Tensor, shape: Sequence[int]) -> Tensor:
    """Cut the middle of a kernel along axes that become shorter, and put zeros around along those that grow."""
    for axis in (2, 3, 4):
        less = kernel.shape[axis] - shape[axis]
        if less > 0:
            kernel = kernel.narrow(axis, less // 2, shape[axis])
        elif less < 0:
            pad = [0, 0] * (4 - axis) + [-less // 2, -less - (-less // 2)]
            kernel = F.pad(kernel, pad)
    return kernel
