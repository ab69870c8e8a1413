"""What sam_unet_prompted asks of a plan: options, memory and work; nothing here needs torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from samunet.core.ranges import Within
from samunet.errors import ConfigError
from samunet.models.rules import Options
from samunet.models.spec import NetworkSpec
from samunet.sam.backbones import Backbone
from samunet.variants.sam_unet import rules


@dataclass(frozen=True, kw_only=True)
class Config(Options):
    """Options of this method: sam_unet's, of which class_tokens means prompts as tokens, and its own."""

    network: rules.Config = rules.Config()
    """Options of sam_unet; class_tokens lets SAM's mask decoder take the prompts as tokens."""
    maps: bool = True
    """Let prompts join the U-Net's stages as maps."""
    rounds: Annotated[int, Within(1, 20)] = 3
    """A training step shows a first prompt and then up to so many less one corrections, each where the answer is most
    wrong."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.maps and not self.tokens:
            raise ConfigError(
                "sam_unet_prompted: without maps prompts must be tokens, which need sam_path and class_tokens."
            )

    @property
    def tokens(self) -> bool:
        """Tell whether SAM's mask decoder takes the prompts as tokens."""
        return self.network.sam_path and self.network.class_tokens


def cost(spec: NetworkSpec, backbone: Backbone, batch_size: int, config: Config) -> float:
    """Estimate the memory of one mixed-precision training step in GiB: one structure of each sample is decoded."""
    return rules.cost(spec, backbone, batch_size, config.network)


def operations(spec: NetworkSpec, backbone: Backbone, config: Config) -> float:
    """Estimate the work of one sample's training step in multiply-adds, see `samunet.variants.sam_unet.rules`."""
    return rules.operations(spec, backbone, config.network)
