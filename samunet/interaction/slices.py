"""Models that segment planes of a volume, whatever its axis: samunet's seed, and SAM with its own decoder.

A plane is encoded once, and so is each part of it that is looked at closer; a prompt costs what comes after. Axes: C
channels, H W pixels of a plane of the file, h w pixels of what the model looks at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from samunet.core.codec import file_sha256
from samunet.core.prompts import BOX, INSIDE, MASK, OUTSIDE
from samunet.machine.hardware import autocast, choose_device, choose_precision
from samunet.models.prompt_tokens import extent
from samunet.pipeline.planes import (
    SAM_SIDE,
    SEED_SIDE,
    padded,
    sam_network,
    sam_pixels,
    seed_network,
    seed_pixels,
    size_within,
)
from samunet.sam.high_quality import HQEncoder
from samunet.variants.sam_unet.network import EncodedImage
from samunet.variants.sam_unet_prompted.joining import thinned

SAM_STABLE_CLICKS = 1  # up to so many clicks without a box SAM's three masks are compared, as its authors do

Features = dict[str, Tensor]


class Answer(NamedTuple):
    """What a model makes of prompts."""

    mask: np.ndarray
    """Bool, on the grid of the plane or volume."""
    quality: float | None
    """IoU that the model expects, in [0, 1]."""


class PlaneModel(Protocol):
    """A model that segments planes."""

    name: str
    sha256: str
    """Of its weights and of how planes are shown to it: embeddings of one model are none of another."""
    channels: Mapping[str, int]
    """Of its maps, by their names; those that it does not name may have any number."""
    looks_closer: bool
    """Whether it is shown small objects again, larger, see `samunet.interaction.closer`."""

    def encode(self, plane: np.ndarray, spacing: Sequence[float]) -> Features:
        """Look at a (C, H, W) float32 plane with a spacing in mm (H, W); nothing here knows of prompts."""

    def answer(self, features: Features, drawn: np.ndarray, spacing: Sequence[float]) -> Answer:
        """Segment what a (H, W) uint8 map of prompts shows (see `samunet.core.prompts`)."""


class SeedModel:
    """The promptable U-Net of a seed, on planes brought to `side` pixels along their longer side in mm."""

    looks_closer = True

    def __init__(self, path: Path, side: int = SEED_SIDE, device: str | None = "cpu") -> None:
        self.device = choose_device(device)
        self.precision = choose_precision("auto", self.device)
        network, widths = seed_network(path)
        self.network = network.to(self.device)
        self.channels: Mapping[str, int] = {str(stage): width for stage, width in enumerate(widths)}
        self.side, self.name = side, path.stem
        self.sha256 = f"{file_sha256(path)}-{side}"

    @torch.inference_mode()
    def encode(self, plane: np.ndarray, spacing: Sequence[float]) -> Features:
        shown = seed_pixels(plane, self.side, spacing)
        with autocast(self.device, self.precision):
            encoded = self.network.encode_image(shown[:, :, None].to(self.device))
        return {str(number): stage for number, stage in enumerate(encoded.stages)}

    @torch.inference_mode()
    def answer(self, features: Features, drawn: np.ndarray, spacing: Sequence[float]) -> Answer:
        size = size_within(self.side, drawn.shape, spacing)
        shown = padded(_reduced_prompts(drawn, size), self.side)[None, None].to(self.device)
        stages = [features[str(number)].float().to(self.device) for number in range(len(features))]
        with autocast(self.device, self.precision):
            masks = self.network.masks(EncodedImage(stages, None), shown, torch.zeros(1, dtype=torch.long))
        quality = self.network.quality(masks.features.float(), masks.levels[0].float()).sigmoid()
        return Answer(_enlarged(masks.levels[0][:, :, 0, : size[0], : size[1]], drawn.shape), float(quality))


class SAMModel:
    """A SAM with its own prompt encoder and mask decoder; also MedSAM, HQ-SAM, and others in SAM's layout.

    Args:
        side: pixels of the square that the encoder looks at.
    """

    looks_closer = False  # it sees enough pixels, and a look takes long

    def __init__(self, path: Path, side: int = SAM_SIDE, device: str | None = "cpu") -> None:
        self.device = choose_device(device)
        self.precision = choose_precision("auto", self.device)
        self.sam = sam_network(path, side).to(self.device)
        self.side, self.name = side, path.stem
        fine, width = isinstance(self.sam.image_encoder, HQEncoder), self.sam.prompt_encoder.embed_dim
        self.channels: Mapping[str, int] = {"embedding": self.sam.image_encoder.channels if fine else width}
        # The same file gave SAM's channels alone, before its finer ones were kept.
        self.sha256 = f"{file_sha256(path)}-{side}{'-hq' if fine else ''}"

    @torch.inference_mode()
    def encode(self, plane: np.ndarray, spacing: Sequence[float]) -> Features:
        with autocast(self.device, self.precision):
            return {"embedding": self.sam.image_encoder(sam_pixels(plane, self.side, spacing).to(self.device))}

    @torch.inference_mode()
    def answer(self, features: Features, drawn: np.ndarray, spacing: Sequence[float]) -> Answer:
        size, prompts = size_within(self.side, drawn.shape, spacing), self.sam.prompt_encoder
        shown = thinned(padded(_reduced_prompts(drawn, size), self.side)[None, None])[0, 0]
        places = (shown & (INSIDE | OUTSIDE)).nonzero()
        kinds = (shown[places[:, 0], places[:, 1]] & INSIDE > 0).int()
        points = (places.flip(1)[None].float().to(self.device), kinds[None].to(self.device)) if len(places) else None
        corners = None
        if (shown & BOX).any():
            (left, right), (top, bottom) = (extent((shown & BOX > 0).any(axis)) for axis in (0, 1))
            corners = torch.tensor([[left, top, right - 1, bottom - 1]], dtype=torch.float, device=self.device)
        earlier = None
        if (shown & MASK).any():  # as the logits of a sure mask, on SAM's grid of 4 pixels
            part = F.avg_pool2d((shown & MASK > 0).float()[None, None], 4).to(self.device)
            earlier = F.interpolate(part * 20 - 10, size=prompts.mask_input_size, mode="bilinear", align_corners=False)
        sparse, dense = prompts(points=points, boxes=corners, masks=earlier)
        ambiguous = len(places) <= SAM_STABLE_CLICKS and corners is None and earlier is None
        low, expected = self.sam.mask_decoder(
            image_embeddings=features["embedding"].float().to(self.device),
            image_pe=prompts.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=ambiguous,
        )
        best = int(expected[0].argmax())
        logits = F.interpolate(low[:, best, None], size=(self.side, self.side), mode="bilinear", align_corners=False)
        quality = min(max(float(expected[0, best]), 0.0), 1.0)
        return Answer(_enlarged(logits[:, :, : size[0], : size[1]], drawn.shape), quality)


def _reduced_prompts(drawn: np.ndarray, size: tuple[int, int]) -> Tensor:
    """Resize a (H, W) map of prompts: clicks stay single pixels, areas keep their size, and none of them vanishes."""
    small = torch.zeros(size, dtype=torch.uint8)
    for bit in (INSIDE, OUTSIDE):
        rows, columns = np.nonzero(drawn & bit)
        places = [
            torch.from_numpy(((index + 0.5) * length / full).astype(np.int64))
            for index, length, full in zip((rows, columns), size, drawn.shape, strict=True)
        ]
        small[places[0], places[1]] |= bit
    for bit in (BOX, MASK):
        if (drawn & bit).any():
            share = F.interpolate(
                torch.from_numpy((drawn & bit > 0).astype(np.float32))[None, None], size=size, mode="area"
            )
            small |= (share[0, 0] >= min(0.5, float(share.max()))).to(torch.uint8) * bit
    return small


def _enlarged(logits: Tensor, shape: Sequence[int]) -> np.ndarray:
    """Resize (1, 1, h, w) logits to a (H, W) mask."""
    resized = F.interpolate(logits.float().cpu(), size=tuple(shape), mode="bilinear", align_corners=False)
    return (resized[0, 0] > 0).numpy()
