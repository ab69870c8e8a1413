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
from samunet.models.losses import known_voxels, region_targets, slab_sums
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
from samunet.sam.decoder import DecoderSites, decode, mask_weights, masks_from, own_tokens, without_mask
from samunet.sam.encoder import Sites

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
    """

    def __init__(self, sam: Sam, decoder: MaskDecoder, sites: Sequence[DecoderSites] | None = None) -> None:
        super().__init__()
        self.prompt_encoder, self.mask_decoder = sam.prompt_encoder, decoder
        self.sites = None if sites is None else nn.ModuleList(sites)
        self.difference = decoder.num_mask_tokens == 2

    def forward(self, embedding: Tensor, prompts: PromptTokens | None) -> Tensor:
        """(N, C, h, w) embeddings of the pairs' slices to (N, f*h, f*w) logits; None answers as SAM without prompts."""
        decoder, encoder = self.mask_decoder, self.prompt_encoder
        given = shown = mean = None
        if prompts is not None:
            shown = prompts.kinds >= 0
            given = self.embed(prompts)
            mean = given.sum(1, keepdim=True) / shown.sum(1)[:, None, None]
        decoded = decode(
            decoder.transformer,
            encoder.pe_layer,
            embedding,
            own_tokens(decoder),
            dense=without_mask(encoder),
            prompts=given,
            shown=shown,
            mean=mean,
            sites=self.sites,
        )
        weights = mask_weights(decoder, decoded, 0)
        if self.difference:
            weights = mask_weights(decoder, decoded, 1) - weights
        return masks_from(decoder, decoded, weights)

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
        return self._with_background(self._masks(self.encode(self.pixels(image)), drawn, image.shape[2:]))

    def sums(self, batch: Batch) -> dict[str, Tensor]:
        return slab_sums(self.answer(batch), batch.label, self.labels)

    def answer(self, batch: Batch) -> Tensor:
        embedding = self.encode(self.pixels(batch.image))
        drawn = self.simulate(batch.label, embedding)
        return self._with_background(self._masks(embedding, drawn, batch.label.shape[1:]))

    @torch.no_grad()
    def simulate(self, label: Tensor, embedding: Tensor) -> Tensor:
        """Draw a (B, R, D, H, W) uint8 prompt map for (B, D, H, W) labels, as the settings say, at random."""
        target = region_targets(label, self.labels)[:, self.order].bool()
        known, settings = known_voxels(label, self.labels), self.simulation
        mode = draw_mode(settings.prompts)
        if mode == "box":
            return simulated_boxes(target, overlap=settings.box_overlap, relaxation=settings.box_relaxation)
        drawn = simulated_clicks(target, settings.points if mode == "points" else 1)
        for _ in range(settings.rounds - 1 if mode == "iterative" else 0):
            drawn = corrected(drawn, self._masks(embedding, drawn, label.shape[1:]), target, known)
        torch.clear_autocast_cache()  # some versions of torch would give the step casts of weights without gradient
        return drawn

    def _masks(self, embedding: Tensor, drawn: Tensor | None, shape: Sequence[int]) -> Tensor:
        """(B, D, C, h, w) embedding and a prompt map to (B, R, D, H, W) logits of the patch."""
        batch, depth = embedding.shape[:2]
        structures = len(self.labels.foreground)
        if drawn is None:
            masks = self.head(embedding.flatten(0, 1), None).unflatten(0, (batch, 1, depth))
            return self.fit(masks, shape).expand(-1, structures, -1, -1, -1)
        pairs, prompts = read_map(drawn, self.scale, self.pixels.encoder_size)
        sample, structure, place = pairs.unbind(1)
        nothing = embedding.new_full((batch, structures, depth, *shape[1:]), ABSENT)
        logits = nothing + 0 * embedding.mean()  # a gradient, where nothing is shown
        together = max(1, len(pairs)) if torch.is_grad_enabled() else TOGETHER
        for part in (slice(first, first + together) for first in range(0, len(pairs), together)):
            masks = self.head(embedding[sample[part], place[part]], PromptTokens(*(tokens[part] for tokens in prompts)))
            masks = self.fit(masks[None, None], (len(masks), *shape[1:]))[0, 0]
            logits = logits.index_put((sample[part], structure[part], place[part]), masks.to(logits.dtype))
        return logits

    def _with_background(self, logits: Tensor) -> Tensor:
        """(B, R, D, H, W) to (B, K, D, H, W): for classes, a background of zeros before them."""
        return logits if self.labels.has_regions else torch.cat((torch.zeros_like(logits[:, :1]), logits), dim=1)
