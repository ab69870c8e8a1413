"""What HQ-SAM adds to SAM: a token with a mask of its own, read from features that early blocks have a part in.

Source: Ke et al., Segment Anything in High Quality, NeurIPS 2023; names of parameters are those of its checkpoints.
Axes: N slices, C decoder width, c = C/8, E encoder width, h w token rows and columns.
"""

from __future__ import annotations

from segment_anything.modeling import Sam
from segment_anything.modeling.common import LayerNorm2d
from segment_anything.modeling.mask_decoder import MLP
from torch import Tensor, nn

IN_CHECKPOINTS, IN_SAM = "mask_decoder.", "hq"
"""Prefix of the parameters in checkpoints, and the module of a `Sam` that holds them."""


def twice(inputs: int, outputs: int) -> nn.ConvTranspose2d:
    """Return a transposed convolution that doubles a plane's sides."""
    return nn.ConvTranspose2d(inputs, outputs, kernel_size=2, stride=2)


class FusedFeature(nn.Module):
    """HQ-SAM's mask feature: the sum of an early block's output, SAM's embedding and SAM's upsampled features.

    Args:
        width: C.
        tokens_width: E.
    """

    def __init__(self, width: int, tokens_width: int) -> None:
        super().__init__()
        few, some = width // 8, width // 4
        self.compress_vit_feat = nn.Sequential(
            twice(tokens_width, width), LayerNorm2d(width), nn.GELU(), twice(width, few)
        )
        self.embedding_encoder = nn.Sequential(twice(width, some), LayerNorm2d(some), nn.GELU(), twice(some, few))
        self.embedding_maskfeature = nn.Sequential(
            nn.Conv2d(few, some, 3, padding=1), LayerNorm2d(some), nn.GELU(), nn.Conv2d(some, few, 3, padding=1)
        )

    def of_image(self, embedding: Tensor, early: Tensor) -> Tensor:
        """Return the (N, c, 4h, 4w) part that no prompt changes.

        Args:
            embedding: (N, C, h, w).
            early: (N, h, w, E) output of the last block of the encoder's first quarter.
        """
        fine: Tensor = self.embedding_encoder(embedding) + self.compress_vit_feat(early.permute(0, 3, 1, 2))
        return fine

    def forward(self, upsampled: Tensor, fine: Tensor) -> Tensor:
        """Join SAM's (N, c, 4h, 4w) upsampled features and what `of_image` gave."""
        fused: Tensor = self.embedding_maskfeature(upsampled) + fine
        return fused


class HQParts(FusedFeature):
    """The fused feature, the token that follows SAM's own, and what turns that token into weights over the feature."""

    def __init__(self, width: int, tokens_width: int) -> None:
        super().__init__(width, tokens_width)
        self.hf_token = nn.Embedding(1, width)
        self.hf_mlp = MLP(width, width, width // 8, 3)


def new_parts(sam: Sam) -> HQParts:
    """Return HQ-SAM's parts of a SAM's sizes, at random."""
    return HQParts(sam.mask_decoder.transformer_dim, sam.image_encoder.pos_embed.shape[-1])


def parts_of(sam: Sam) -> HQParts:
    """Return HQ-SAM's parts: those that came with the weights of a SAM, or new ones."""
    given = getattr(sam, IN_SAM, None)
    return given if isinstance(given, HQParts) else new_parts(sam)


def take_in(sam: Sam, stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give a SAM HQ-SAM's parts where a checkpoint has them, and return its tensors by the names that they have there.

    Args:
        sam: gets the module "hq".
        stored: a checkpoint's, SAM's or HQ-SAM's.
    """
    if f"{IN_CHECKPOINTS}hf_token.weight" not in stored:
        return stored
    parts = new_parts(sam)
    sam.add_module(IN_SAM, parts)
    renamed = {f"{IN_CHECKPOINTS}{name}": f"{IN_SAM}.{name}" for name in parts.state_dict()}
    return {renamed.get(name, name): tensor for name, tensor in stored.items()}
