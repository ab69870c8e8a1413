"""HQ-SAM in the place of SAM: an encoder and a mask decoder that are called as SAM's are.

Source: Ke et al., Segment Anything in High Quality, NeurIPS 2023, whose mask is SAM's and that of the added token.
Axes: N planes, C decoder width, c = C/8, h w token rows and columns, M masks.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam
from torch import Tensor, nn

from samunet.sam.decoder import decode, mask_weights, own_tokens, read_masks
from samunet.sam.encoder import Sites, embed_patches, encode, ends_of_quarters
from samunet.sam.hq import IN_SAM, HQParts

FINER = 4  # times the token rows and columns are those of masks


class HQEncoder(nn.Module):
    """SAM's encoder and, behind its channels, the fused feature's part of the image, folded to the tokens' grid."""

    def __init__(self, encoder: ImageEncoderViT, parts: HQParts) -> None:
        super().__init__()
        self.encoder, self.parts = encoder, parts

    @property
    def channels(self) -> int:
        """C + 16c."""
        width = self.parts.hf_token.embedding_dim
        return width + FINER**2 * (width // 8)

    def forward(self, pixels: Tensor) -> Tensor:
        """(N, 3, 16h, 16w) to (N, C + 16c, h, w)."""
        tokens = embed_patches(self.encoder, pixels[:, None])
        early = ends_of_quarters(self.encoder)[:1]
        encoded = encode(self.encoder, tokens, [Sites()] * len(self.encoder.blocks), early)
        neck = encoded.neck[:, 0]
        return torch.cat([neck, F.pixel_unshuffle(self.parts.of_image(neck, encoded.taps[0][:, 0]), FINER)], dim=1)


class HQDecoder(nn.Module):
    """SAM's mask decoder with HQ-SAM's token, whose mask is added to each of SAM's.

    Args:
        plain: SAM's.
        prompt_encoder: gives the positions of places.
    """

    def __init__(self, plain: MaskDecoder, prompt_encoder: PromptEncoder, parts: HQParts) -> None:
        super().__init__()
        self.plain, self.positions, self.parts = plain, prompt_encoder.pe_layer, parts

    def forward(
        self,
        image_embeddings: Tensor,
        image_pe: Tensor,
        sparse_prompt_embeddings: Tensor,
        dense_prompt_embeddings: Tensor,
        multimask_output: bool,
    ) -> tuple[Tensor, Tensor]:
        """Return the (N, M, 4h, 4w) logits and (N, M) expected IoUs of SAM's decoder; see its forward pass.

        Args:
            image_embeddings: of an `HQEncoder`.
            image_pe: is not looked at, since the positions are always those of the plane.
        """
        plain, width = self.plain, self.plain.transformer_dim
        own = own_tokens(plain)
        decoded = decode(
            plain.transformer,
            self.positions,
            image_embeddings[:, :width],
            torch.cat((own, self.parts.hf_token.weight)),
            dense=dense_prompt_embeddings,
            prompts=sparse_prompt_embeddings,
        )
        upsampled = plain.output_upscaling(decoded.places)
        chosen = range(1, plain.num_mask_tokens) if multimask_output else range(1)
        weights = torch.stack([mask_weights(plain, decoded, mask) for mask in chosen], dim=1)
        fused = self.parts(upsampled, F.pixel_shuffle(image_embeddings[:, width:], FINER))
        added = read_masks(fused, self.parts.hf_mlp(decoded.tokens[:, len(own)]))
        quality = plain.iou_prediction_head(decoded.tokens[:, 0])[:, list(chosen)]
        return read_masks(upsampled, weights) + added[:, None], quality


def in_high_quality(sam: Sam) -> Sam:
    """Give a SAM whose weights came with HQ-SAM's parts that encoder and decoder; others stay as they are."""
    parts = getattr(sam, IN_SAM, None)
    if isinstance(parts, HQParts):
        sam.image_encoder = HQEncoder(sam.image_encoder, parts)
        sam.mask_decoder = HQDecoder(sam.mask_decoder, sam.prompt_encoder, parts)
    return sam


def plain_decoder(sam: Sam) -> MaskDecoder:
    """Return SAM's own mask decoder, of an HQ-SAM too."""
    return sam.mask_decoder.plain if isinstance(sam.mask_decoder, HQDecoder) else sam.mask_decoder
