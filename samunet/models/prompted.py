"""SAM with prompts: an adapted encoder, and SAM's decoder once for every slice and structure that a prompt shows.

Axes: B batch, R foreground classes or regions, K outputs, D H W voxels, N pairs of a slice and a structure, P prompt
tokens, C decoder width, h w token rows and columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from segment_anything.modeling import MaskDecoder, Sam
from torch import Tensor, nn

from samunet.core.batch import Batch
from samunet.models.heads import upsample, with_correction
from samunet.models.losses import known_voxels, region_targets
from samunet.models.prompt_tokens import (
    PromptTokens,
    corrected,
    draw_mode,
    embed,
    read_map,
    simulated_boxes,
    simulated_clicks,
)
from samunet.models.rules import PromptSimulation
from samunet.models.sam_with_sites import AdaptedSAM
from samunet.models.segmenter import ABSENT, PromptedSegmenter
from samunet.models.spec import NetworkSpec
from samunet.sam.decoder import DecoderSites, decode, mask_weights, own_tokens, read_masks, without_mask
from samunet.sam.encoder import Sites
from samunet.sam.hq import parts_of

TOGETHER = 64  # pairs that the decoder takes at a time where no gradient is wanted


class PromptedMasks(nn.Module):
    """SAM's prompt encoder and a mask decoder as a head for prompts.

    The sites hear, at every token, the token and the mean of its pair's prompts.

    Args:
        sam: gives the prompt encoder.
        decoder: SAM's own, whose first mask counts, as SAM takes it where it is asked for one mask; or one with two
            tokens, elsewhere and the structure, whose masks' difference counts: its softmax is that of a class-token
            decoder for one class.
        sites: see `samunet.sam.decoder.decode`.
        hq: HQ-SAM's decoder: its token follows the decoder's own, and its mask joins theirs.
    """

    def __init__(
        self, sam: Sam, decoder: MaskDecoder, sites: Sequence[DecoderSites] | None = None, *, hq: bool = False
    ) -> None:
        super().__init__()
        self.hq = parts_of(sam) if hq else None
        self.prompt_encoder, self.mask_decoder = sam.prompt_encoder, decoder
        self.sites = None if sites is None else nn.ModuleList(sites)
        self.difference = decoder.num_mask_tokens == 2

    def forward(self, embedding: Tensor, prompts: PromptTokens | None, fine: Tensor | None = None) -> Tensor:
        """Answer for pairs.

        Args:
            embedding: (N, C, h, w) of the pairs' slices.
            prompts: of the pairs; None answers as SAM without prompts.
            fine: with `hq`, the fused feature's `of_image` of these slices.

        Returns:
            (N, f*h, f*w) logits.
        """
        masks, correction = self.answers(embedding, prompts, fine)
        return masks if correction is None else with_correction(masks[:, None], correction[:, None])[:, 0]

    def answers(
        self, embedding: Tensor, prompts: PromptTokens | None, fine: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the decoder's (N, f*h, f*w) logits and those of HQ-SAM's token, (N, 4h, 4w), or None."""
        decoder, encoder = self.mask_decoder, self.prompt_encoder
        given = shown = mean = None
        if prompts is not None:
            shown = prompts.kinds >= 0
            given = self.embed(prompts)
            mean = given.sum(1, keepdim=True) / shown.sum(1)[:, None, None]
        own = own_tokens(decoder)
        decoded = decode(
            decoder.transformer,
            encoder.pe_layer,
            embedding,
            own if self.hq is None else torch.cat((own, self.hq.hf_token.weight)),
            dense=without_mask(encoder),
            prompts=given,
            shown=shown,
            mean=mean,
            sites=self.sites,
        )
        weights = mask_weights(decoder, decoded, 0)
        if self.difference:
            weights = mask_weights(decoder, decoded, 1) - weights
        upsampled, finest = upsample(decoder, decoded.places)
        masks = read_masks(finest, weights)
        if self.hq is None or fine is None:
            return masks, None
        return masks, read_masks(self.hq(upsampled, fine), self.hq.hf_mlp(decoded.tokens[:, len(own)]))

    def embed(self, prompts: PromptTokens) -> Tensor:
        """Return the prompts' (N, P, C) embeddings, SAM's."""
        return embed(self.prompt_encoder, prompts)


class PromptedSAM(AdaptedSAM, PromptedSegmenter):
    """An adapted SAM that segments what prompts show, each structure by itself.

    A structure's logit is that of its mask; background's is 0. With one class the softmax of both is the sigmoid of the
    mask.

    Args:
        sam, spec, sites, settings: of `AdaptedSAM`; the head is a `PromptedMasks`.
        simulation: of prompts in training.
    """

    head: PromptedMasks

    def __init__(
        self,
        sam: Sam,
        spec: NetworkSpec,
        sites: Sequence[Sites] | None,
        *,
        simulation: PromptSimulation,
        **settings: Any,
    ) -> None:
        super().__init__(sam, spec, sites, **settings)
        self.simulation, self.prompts = simulation, simulation.prompts
        self.order = [self.labels.foreground.index(named) for named in self.labels.channels]

    def forward(self, image: Tensor, drawn: Tensor | None = None) -> Tensor:
        return self._with_background(self._masks(self.embed(self.pixels(image)), drawn, image.shape[2:]))

    def sums(self, batch: Batch) -> dict[str, Tensor]:
        return self.compare(self.answer(batch), batch.label)

    def answer(self, batch: Batch) -> Tensor:
        embedded = self.embed(self.pixels(batch.image))
        drawn = self.simulate(batch.label, embedded)
        return self._with_background(self._masks(embedded, drawn, batch.label.shape[1:]))

    @torch.no_grad()
    def simulate(self, label: Tensor, embedded: tuple[Tensor, ...]) -> Tensor:
        """Draw a (B, R, D, H, W) uint8 prompt map for (B, D, H, W) labels, as the settings say, at random."""
        target = region_targets(label, self.labels)[:, self.order].bool()
        known, settings = known_voxels(label, self.labels), self.simulation
        mode = draw_mode(settings.prompts)
        if mode == "box":
            return simulated_boxes(target, overlap=settings.box_overlap, relaxation=settings.box_relaxation)
        drawn = simulated_clicks(target, settings.points if mode == "points" else 1)
        for _ in range(settings.rounds - 1 if mode == "iterative" else 0):
            drawn = corrected(drawn, self._masks(embedded, drawn, label.shape[1:]), target, known)
        torch.clear_autocast_cache()  # some versions of torch would give the step casts of weights without gradient
        return drawn

    def _masks(self, embedded: tuple[Tensor, ...], drawn: Tensor | None, shape: Sequence[int]) -> Tensor:
        """What `embed` gives and a prompt map to (B, R, D, H, W) logits of the patch."""
        (batch, depth), structures = embedded[0].shape[:2], len(self.labels.foreground)
        if drawn is None:
            embedding, *fine = (given.flatten(0, 1) for given in embedded)
            masks = self.head(embedding, None, *fine).unflatten(0, (batch, 1, depth))
            return self.fit(masks, shape).expand(-1, structures, -1, -1, -1)
        pairs, prompts = read_map(drawn, self.scale, self.pixels.encoder_size)
        sample, structure, place = pairs.unbind(1)
        nothing = embedded[0].new_full((batch, structures, depth, *shape[1:]), ABSENT)
        logits = nothing + 0 * embedded[-1].mean()  # a gradient, where nothing is shown
        together = max(1, len(pairs)) if torch.is_grad_enabled() else TOGETHER
        for part in (slice(first, first + together) for first in range(0, len(pairs), together)):
            embedding, *fine = (given[sample[part], place[part]] for given in embedded)
            masks = self.head(embedding, PromptTokens(*(tokens[part] for tokens in prompts)), *fine)
            masks = self.fit(masks[None, None], (len(masks), *shape[1:]))[0, 0]
            logits = logits.index_put((sample[part], structure[part], place[part]), masks.to(logits.dtype))
        return logits

    def _with_background(self, logits: Tensor) -> Tensor:
        """(B, R, D, H, W) to (B, K, D, H, W): for classes, a background of zeros before them."""
        return logits if self.labels.has_regions else torch.cat((torch.zeros_like(logits[:, :1]), logits), dim=1)
