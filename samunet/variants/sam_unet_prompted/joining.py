"""Where prompts meet the image: as maps in the U-Net's stages, and as tokens in SAM's mask decoder.

Axes: N structures shown, D H W voxels, F features of a stage, C decoder width, h w token rows and columns, P pairs of a
structure and a slice.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from segment_anything.modeling import Sam
from torch import Tensor, nn

from samunet.core.plan import Topology
from samunet.core.prompts import BOX, INSIDE, MASK, OUTSIDE
from samunet.models.convolution import Convolution
from samunet.models.prompt_tokens import embed, read_map
from samunet.sam.backbones import TOKEN_PIXELS
from samunet.sam.decoder import decode, without_mask
from samunet.variants.sam_unet.hypernetwork import Hypernetwork, read_normalized

BITS = (INSIDE, OUTSIDE, BOX, MASK)
STEM_WIDTH = 16
LIKENESS_STAGE = 2  # where a reference's features are compared with the image's; the deepest stage of smaller networks
MOST_POINTS = 8  # clicks of a slice that become tokens; a scribble has many


class PromptStem(nn.Module):
    """A light second encoder, of prompt maps, whose features are added to the image's at every stage.

    Its convolutions have no norm: a map is nearly everywhere zero, and the share of it that is not would set the scale.
    """

    def __init__(self, topology: Topology) -> None:
        super().__init__()
        self.strides = topology.strides
        self.likeness_stage = min(LIKENESS_STAGE, len(topology.widths) - 1)
        self.convolutions, self.joins = nn.ModuleList(), nn.ModuleList()
        for stage, (kernel, width) in enumerate(zip(topology.kernels, topology.widths, strict=True)):
            inputs = len(BITS) + (STEM_WIDTH if stage else 0) + (stage == self.likeness_stage)
            padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
            self.convolutions.append(Convolution(inputs, STEM_WIDTH, kernel, padding=padding))
            self.joins.append(Convolution(STEM_WIDTH, width, 1))

    def forward(self, drawn: Tensor, stages: list[Tensor], likeness: Tensor | None) -> list[Tensor]:
        """Add what prompts say to the image's features.

        Args:
            drawn: (N, D, H, W) uint8 prompt map.
            stages: (N, F, D, H, W) of every stage, full resolution first.
            likeness: (N, 1, d, h, w) how alike places are to a reference, -1 to 1, at the stage `likeness_stage`; None
                without one.
        """
        maps = torch.stack([(drawn & bit > 0) for bit in BITS], dim=1).to(stages[0].dtype)
        hidden, joined = None, []
        for stage, (features, stride, convolution, join) in enumerate(
            zip(stages, self.strides, self.convolutions, self.joins, strict=True)
        ):
            if hidden is not None:
                maps, hidden = F.max_pool3d(maps, stride), F.max_pool3d(hidden, stride)
            parts = [maps] if hidden is None else [maps, hidden]
            if stage == self.likeness_stage:
                parts.append(torch.zeros_like(maps[:, :1]) if likeness is None else likeness.to(maps.dtype))
            hidden = F.leaky_relu(convolution(torch.cat(parts, dim=1)), 0.01)
            joined.append(features + join(hidden))
        return joined


class PromptTokenHead(nn.Module):
    """SAM's two-way transformer over prompts and a slice's embedding gives weights over the U-Net's features.

    Slices without prompts get nothing. The hypernetwork gives zeros at first, so that the head adds nothing.

    Args:
        sam: gives the two-way transformer and the embeddings of prompts.
        features: F.
        scale: encoder pixels per voxel.
    """

    def __init__(self, sam: Sam, features: int, scale: float) -> None:
        super().__init__()
        width = sam.mask_decoder.transformer_dim
        self.transformer, self.prompts, self.scale = sam.mask_decoder.transformer, sam.prompt_encoder, scale
        self.prompts.mask_downscaling = nn.Identity()  # earlier masks come as maps
        self.token = nn.Embedding(1, width)
        self.weights_of = Hypernetwork(width, features, hidden=1)

    def forward(self, embedding: Tensor, drawn: Tensor, features: Tensor) -> Tensor:
        """Return logits to add.

        Args:
            embedding: (N, D', C, h, w).
            drawn: (N, D, H, W) prompt map.
            features: (N, F, D, H, W).

        Returns:
            (N, 1, D, H, W).
        """
        depth, size = drawn.shape[1], (TOKEN_PIXELS * embedding.shape[3], TOKEN_PIXELS * embedding.shape[4])
        pairs, prompts = read_map(thinned(drawn)[:, None], self.scale, size)
        sample, _, place = pairs.unbind(1)
        added = features.new_zeros(len(drawn), depth, *features.shape[3:])
        if not len(pairs):
            return added[:, None] + 0 * embedding.mean()  # a gradient, where nothing is shown
        planes = embedding[sample, place * embedding.shape[1] // depth]
        decoded = decode(
            self.transformer,
            self.prompts.pe_layer,
            planes,
            self.token.weight,
            dense=without_mask(self.prompts),
            prompts=embed(self.prompts, prompts),
            shown=prompts.kinds >= 0,
        )
        weights = self.weights_of(decoded.tokens[:, :1])
        masks = read_normalized("pkf,pfhw->pkhw", weights, features[sample, :, place])
        return added.index_put((sample, place), masks[:, 0].to(added.dtype))[:, None]


class Quality(nn.Module):
    """Guess the IoU of a mask from the features in it and around it.

    Args:
        features: F.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2 * features, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, features: Tensor, logits: Tensor) -> Tensor:
        """(N, F, D, H, W) features and (N, 1, D, H, W) logits to (N,) logits of the IoU; masks get no gradient."""
        chance = logits.detach().sigmoid()
        inside = (features * chance).mean((2, 3, 4)) / chance.mean((2, 3, 4)).clamp_min(1e-6)
        expected: Tensor = self.layers(torch.cat([inside, features.mean((2, 3, 4))], dim=1))
        return expected[:, 0]


def thinned(drawn: Tensor, most: int = MOST_POINTS) -> Tensor:
    """Leave of each (N, D, H, W) map's slices at most so many clicks of a kind, evenly along the rows."""
    kept = drawn & ~(INSIDE | OUTSIDE)
    for bit in (INSIDE, OUTSIDE):
        there = (drawn & bit > 0).flatten(2)
        number = there.cumsum(2)
        count = number[..., -1:].clamp_min(most)
        chosen = there & ((number * most) // count > ((number - 1) * most) // count)
        kept = kept | (chosen.view(drawn.shape) * torch.tensor(bit, dtype=torch.uint8))
    return kept


def likeness(features: Tensor, prototype: Tensor) -> Tensor:
    """Return the cosine of (N, F, d, h, w) features, less their mean, and (N, F) prototypes: (N, 1, d, h, w)."""
    centered = features - features.mean((2, 3, 4), keepdim=True)
    return F.cosine_similarity(centered, prototype[..., None, None, None], dim=1)[:, None]


def prototype(features: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of (N, F, d, h, w) features where (N, D, H, W) masks are, less that of all: (N, F)."""
    depth, height, width = features.shape[2:]
    share = F.adaptive_avg_pool3d(mask[:, None].to(features.dtype), (depth, height, width))
    inside = (features * share).sum((2, 3, 4)) / share.sum((2, 3, 4)).clamp_min(1e-6)
    return inside - features.mean((2, 3, 4))
