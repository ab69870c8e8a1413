"""Queries in place of prompts: a generator makes a mask, a box and a token for each, SAM's decoder its classes.

Source: Xie et al., MaskSAM, ICCV 2025, from its equations. Axes: B batch, D slices, Q queries, C decoder width, E
encoder width, h w token rows and columns, H W pixels of the padded encoder plane.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from segment_anything.modeling import Sam
from torch import Tensor, nn

from samunet.core.geometry import Shape
from samunet.models.convolution import ConvNormAct, Convolution, TransposedConvolution, instance_norm, set_to_zero
from samunet.sam.decoder import decode, mask_weights, masks_from, own_tokens
from samunet.variants.masksam.adapters import MaskDecoderAdapters, SlabOfQueries
from samunet.variants.masksam.matching import tight_boxes
from samunet.variants.masksam.rules import generator_widths

CORNERS = 2, 3  # SAM's point embeddings of a box


class Prompts(NamedTuple):
    """What the generator gives for every slice and query."""

    masks: Tensor
    """(B, Q, D, f*h, f*w) logits of auxiliary masks on the padded plane."""
    shown: Tensor
    """The same, true where a mask is and the plane is not padding; carries no gradient."""
    boxes: Tensor
    """(B, D, Q, 4) x1, y1, x2, y2 as shares of the padded plane."""
    tokens: Tensor
    """(B, D, Q, C)."""


class Answers(NamedTuple):
    """What the decoder gives for every slice and query."""

    masks: Tensor
    """(B, Q, D, 4h, 4w) logits."""
    classes: Tensor
    """(B, D, Q, K + 1) logits; the last is "no object"."""


def twice_in_plane(inputs: int, outputs: int) -> TransposedConvolution:
    """Return a transposed convolution that doubles h and w."""
    return TransposedConvolution(inputs, outputs, (1, 2, 2))


class LearnedPixels(nn.Module):
    """MaskSAM's stem: a normalized image to SAM's three channels by convolutions, up to the encoder's resolution.

    Args:
        channels: of the image.
        doublings: how often the plane's sides double: log2 of encoder pixels per voxel.
        encoder_size: (H, W); planes are zero-padded at the bottom and right.
    """

    def __init__(self, channels: int, doublings: int, encoder_size: tuple[int, int]) -> None:
        super().__init__()
        self.encoder_size = encoder_size
        width = 16 if doublings else 8
        layers: list[nn.Module] = [ConvNormAct(channels, width)]
        for _ in range(doublings):
            layers += [twice_in_plane(width, width), instance_norm(width), nn.GELU()]
        self.layers = nn.Sequential(*layers, ConvNormAct(width, 3))

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, D, H, W) voxels to (B, D, 3, H, W) encoder pixels."""
        pixels = self.layers(image).movedim(1, 2)
        missing = [want - have for want, have in zip(self.encoder_size, pixels.shape[3:], strict=True)]
        return F.pad(pixels, (0, missing[1], 0, missing[0]))


class PromptGenerator(nn.Module):
    """A convolutional decoder over four of the encoder's blocks and its neck, with three heads.

    Args:
        width: E.
        decoder_width: C.
        queries: Q.
        doublings: of the token grid toward voxels; later stages refine at that resolution.
        kernels: of the stages, from the neck on; the last one serves those beyond.
    """

    def __init__(
        self, width: int, decoder_width: int, queries: int, *, doublings: int, kernels: Sequence[Shape]
    ) -> None:
        super().__init__()
        self.side = math.ceil(math.sqrt(decoder_width))
        self.decoder_width = decoder_width
        widths = [decoder_width, *generator_widths(decoder_width)]
        kernel = [kernels[min(stage, len(kernels) - 1)] for stage in range(len(widths))]
        self.first = nn.Sequential(
            ConvNormAct(decoder_width, widths[0], kernel[0]), ConvNormAct(widths[0], widths[0], kernel[0])
        )
        self.ups, self.laterals, self.joins = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for stage in range(1, len(widths)):
            before, after = widths[stage - 1], widths[stage]
            self.ups.append(twice_in_plane(before, after) if stage <= doublings else nn.Identity())
            lateral: list[nn.Module] = [ConvNormAct(width, after, (1, 1, 1))] if doublings == 0 else []
            for level in range(min(stage, doublings)):
                lateral += [twice_in_plane(after if level else width, after), ConvNormAct(after, after, kernel[stage])]
            self.laterals.append(nn.Sequential(*lateral))
            self.joins.append(ConvNormAct((after if stage <= doublings else before) + after, after, kernel[stage]))
        self.mask = Convolution(widths[-1], queries, 1)
        pooled = sum(widths)
        self.box = nn.Sequential(Convolution(pooled, queries, 1, bias=False), instance_norm(queries))
        self.token = nn.Sequential(Convolution(pooled, queries, 3, padding=1), instance_norm(queries), nn.GELU())

    def forward(self, taps: Sequence[Tensor], neck: Tensor, used: tuple[float, float]) -> Prompts:
        """Make prompts.

        Args:
            taps: (B, D, h, w, E) outputs of the blocks.
            neck: (B, D, C, h, w).
            used: share of the plane's rows and columns that is no padding.
        """
        stages = [self.first(neck.movedim(1, 2))]
        for up, lateral, join, tap in zip(self.ups, self.laterals, self.joins, reversed(taps), strict=True):
            stages.append(join(torch.cat((up(stages[-1]), lateral(tap.movedim(-1, 1))), dim=1)))
        masks = self.mask(stages[-1])
        # (B, D, Q, 2, 2): x1 y1, and shares of what is left
        cells = self.box(_pooled(stages, 2)).float().sigmoid().movedim(2, 1)
        first, share = cells.unbind(3)
        predicted = torch.cat((first, first + (1 - first) * share), dim=-1)
        shown = masks.detach() > 0
        for axis, share_used in zip((3, 4), used, strict=True):
            padding = shown.shape[axis] - math.ceil(shown.shape[axis] * share_used)
            shown.narrow(axis, shown.shape[axis] - padding, padding).fill_(False)
        boxes = (predicted + tight_boxes(shown.movedim(1, 2))) / 2
        tokens = self.token(_pooled(stages, self.side)).movedim(2, 1).flatten(3)[..., : self.decoder_width]
        return Prompts(masks=masks, shown=shown, boxes=boxes, tokens=tokens)


def _pooled(stages: Sequence[Tensor], side: int) -> Tensor:
    """Average every stage's planes to side x side and stack the channels: (B, sum of C, D, side, side)."""
    return torch.cat([F.adaptive_avg_pool3d(stage, (stage.shape[2], side, side)) for stage in stages], dim=1)


class QueryMasks(nn.Module):
    """SAM's prompt encoder and mask decoder, run once for every slice and query.

    The tokens are SAM's (quality and four masks), the two corners of the query's box, and a class token: a learned
    vector plus the query's own. The query's thresholded mask is the dense prompt. Masks come from SAM's first mask
    token. Boxes and mask prompts carry no gradient, as published: the generator learns them by losses of their own.

    Args:
        sam: takes part in the result.
        outputs: K.
        depth: slices of a slab, for embeddings along depth.
        adapters: of the decoder's layers, see `mask_decoder_adapters`.
    """

    def __init__(self, sam: Sam, outputs: int, depth: int, adapters: Sequence[MaskDecoderAdapters]) -> None:
        super().__init__()
        width = sam.mask_decoder.transformer_dim
        self.prompt_encoder, self.mask_decoder = sam.prompt_encoder, sam.mask_decoder
        self.adapters = nn.ModuleList(adapters)
        self.class_token = nn.Parameter(torch.randn(1, width))
        self.depth_embedding = nn.Parameter(torch.zeros(depth, width))
        self.classify = nn.Linear(width, outputs + 1)

    def forward(self, embedding: Tensor, prompts: Prompts) -> Answers:
        """(B, D, C, h, w) embedding and prompts to masks and classes."""
        batch, depth, _, *plane = embedding.shape
        slab, sides = (batch, depth, prompts.boxes.shape[2]), (plane[0], plane[1])
        decoder, encoder = self.mask_decoder, self.prompt_encoder
        masks = prompts.shown.to(embedding.dtype).movedim(1, 2).flatten(0, 2).unsqueeze(1)
        large = F.interpolate(masks, size=[4 * side for side in sides], mode="nearest-exact")
        corners, classes = self._corners(prompts.boxes), (self.class_token + prompts.tokens).unsqueeze(3)
        own = own_tokens(decoder)
        decoded = decode(
            decoder.transformer,
            encoder.pe_layer,
            embedding.unsqueeze(2).expand(-1, -1, slab[2], -1, -1, -1).flatten(0, 2),
            own,
            dense=encoder.mask_downscaling(large),
            along=along_depth(self.depth_embedding, depth).repeat(batch, 1).repeat_interleave(slab[2], dim=0),
            prompts=torch.cat((corners.to(own.dtype), classes.to(own.dtype)), dim=3).flatten(0, 2),
            sites=[SlabOfQueries(cast(MaskDecoderAdapters, part), slab, sides) for part in self.adapters],
        )
        answers = masks_from(decoder, decoded, mask_weights(decoder, decoded, 0)).unflatten(0, slab)
        return Answers(masks=answers.movedim(2, 1), classes=self.classify(decoded.tokens[:, -1]).unflatten(0, slab))

    def _corners(self, boxes: Tensor) -> Tensor:
        """(B, D, Q, 4) boxes to (B, D, Q, 2, C) embeddings of their corners, SAM's."""
        encoding = self.prompt_encoder.pe_layer
        with torch.autocast(boxes.device.type, enabled=False):
            placed: Tensor = encoding._pe_encoding(boxes.detach().float().unflatten(-1, (2, 2)))
        return placed + torch.stack([self.prompt_encoder.point_embeddings[corner].weight[0] for corner in CORNERS])


class FinestMasks(nn.Module):
    """What the authors' versions with one encoder pixel a voxel end with: convolutions over all queries' masks.

    They bring masks to the voxels. Here they are added to the enlarged masks and start at zero.

    Args:
        queries: Q.
        width: channels between.
        doublings: of the plane, from the decoder's masks to voxels.
    """

    def __init__(self, queries: int, width: int, doublings: int) -> None:
        super().__init__()
        self.factor = float(2**doublings)
        layers: list[nn.Module] = [ConvNormAct(queries, width, (1, 3, 3))]
        for _ in range(doublings):
            layers += [twice_in_plane(width, width), instance_norm(width), nn.GELU()]
        last = Convolution(width, queries, (1, 3, 3), padding=(0, 1, 1))
        set_to_zero(last)
        self.layers = nn.Sequential(*layers, last)

    def forward(self, masks: Tensor) -> Tensor:
        """(B, Q, D, 4h, 4w) logits to (B, Q, D, H, W)."""
        large = F.interpolate(masks, scale_factor=(1.0, self.factor, self.factor), mode="trilinear")
        refined: Tensor = large + self.layers(masks)
        return refined


def along_depth(embedding: Tensor, depth: int) -> Tensor:
    """Bring a (D, C) embedding of slices to another number of them, linearly: (depth, C)."""
    if len(embedding) == depth:
        return embedding
    return F.interpolate(embedding.T.unsqueeze(0), size=depth, mode="linear", align_corners=False)[0].T
