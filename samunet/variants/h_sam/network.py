"""The network of h_sam; see documentation/methods/h_sam.md.

Axes: B batch, C channels or decoder width, D H W voxels, N = B*D slices, K outputs, h w token rows and columns.
"""

from __future__ import annotations

from segment_anything.modeling import Sam
from torch import Tensor

from samunet.core.batch import Batch
from samunet.models.losses import nearest, output_targets, slab_terms
from samunet.models.prompt_free import PromptFreeSAM
from samunet.models.spec import NetworkSpec
from samunet.variants.h_sam.decoders import HierarchicalMasks
from samunet.variants.h_sam.rules import Config
from samunet.variants.samed.lora import LoRASites

ENTROPY_SHARE = 0.1  # the authors'
EPOCHS = 300  # over which the authors' weight of the second decoder's loss grows


class HSAM(PromptFreeSAM):
    """SAMed's encoder under two decoders, each with a loss; the second's counts more and more.

    Args:
        sam: for the token grid of `spec`.
        spec: data and plan.
        config: the method's options.
    """

    head: HierarchicalMasks

    def __init__(self, sam: Sam, spec: NetworkSpec, config: Config) -> None:
        width = sam.image_encoder.pos_embed.shape[-1]
        super().__init__(
            sam,
            spec,
            [LoRASites(width, config.rank) for _ in sam.image_encoder.blocks],
            head=HierarchicalMasks(sam, spec.labels, config),
            pixel_range=config.pixel_range,
            checkpointing=config.checkpointing,
        )
        self.output, self.class_noise = config.output, config.class_noise

    def forward(self, image: Tensor) -> Tensor:
        first, second = (self.fit(logits, image.shape[2:]) for logits in self._stages(image))
        return second if self.output == "second" else (first + second) / 2

    def sums(self, batch: Batch) -> dict[str, Tensor]:
        label = batch.label
        deviations = None
        if self.training and self.class_noise > 0 and self.head.second.gate is not None:
            deviations = class_deviations(output_targets(label, self.labels).sum((2, 3, 4)), self.class_noise)
        first, second = self._stages(batch.image, deviations)
        first = self._cut(first, label.shape[2:])
        stages = {
            "first": self.compare(first, nearest(label, first.shape[2:])),
            "second": self.compare(self.fit(second, label.shape[1:]), label),
        }
        return {f"{stage}.{name}": value for stage, sums in stages.items() for name, value in sums.items()}

    def terms(self, sums: dict[str, Tensor]) -> dict[str, Tensor]:
        share = second_share(self.progress)
        total: dict[str, Tensor] = {}
        for stage, weight in (("first.", 1 - share), ("second.", share)):
            part = {name.removeprefix(stage): value for name, value in sums.items() if name.startswith(stage)}
            for name, value in slab_terms(part, entropy_share=ENTROPY_SHARE).items():
                total[name] = total.get(name, 0) + weight * value
        return total

    def _stages(self, image: Tensor, deviations: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return both decoders' logits of the padded plane, (B, K, D, 4h, 4w) and (B, K, D, 16h, 16w).

        Args:
            image: (B, C, D, H, W).
            deviations: (B, K) of the noise on the gate's classes.
        """
        embedding, *fine = (given.flatten(0, 1) for given in self.embed(self.pixels(image)))
        if deviations is not None:
            deviations = deviations.repeat_interleave(image.shape[2], dim=0)
        first, second = self.head.stages(embedding, *fine, deviations=deviations)
        size = (len(image), image.shape[2])
        return first.unflatten(0, size).movedim(2, 1), second.unflatten(0, size).movedim(2, 1)


def second_share(progress: float) -> float:
    """Return the weight of the second decoder's loss at a share of the training: 0.6 at its start, 0.975 at its end."""
    return float(0.6 ** (0.99 ** (EPOCHS * progress)))


def class_deviations(counts: Tensor, most: float) -> Tensor:
    """Return the deviations of noise on classes: `most` for the rarest, 0 for the most frequent, linear in their rank.

    Args:
        counts: (B, K) voxels of each class in each sample; an absent class gets no noise and no rank, and neither does
            one that is alone.
        most: for the rarest.
    """
    present = counts > 0
    others = present.sum(1, keepdim=True) - 1
    rarer = (counts.unsqueeze(1) < counts.unsqueeze(2)) & present.unsqueeze(1)
    return most * (1 - rarer.sum(2) / others.clamp_min(1)) * (present & (others > 0))
