"""Heads on SAM's embedding of a slice: the mask decoder with a token for each class, a linear map, convolutions.

Source: Kirillov et al., Segment Anything, 2023; class tokens: Zhang and Liu, SAMed, 2023; progressive upsampling: Chen
et al., MA-SAM, Medical Image Analysis 2024. Axes: N slices, C decoder width, h w token rows and columns, K outputs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from segment_anything.modeling import MaskDecoder, Sam
from segment_anything.modeling.common import LayerNorm2d
from segment_anything.modeling.mask_decoder import MLP
from torch import Tensor, nn

from samunet.errors import ConfigError
from samunet.models.convolution import set_to_zero
from samunet.sam.decoder import DecoderSites, decode, mask_weights, own_tokens, read_masks, without_mask
from samunet.sam.hq import FusedFeature, parts_of, twice

UPSAMPLINGS = (4, 16)


def class_token_decoder(sam: Sam, outputs: int, upsampling: int) -> MaskDecoder:
    """Return SAM's mask decoder with K tokens, all of whose masks are used; parameter names stay SAM's.

    What has a twin in SAM starts from it: iou token, two-way transformer, and the transposed convolutions and norm of
    the x4 upsampling. Tokens, hypernetworks and the unused quality head are new, as in SAMed and MA-SAM.

    Args:
        sam: takes part in the result: its transformer is used, not copied.
        outputs: K.
        upsampling: 4 as in SAM, or 16 as in MA-SAM: two more transposed convolutions, logits at the encoder's
            resolution.

    Raises:
        ConfigError: `upsampling` is neither.
    """
    if upsampling not in UPSAMPLINGS:
        raise ConfigError(f"Decoder upsampling must be 4 or 16; got {upsampling}.")
    old, width = sam.mask_decoder, sam.mask_decoder.transformer_dim
    quality = old.iou_prediction_head.layers
    decoder = MaskDecoder(
        num_multimask_outputs=outputs - 1,
        transformer=old.transformer,
        transformer_dim=width,
        iou_head_depth=len(quality),
        iou_head_hidden_dim=quality[0].out_features,
    )
    decoder.iou_token = old.iou_token
    if upsampling == 16:
        # MA-SAM normalizes before every activation but the last, so also after SAM's second convolution, as SAM does
        # not.
        layers = [*decoder.output_upscaling[:4], LayerNorm2d(width // 8), nn.GELU(), twice(width // 8, width // 16)]
        layers += [LayerNorm2d(width // 16), nn.GELU(), twice(width // 16, width // 32), nn.GELU()]
        decoder.output_upscaling = nn.Sequential(*layers)
        decoder.output_hypernetworks_mlps = nn.ModuleList(MLP(width, width, width // 32, 3) for _ in range(outputs))
    for index in (0, 1, 3):
        decoder.output_upscaling[index] = old.output_upscaling[index]
    return decoder


class ClassTokenMasks(nn.Module):
    """SAM's prompt encoder and a class-token decoder as a head; SAM's no-mask embedding is the only prompt.

    Args:
        sam, outputs, upsampling: as for `class_token_decoder`.
        sites, cross_first: see `samunet.sam.decoder.decode`.
        hq: correct every class's mask by one that is read from HQ-SAM's fused feature; the correction starts at zero.
    """

    def __init__(
        self,
        sam: Sam,
        outputs: int,
        upsampling: int,
        sites: Sequence[DecoderSites] | None = None,
        *,
        hq: bool = False,
        cross_first: bool = False,
    ) -> None:
        super().__init__()
        self.sites = None if sites is None else nn.ModuleList(sites)
        self.prompt_encoder, self.cross_first = sam.prompt_encoder, cross_first
        self.hq = Corrections(sam, outputs) if hq else None
        self.mask_decoder = class_token_decoder(sam, outputs, upsampling)

    def forward(self, embedding: Tensor, fine: Tensor | None = None) -> Tensor:
        """(N, C, h, w) embeddings, and with `hq` the fused feature's `of_image`, to (N, K, f*h, f*w) logits."""
        return self.stage(embedding, fine)[0]

    def stage(self, embedding: Tensor, fine: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the logits, and the decoder's (N, C/8, 4h, 4w) features."""
        decoder, prompts = self.mask_decoder, self.prompt_encoder
        decoded = decode(
            decoder.transformer,
            prompts.pe_layer,
            embedding,
            own_tokens(decoder),
            dense=without_mask(prompts),
            cross_first=self.cross_first,
            sites=self.sites,
        )
        masks = range(decoder.num_mask_tokens)
        upsampled, finest = upsample(decoder, decoded.places)
        logits = read_masks(finest, torch.stack([mask_weights(decoder, decoded, mask) for mask in masks], 1))
        if self.hq is not None and fine is not None:
            logits = with_correction(logits, self.hq.masks(decoded.tokens[:, 1:], upsampled, fine))
        return logits, upsampled


class Corrections(FusedFeature):
    """HQ-SAM's fused feature, and for each class token weights over it, which start at zero."""

    def __init__(self, sam: Sam, outputs: int) -> None:
        width = sam.mask_decoder.transformer_dim
        super().__init__(width, sam.image_encoder.pos_embed.shape[-1])
        self.load_state_dict(parts_of(sam).state_dict(), strict=False)  # its token and the token's weights stay out
        mlps = [MLP(width, width, width // 8, 3) for _ in range(outputs)]
        for mlp in mlps:
            set_to_zero(mlp.layers[-1])
        self.mlps = nn.ModuleList(mlps)

    def masks(self, tokens: Tensor, upsampled: Tensor, fine: Tensor) -> Tensor:
        """(N, K, C) tokens to (N, K, 4h, 4w) logits that join theirs."""
        weights = torch.stack([mlp(token) for mlp, token in zip(self.mlps, tokens.unbind(1), strict=True)], 1)
        return read_masks(self(upsampled, fine), weights)


def upsample(decoder: MaskDecoder, places: Tensor) -> tuple[Tensor, Tensor]:
    """Return SAM's (N, C/8, 4h, 4w) features of (N, C, h, w) places, and those that the decoder's masks are read from.

    With an upsampling of 4 they are the same.
    """
    layers = decoder.output_upscaling
    until = 5 if len(layers) == 5 else 6  # SAM's, or with MA-SAM's norm between the last two of them
    upsampled = layers[:until](places)
    return upsampled, layers[until:](upsampled)


def with_correction(logits: Tensor, correction: Tensor) -> Tensor:
    """Add (N, K, 4h, 4w) to (N, K, f*h, f*w) logits."""
    return logits + F.interpolate(correction, size=logits.shape[2:], mode="bilinear", align_corners=False)


def linear_head(width: int, outputs: int) -> nn.Module:
    """Return one linear map from each token to its classes: (N, C, h, w) to (N, K, h, w)."""
    return nn.Conv2d(width, outputs, 1)


def convolutional_head(width: int, outputs: int) -> nn.Module:
    """Return a small convolutional decoder: (N, C, h, w) to (N, K, 4h, 4w)."""
    layers: list[nn.Module] = [nn.Conv2d(width, width // 2, 3, padding=1), LayerNorm2d(width // 2), nn.GELU()]
    for inputs in (width // 2, width // 4):
        layers += [twice(inputs, inputs // 2), LayerNorm2d(inputs // 2), nn.GELU()]
    return nn.Sequential(*layers, nn.Conv2d(width // 8, outputs, 3, padding=1))
