"""H-SAM's two decoders: class tokens, and class tokens that look where the first one's masks are.

Axes: N slices, C decoder width, h w token rows and columns, L = h*w, K outputs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from segment_anything.modeling import Sam, TwoWayTransformer
from segment_anything.modeling.common import LayerNorm2d
from segment_anything.modeling.mask_decoder import MLP
from segment_anything.modeling.prompt_encoder import PositionEmbeddingRandom
from segment_anything.modeling.transformer import Attention
from torch import Tensor, nn

from samunet.core.labels import Labels
from samunet.models.heads import ClassTokenMasks
from samunet.sam.decoder import TOKEN_TO_IMAGE, DecoderSites, decode, read_masks, without_mask
from samunet.sam.hq import twice
from samunet.variants.h_sam.rules import Config

DROPOUT = 0.2  # of what the second decoder's tokens read from the image; the authors'
FLOOR = 1e-3  # of a class's chance at a place, or the second decoder could not find what the first one misses
GATE_START = -4.0  # a gate of 0.02, so that the second decoder starts as if there were none


class HierarchicalMasks(ClassTokenMasks):
    """Both decoders as one head.

    Args:
        sam: gives the first decoder, and the second its sizes.
        labels: of the dataset.
        config: the method's options.
    """

    def __init__(self, sam: Sam, labels: Labels, config: Config) -> None:
        super().__init__(sam, labels.outputs, 4, hq=config.hq, cross_first=True)
        self.regions, self.embedding_noise = labels.has_regions, config.embedding_noise
        self.second = SecondDecoder(sam, labels.outputs, gated=config.gate == "sigmoid")

    def stages(
        self, embedding: Tensor, fine: Tensor | None = None, *, deviations: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the (N, K, 4h, 4w) logits of the first decoder and the (N, K, 16h, 16w) logits of the second.

        Args:
            embedding: (N, C, h, w).
            fine: see `ClassTokenMasks`.
            deviations: (N, K) of noise on the gate's classes, for training.
        """
        logits, upsampled = self.stage(embedding, fine)
        small = F.interpolate(logits, size=embedding.shape[2:], mode="bilinear", align_corners=False)
        prior = small.sigmoid() if self.regions else small.softmax(1)
        if self.training and self.embedding_noise > 0:
            spread = embedding.amax((1, 2, 3), keepdim=True) - embedding.amin((1, 2, 3), keepdim=True)
            embedding = embedding + self.embedding_noise * spread * torch.randn_like(embedding)
        planes = embedding + without_mask(self.prompt_encoder)
        encoding = self.prompt_encoder.pe_layer
        return logits, self.second(planes, prior.flatten(2), upsampled, encoding, deviations)


class SecondDecoder(nn.Module):
    """A mask decoder without a token for quality, whose classes attend where the first decoder sees them.

    Args:
        sam: gives sizes; no weight of it takes part.
        outputs: K.
        gated: strengthen the embedding by a `ClassGate`; otherwise it is doubled.
    """

    def __init__(self, sam: Sam, outputs: int, *, gated: bool) -> None:
        super().__init__()
        like, width = sam.mask_decoder.transformer, sam.mask_decoder.transformer_dim
        heads, mlp_dim = like.num_heads, like.mlp_dim
        self.transformer = TwoWayTransformer(like.depth, width, heads, mlp_dim)
        for layer in self.transformer.layers:
            layer.cross_attn_token_to_image = Attention(width, heads)
            layer.cross_attn_image_to_token = Attention(width, heads)
        self.sites = nn.ModuleList([*(CrossDropout() for _ in self.transformer.layers), DecoderSites()])
        self.mask_tokens = nn.Embedding(outputs, width)
        some, few, least = width // 4, width // 8, width // 16
        self.output_upscaling = nn.Sequential(
            twice(width, some), LayerNorm2d(some), nn.GELU(), twice(some, few), nn.GELU()
        )
        self.skip_connect = nn.Sequential(
            twice(some, few), LayerNorm2d(few), nn.GELU(), twice(few, least), LayerNorm2d(least), nn.GELU()
        )
        self.output_hypernetworks_mlps = nn.ModuleList(MLP(width, width, least, 5) for _ in range(outputs))
        self.gate = ClassGate(width, heads, mlp_dim) if gated else None

    def forward(
        self,
        planes: Tensor,
        prior: Tensor,
        upsampled: Tensor,
        encoding: PositionEmbeddingRandom,
        deviations: Tensor | None,
    ) -> Tensor:
        """Return (N, K, 16h, 16w) logits.

        Args:
            planes: (N, C, h, w) embedding with the dense prompt.
            prior: (N, K, L) chances of the classes at the places.
            upsampled: (N, C/8, 4h, 4w) features of the first decoder.
            encoding: gives the positions of the places.
            deviations: see `HierarchicalMasks.stages`.
        """
        if self.gate is None:
            planes = planes + planes
        else:
            prior = prior.clamp_min(FLOOR)
            planes = planes + planes * self.gate(planes, prior, deviations)
        decoded = decode(
            self.transformer,
            encoding,
            planes,
            self.mask_tokens.weight,
            dense=planes.new_zeros(()),
            prior=prior,
            cross_first=True,
            sites=self.sites,
        )
        features = self.skip_connect(torch.cat((self.output_upscaling(decoded.places), upsampled), dim=1))
        tokens = zip(self.output_hypernetworks_mlps, decoded.tokens.unbind(1), strict=True)
        return read_masks(features, torch.stack([mlp(token) for mlp, token in tokens], dim=1))


class CrossDropout(DecoderSites):
    """Drops some of what tokens read from the image, in training."""

    def beside_attention(self, attention: str, attended: Tensor, prompts: Tensor) -> Tensor | None:
        if attention != TOKEN_TO_IMAGE or not self.training:
            return None
        return F.dropout(attended, DROPOUT) - attended


class ClassGate(nn.Module):
    """Attention among the classes of a slice, and from it how much each place is strengthened.

    A class is the mean of the plane where it is; the classes attend to each other; a place's gate is the mean of its
    classes' gates, by their chances.

    Args:
        width: C.
        heads, mlp_dim: of the attention and of the MLPs.
    """

    def __init__(self, width: int, heads: int, mlp_dim: int) -> None:
        super().__init__()
        self.entry = nn.LayerNorm(width)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, heads, mlp_dim, dropout=0.0, batch_first=True, norm_first=True)
            for _ in range(2)
        )
        self.exit = nn.LayerNorm(width)
        nn.init.zeros_(self.exit.weight)  # every place starts with the same gate
        self.shift = nn.Parameter(torch.tensor(GATE_START))

    def forward(self, planes: Tensor, prior: Tensor, deviations: Tensor | None) -> Tensor:
        """(N, C, h, w) planes and (N, K, L) chances to (N, 1, h, w) in [0, 1]."""
        places = planes.flatten(2)
        classes = self.entry(prior / prior.sum(2, keepdim=True) @ places.transpose(1, 2))
        if deviations is not None:
            classes = classes + deviations.unsqueeze(2) * torch.randn_like(classes)
        for layer in self.layers:
            classes = layer(classes)
        gates = (self.exit(classes) @ places * planes.shape[1] ** -0.5 + self.shift).sigmoid()
        mixed = (prior * gates).sum(1, keepdim=True) / prior.sum(1, keepdim=True).clamp_min(1)
        return mixed.unflatten(2, planes.shape[2:])
