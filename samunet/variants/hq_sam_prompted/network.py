"""The network of hq_sam_prompted; see documentation/methods/hq_sam.md.

Axes: B batch, R structures, D H W voxels, N pairs of a slice and a structure, h w token rows and columns.
"""

from __future__ import annotations

from typing import Any

from segment_anything.modeling import Sam
from torch import Tensor

from samunet.core.batch import Batch
from samunet.models.losses import known_voxels, region_targets
from samunet.models.point_loss import OF_A_SLICE, mask_loss
from samunet.models.prompt_tokens import PromptTokens
from samunet.models.prompted import PromptedMasks, PromptedSAM
from samunet.models.spec import NetworkSpec


class HQMasks(PromptedMasks):
    """SAM's decoder with HQ-SAM's token, whose mask is trained alone where SAM is frozen."""

    def forward(self, embedding: Tensor, prompts: PromptTokens | None, fine: Tensor | None = None) -> Tensor:
        frozen = not self.mask_decoder.mask_tokens.weight.requires_grad
        correction = self.answers(embedding, prompts, fine)[1] if self.training and frozen else None
        return super().forward(embedding, prompts, fine) if correction is None else correction


class HQSAM(PromptedSAM):
    """HQ-SAM; where SAM's weights are pretrained, its added parts are all that trains.

    Args:
        sam, spec, settings: of `PromptedSAM`.
    """

    def __init__(self, sam: Sam, spec: NetworkSpec, **settings: Any) -> None:
        for part in (sam.prompt_encoder, sam.mask_decoder):
            part.requires_grad_(not spec.pretrained)
        super().__init__(sam, spec, None, head=HQMasks(sam, sam.mask_decoder, hq=True), **settings)
        self.pixels.requires_grad_(not spec.pretrained)  # channels other than 1 or 3 enter as their mean

    def simulate(self, label: Tensor, embedded: tuple[Tensor, ...]) -> Tensor:
        """See `PromptedSAM`; clicks correct the masks that predict, not those that are trained alone."""
        self.head.eval()
        try:
            return super().simulate(label, embedded)
        finally:
            self.head.train(self.training)

    def sums(self, batch: Batch) -> dict[str, Tensor]:
        label, embedded = batch.label, self.embed(self.pixels(batch.image))
        drawn = self.simulate(label, embedded)
        shown = (drawn > 0).flatten(3).any(3)  # (B, R, D)
        masks = self._masks(embedded, drawn, label.shape[1:]).float()
        wanted = region_targets(label, self.labels)[:, self.order]
        known = known_voxels(label, self.labels).unsqueeze(1).expand_as(masks).to(masks.dtype)
        masks, wanted, known = (part.flatten(3)[shown] for part in (masks, wanted, known))
        losses = mask_loss(masks, wanted, known, OF_A_SLICE)
        return {"mask": losses.sum(), "masks": shown.sum().to(losses.dtype)}

    def terms(self, sums: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"mask": sums["mask"] / sums["masks"].clamp_min(1)}
