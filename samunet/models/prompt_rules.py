"""What SAM with prompts asks of a plan: options and memory; nothing here needs torch."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

from samunet.errors import ConfigError

MODES = ("points", "iterative", "box", "mixed")
_DRAWN = "which of them a step reaches depends on the prompts that it draws"
WITHOUT_GRADIENT = {
    "head.mask_decoder.iou_prediction_head": "SAM's quality head has no loss",
    "head.prompt_encoder.point_embeddings": _DRAWN,
    "head.prompt_encoder.not_a_point_embed": _DRAWN,
    "head.prompt_encoder.mask_downscaling": "there is no mask prompt",
}
"""Parameters of a prompted head that no loss reaches, or not in every step, and why."""


def takes_prompts(variant: ModuleType) -> bool:
    """Tell whether an adaptation method segments what prompts show."""
    return issubclass(variant.Config, PromptedConfig)


@dataclass(frozen=True, kw_only=True)
class PromptedConfig:
    """How prompts are simulated from labels in training."""

    prompts: str = "mixed"
    """"points": clicks inside a structure; "iterative": one inside, then more where the network errs; "box"; "mixed": one of these for each batch."""
    points: int = 3
    """Clicks of "points" in each slice."""
    rounds: int = 3
    """Clicks of "iterative" in each slice, the first included."""
    box_overlap: float = 0.75
    """The sides of a box move by chance, as far as the plane's IoU with the tight box stays at this or above."""
    box_relaxation: int = 2
    """A box is then larger by up to so many voxels on every side, along depth too."""

    def __post_init__(self) -> None:
        if self.prompts not in MODES:
            raise ConfigError(f"prompts must be one of {', '.join(MODES)}; got '{self.prompts}'.")
        if self.points < 1 or self.rounds < 1 or not 0 < self.box_overlap <= 1 or self.box_relaxation < 0:
            raise ConfigError(
                f"points and rounds must be 1 or more, box_overlap in (0, 1] and box_relaxation 0 or more; got {self.points}, {self.rounds}, "
                f"{self.box_overlap} and {self.box_relaxation}."
            )
