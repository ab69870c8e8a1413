"""What is pretrained on which scenes; nothing here needs torch or numpy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from samunet.core.ranges import Within, check_ranges
from samunet.errors import ConfigError

if TYPE_CHECKING:
    from samunet.core.geometry import Shape

SMALLEST = 4  # voxels a side of the deepest stage, nnU-Net's limit; its norms need several


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a pretrained network is and what it learns."""

    dimensions: Annotated[int, Within(2, 3)] = 2
    """2 for slices, 3 for slabs."""
    side: Annotated[int, Within(32, 512)] = 96
    """Voxels along each side of a scene's plane."""
    depth: Annotated[int, Within(1, 256)] = 16
    """Slices of a slab; not used in 2D."""
    width: Annotated[int, Within(4, 128)] = 24
    """Features at full resolution, doubled at each stage up to eight times as many."""
    stages: Annotated[int, Within(3, 8)] = 5
    """Stages of the U-Net."""
    backbone: str = ""
    """SAM's encoder, e.g. vit_tiny; empty for the U-Net alone."""
    maps: bool = True
    """Prompts join the U-Net as maps."""
    tokens: bool = False
    """Prompts go through SAM's mask decoder as tokens; needs a backbone."""
    auxiliary: bool = True
    """Learn distances and the clean image too."""

    def __post_init__(self) -> None:
        check_ranges(self, "Pretraining option")
        if self.tokens and not self.backbone:
            raise ConfigError("--tokens needs SAM's decoder and so its encoder; give --backbone too, e.g. vit_tiny.")
        parts = 2 ** (self.stages - 1)
        if self.side % parts or self.side < SMALLEST * parts or (self.dimensions == 3 and self.depth % 4):
            raise ConfigError(
                f"--side must be a multiple of {parts} for {self.stages} stages and {SMALLEST * parts} at least, and "
                f"--depth a multiple of 4; got {self.side} and {self.depth}."
            )

    @property
    def shape(self) -> Shape:
        """(D, H, W) voxels of a scene."""
        return (1 if self.dimensions == 2 else self.depth, self.side, self.side)


@dataclass(frozen=True, kw_only=True)
class Learning:
    """How it is learned; what is not here is as in samunet_train."""

    minutes: Annotated[float, Within(0)] = 60.0
    """Minutes in all; with one thread of a CPU they are processor time. 0 makes epochs of `iterations` steps."""
    epochs: Annotated[int, Within(1)] = 60
    """Parts of the pretraining after which it is validated; the learning rate reaches zero at the last one."""
    iterations: Annotated[int, Within(1)] = 250
    """Steps per epoch where minutes is 0."""
    batch_size: Annotated[int, Within(0)] = 0
    """Scenes per step; 0 takes 8 slices or 2 slabs."""
    learning_rate: Annotated[float, Within(0, above=True)] = 1e-3
    """Peak."""
    ema: Annotated[float, Within(0, 1, below=True)] = 0.995
    """Decay of a moving average of the weights, which are the result; 0 for none."""
    seed: Annotated[int, Within(0, 2**63 - 1)] = 0
    """Seed of scenes, weights and prompts."""
    workers: Annotated[int, Within(-1)] = -1
    """Processes that draw scenes ahead; -1 chooses, 0 draws them in the pretraining process."""
    precision: str = "auto"
    """"auto": bf16 where the hardware has it, else fp16 on CUDA, else fp32."""

    def __post_init__(self) -> None:
        check_ranges(self, "Pretraining setting")
