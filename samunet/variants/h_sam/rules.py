"""What h_sam asks of a plan: options and memory; nothing here needs torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from samunet.core.ranges import OneOf, Within
from samunet.models.rules import EncoderOptions, step_gib
from samunet.models.spec import NetworkSpec
from samunet.sam.backbones import Backbone


@dataclass(frozen=True, kw_only=True)
class Config(EncoderOptions):
    """Options of this method; the defaults are the authors' where their code does what they write."""

    rank: Annotated[int, Within(1, 4096)] = 5
    """Rank of LoRA on q and v."""
    gate: Annotated[str, OneOf("sigmoid", "released")] = "sigmoid"
    """What strengthens the embedding for the second decoder: "sigmoid", attention among classes that can learn;
    "released", the doubling that the authors' code comes to."""
    output: Annotated[str, OneOf("mean", "second")] = "mean"
    """What predicts: the "mean" of both decoders' logits, or the "second" alone."""
    embedding_noise: Annotated[float, Within(0, 10)] = 0.2
    """Deviation of the noise on the second decoder's embedding in training, as a share of the embedding's range."""
    class_noise: Annotated[float, Within(0, 10)] = 0.35
    """Deviation of the noise on the rarest class within the gate in training; it falls to 0 for the most frequent."""


def cost(spec: NetworkSpec, backbone: Backbone, batch_size: int, config: Config) -> float:
    """Estimate the memory of one mixed-precision training step in GiB."""
    return step_gib(
        spec,
        backbone,
        batch_size,
        adapter_width=config.rank,
        upsampling=16,
        checkpointing=config.checkpointing,
        decoder_runs=2,
        hq=config.hq,
    )
