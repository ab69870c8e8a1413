"""Heads on SAM's embedding of a slice: the mask decoder with a token for each class, a linear map, convolutions.

Source: Kirillov et al., Segment Anything, 2023; class tokens: Zhang and Liu, SAMed, 2023; progressive upsampling: Chen
et al., MA-SAM, Medical Image Analysis 2024. Axes: N slices, C decoder width, h w token rows and columns, K outputs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from segment_anything.modeling import MaskDecoder, Sam
from segment_anything.modeling.common import LayerNorm2d
from segment_anything.modeling.mask_decoder import MLP
from torch import Tensor, nn

from samunet.errors import ConfigError
from samunet.sam.decoder import DecoderSites, decode, mask_weights, masks_from, own_tokens, without_mask

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
        layers = [*decoder.output_upscaling[:4], LayerNorm2d(width // 8), nn.GELU(), _twice(width // 8, width // 16)]
        layers += [LayerNorm2d(width // 16), nn.GELU(), _twice(width // 16, width // 32), nn.GELU()]
        decoder.output_upscaling = nn.Sequential(*layers)
        decoder.output_hypernetworks_mlps = nn.ModuleList(MLP(width, width, width // 32, 3) for _ in range(outputs))
    for index in (0, 1, 3):
        decoder.output_upscaling[index] = old.output_upscaling[index]
    return decoder


class ClassTokenMasks(nn.Module):
    """SAM's prompt encoder and a class-token decoder as a head; SAM's no-mask embedding is the only prompt.

    Args:
        sam, outputs, upsampling: as for `class_token_decoder`.
        sites: see `samunet.sam.decoder.decode`.
    """

    def __init__(self, sam: Sam, outputs: int, upsampling: int, sites: Sequence[DecoderSites] | None = None) -> None:
        super().__init__()
        self.sites = None if sites is None else nn.ModuleList(sites)
        self.prompt_encoder = sam.prompt_encoder
        self.mask_decoder = class_token_decoder(sam, outputs, upsampling)

    def forward(self, embedding: Tensor) -> Tensor:
        """(N, C, h, w) embeddings to (N, K, f*h, f*w) logits, f the upsampling."""
        decoder, prompts = self.mask_decoder, self.prompt_encoder
        decoded = decode(
            decoder.transformer,
            prompts.pe_layer,
            embedding,
            own_tokens(decoder),
            dense=without_mask(prompts),
            sites=self.sites,
        )
        masks = range(decoder.num_mask_tokens)
        return masks_from(decoder, decoded, torch.stack([mask_weights(decoder, decoded, mask) for mask in masks], 1))


def linear_head(width: int, outputs: int) -> nn.Module:
    """Return one linear map from each token to its classes: (N, C, h, w) to (N, K, h, w)."""
    return nn.Conv2d(width, outputs, 1)


def convolutional_head(width: int, outputs: int) -> nn.Module:
    """Return a small convolutional decoder: (N, C, h, w) to (N, K, 4h, 4w)."""
    layers: list[nn.Module] = [nn.Conv2d(width, width // 2, 3, padding=1), LayerNorm2d(width // 2), nn.GELU()]
    for inputs in (width // 2, width // 4):
        layers += [_twice(inputs, inputs // 2), LayerNorm2d(inputs // 2), nn.GELU()]
    return nn.Sequential(*layers, nn.Conv2d(width // 8, outputs, 3, padding=1))


def _twice(inputs: int, outputs: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(inputs, outputs, kernel_size=2, stride=2)
