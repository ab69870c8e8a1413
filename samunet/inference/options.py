"""What may be asked of a prediction; free of torch, so that the command line can show it at once.

Annotations say how a field is written there, see `samunet.cli.fields`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from samunet.errors import ConfigError
from samunet.machine.precision import PRECISIONS

if TYPE_CHECKING:
    from samunet.core.prompts import PromptFile


@dataclass(frozen=True, kw_only=True)
class PredictionOptions:
    """How the sliding window runs."""

    step_size: Annotated[float, "-step_size SHARE"] = 0.5
    """Distance between tiles as a share of the tile."""
    slab_step: Annotated[int | None, "-slab_step SLICES"] = None
    """Distance between slabs in slices (default: as the step size says)."""
    slab_votes: bool = False
    """Average the probabilities of all slabs that hold a slice, all alike (MA-SAM's way), instead of weighted
    logits."""
    flips: Annotated[bool, "--disable_tta"] = True
    """Average over the plan's mirror axes, which takes several times longer and is slightly more accurate."""
    uncertainty: bool = False
    """Also tell where folds and flips disagree, and a score per case."""
    sums_on_device: Annotated[bool, "--not_on_device"] = True
    """Sum up logits where the network runs while that leaves room, instead of in RAM."""
    precision: Annotated[str, "--precision KIND"] = "auto"
    """auto (bf16 where the hardware multiplies in it, else fp16 on CUDA and fp32 on CPUs), fp32, bf16 or fp16."""
    tile_batch: Annotated[int, ""] = 1
    """Tiles in one forward pass; flipped copies count."""
    quiet: Annotated[bool, "--disable_progress_bar"] = False
    """No progress bars."""

    def __post_init__(self) -> None:
        if not 0 < self.step_size <= 1:
            raise ConfigError(
                f"The step size must be above 0 and at most 1; got {self.step_size}. nnU-Net's default is 0.5."
            )
        if self.precision not in PRECISIONS:
            raise ConfigError(f"The precision is one of {', '.join(PRECISIONS)}; got '{self.precision}'.")
        if self.slab_step is not None and self.slab_step < 1:
            raise ConfigError(f"The slab step is a number of slices, 1 or more; got {self.slab_step}.")
        if self.slab_votes and self.slab_step not in (None, 1):
            raise ConfigError(
                f"Slab votes move a slab by one slice at a time; got a slab step of {self.slab_step}, leave it out."
            )


@dataclass(frozen=True, kw_only=True)
class FileOptions:
    """How files are read, kept and written."""

    save_probabilities: bool = False
    """Also write `<case>.npz`."""
    readers: int = 1
    """Threads that read and preprocess ahead."""
    writers: int = 1
    """Threads that resample back and write."""
    max_ram: int | None = None
    """Bytes that the cases in work may take together; a case that needs more is refused."""
    available: int | None = None
    """Bytes by which work is arranged when there is no such limit; None arranges nothing."""
    free: int | None = None
    """Bytes beyond which a case is refused when there is no such limit; None refuses nothing."""
    ending: str | None = None
    """Ending of the segmentations, with its dot; None for that of each input."""
    series: str | None = None
    """Which one of a folder of several DICOM series is meant: number, UID or description."""
    quiet: bool = False
    """No progress bar."""
    prompts: PromptFile | None = None
    """For a model that segments what they show."""
