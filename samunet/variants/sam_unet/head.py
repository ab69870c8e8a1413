"""SAM's class tokens over the U-Net's full-resolution features.

Source: Kirillov et al., Segment Anything, 2023 (two-way transformer, hypernetworks); class tokens: Zhang and Liu,
SAMed, 2023. Axes: B batch, D slices, C decoder width, F features, h w token rows and columns, K outputs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from segment_anything.modeling import Sam
from torch import Tensor, nn

from samunet.sam.decoder import decode
from samunet.variants.sam_unet.hypernetwork import Hypernetwork, read_normalized


class ClassTokenHead(nn.Module):
    """Class tokens attend to each slice's embedding; a hypernetwork turns each into weights over the features.

    The hypernetwork gives zeros at first, so that the head adds nothing.

    Args:
        sam: gives the two-way transformer, the iou token and the no-mask embedding, with their weights.
        outputs: K.
        features: F.
    """

    def __init__(self, sam: Sam, outputs: int, features: int) -> None:
        super().__init__()
        decoder, prompts = sam.mask_decoder, sam.prompt_encoder
        width = decoder.transformer_dim
        self.transformer = decoder.transformer
        self.iou_token = decoder.iou_token
        self.no_mask = prompts.no_mask_embed
        self.positions = prompts.pe_layer
        self.class_tokens = nn.Embedding(outputs, width)
        self.weights_of = Hypernetwork(width, features, hidden=2)

    def forward(self, embedding: Tensor, features: Tensor) -> Tensor:
        """(B, D', C, h, w) embedding and (B, F, D, H, W) features to (B, K, D, H, W) logits."""
        tokens = torch.cat((self.iou_token.weight, self.class_tokens.weight))
        dense = self.no_mask.weight.view(1, -1, 1, 1)
        decoded = decode(self.transformer, self.positions, embedding.flatten(0, 1), tokens, dense=dense)
        weights = self.weights_of(decoded.tokens[:, 1:]).unflatten(0, embedding.shape[:2])
        depth = features.shape[2]
        if weights.shape[1] != depth:
            sequence = weights.movedim(1, -1).flatten(1, 2)  # (B, K * F, D')
            resized = F.interpolate(sequence, size=depth, mode="linear")
            weights = resized.unflatten(1, weights.shape[2:]).movedim(-1, 1)
        return read_normalized("bdkf,bfdhw->bkdhw", weights, features)
