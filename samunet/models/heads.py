"""SAM's mask decoder as a head with one token per class.

Source: Kirillov et al., Segment Anything, 2023 (two-way transformer, hypernetworks); class tokens: Zhang and Liu,
SAMed, 2023. Axes: B batch, D token slices, C decoder width, h w token rows and columns, K outputs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from segment_anything.modeling import Sam
from torch import Tensor, nn

from samunet.sam.decoder import dense_positions, run_two_way


class ClassTokenHead(nn.Module):
    """Class tokens attend to each slice's embedding; a hypernetwork turns each into weights over full-resolution features.

    The hypernetwork's last layer starts at zero, so the head adds nothing at first.

    Args:
        sam: gives the two-way transformer, the iou token and the no-mask embedding, with their weights.
        outputs: number of output channels K.
        features: channels of the full-resolution features.
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
        self.hypernetwork = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, features)
        )
        nn.init.zeros_(self.hypernetwork[-1].weight)
        nn.init.zeros_(self.hypernetwork[-1].bias)

    def forward(self, embedding: Tensor, features: Tensor) -> Tensor:
        """(B, D', C, h, w) embedding and (B, F, D, H, W) features to (B, K, D, H, W) logits."""
        planes = embedding.flatten(0, 1) + self.no_mask.weight.view(1, -1, 1, 1)
        tokens = torch.cat((self.iou_token.weight, self.class_tokens.weight)).expand(len(planes), -1, -1)
        positions = dense_positions(self.positions, tuple(planes.shape[2:])).to(planes.dtype)
        queries, _ = run_two_way(self.transformer, planes, positions, tokens)
        weights = self.hypernetwork(queries[:, 1:]).unflatten(0, embedding.shape[:2])
        depth = features.shape[2]
        if weights.shape[1] != depth:
            weights = (
                F.interpolate(weights.movedim(1, -1).flatten(1, 2), size=depth, mode="linear")
                .unflatten(1, weights.shape[2:])
                .movedim(-1, 1)
            )
        return torch.einsum("bdkf,bfdhw->bkdhw", weights, features)
