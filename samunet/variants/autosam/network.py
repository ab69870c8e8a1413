"""The network of autosam.

Source: Shaharabany et al., AutoSAM, 2023. Written from a description of what it computes. Axes: B batch, C channels,
D H W voxels, h w token rows and columns, E decoder width, K outputs.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from segment_anything.modeling import Sam
from torch import Tensor, nn

from samunet.models.convolution import set_to_zero
from samunet.models.heads import ClassTokenMasks
from samunet.models.prompt_free import PromptFreeSAM, slicewise
from samunet.models.spec import NetworkSpec
from samunet.models.unet import Decoder, Encoder
from samunet.sam.backbones import PIXEL_MEAN, PIXEL_STD, TOKEN_PIXELS


class AutoSAM(PromptFreeSAM):
    """SAM with class tokens and a dense prompt that a U-Net makes of the image.

    With pretrained weights all of SAM is frozen; the U-Net, the class tokens and their hypernetworks train.

    Args:
        sam, spec, settings: of `PromptFreeSAM`.
        last: stage at which the U-Net's decoder ends.
        constant: let the encoder see a black plane.
        hq: of `ClassTokenMasks`.
    """

    black: Tensor

    def __init__(
        self, sam: Sam, spec: NetworkSpec, last: int, *, constant: bool, hq: bool = False, **settings: Any
    ) -> None:
        sam.requires_grad_(not spec.pretrained)
        head = ClassTokenMasks(sam, spec.labels.outputs, 4, hq=hq)
        super().__init__(sam, spec, None, head=head, **settings)
        self.prompt, self.constant = DensePrompt(spec, sam.mask_decoder.transformer_dim, last), constant
        black = -torch.tensor(PIXEL_MEAN) / torch.tensor(PIXEL_STD)
        self.register_buffer("black", black.view(1, 1, 3, 1, 1), persistent=False)
        if constant or spec.pretrained:
            self.pixels.requires_grad_(False)  # channels other than 1 or 3 enter as their mean

    def embed(self, pixels: Tensor) -> tuple[Tensor, ...]:
        if not self.constant:
            return super().embed(pixels)
        one = super().embed(self.black.expand(-1, -1, -1, *pixels.shape[3:]))
        return tuple(part.expand(*pixels.shape[:2], -1, -1, -1) for part in one)

    def keep_embeddings(self, folder: Path) -> bool:
        return not self.constant and super().keep_embeddings(folder)  # one plane a step costs less than a read

    def _planes(self, image: Tensor) -> Tensor:
        embedding, *fine = self.embedded(image)
        prompted = embedding + self.prompt(image, (embedding.shape[3], embedding.shape[4]))
        return slicewise(self.head, prompted, *fine).movedim(2, 1)  # the head adds its no-mask embedding


class DensePrompt(nn.Module):
    """A U-Net from the image to tanh(W features) at the tokens; W starts at zero, so that nothing is prompted at first.

    Args:
        spec: data and plan.
        width: E.
        last: stage at which the decoder ends.
    """

    def __init__(self, spec: NetworkSpec, width: int, last: int) -> None:
        super().__init__()
        topology = spec.topology
        self.encoder = Encoder(len(spec.schemes), topology)
        strides = (topology.strides[0], *topology.strides[last + 1 :])
        self.decoder = Decoder(
            replace(topology, strides=strides, kernels=topology.kernels[last:], widths=topology.widths[last:])
        )
        self.out = nn.Linear(topology.widths[last], width)
        set_to_zero(self.out)
        self.last, self.pitch = last, TOKEN_PIXELS / spec.encoder_scale

    def forward(self, image: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, C, D, H, W) image and the (h, w) of the padded encoder plane to (B, D, E, h, w)."""
        stages, features = [], image
        for stage in self.encoder.stages:
            features = stage(features)
            stages.append(features)
        finest = [*self.decoder(stages[self.last :]), features][0]
        return self.out(self.at_tokens(finest, image.shape[2:], grid)).tanh().movedim(-1, 2)

    def at_tokens(self, features: Tensor, shape: torch.Size, grid: tuple[int, int]) -> Tensor:
        """Interpolate (B, F, D', H', W') features of a (D, H, W) patch at tokens' centers, to (B, D, h, w, F)."""
        depth, rows, columns = (
            ((torch.arange(count, device=features.device) + 0.5) * pitch * 2 / size - 1)
            for count, pitch, size in zip((shape[0], *grid), (1.0, self.pitch, self.pitch), shape, strict=True)
        )
        places = torch.stack(torch.meshgrid(depth, rows, columns, indexing="ij")[::-1], dim=-1)
        with torch.autocast(features.device.type, enabled=False):
            found = F.grid_sample(
                features.float(),
                places.expand(len(features), -1, -1, -1, -1),
                padding_mode="border",
                align_corners=False,
            )
        return found.movedim(1, -1)
