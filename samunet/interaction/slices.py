"""Models that segment planes of a volume, whatever its axis: samunet's seed, and SAM with its own decoder.

A plane is encoded once; every prompt costs only what comes after. Axes: C channels, H W pixels of a plane of the file,
h w pixels of what the model looks at.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from samunet.checkpoints.seeds import load_seed
from samunet.checkpoints.transfer import transfer
from samunet.core.codec import file_sha256
from samunet.core.labels import parse_labels
from samunet.core.prompts import BOX, INSIDE, MASK, OUTSIDE
from samunet.errors import CheckpointError
from samunet.machine.hardware import autocast, choose_device, choose_precision
from samunet.models.prompt_tokens import extent
from samunet.pipeline.pretraining import plan_of
from samunet.pretraining.recipe import Recipe
from samunet.sam.backbones import BACKBONES, PIXEL_MEAN, PIXEL_STD
from samunet.sam.build import build_sam
from samunet.sam.weights import load_weights, read_tensors
from samunet.variants.network import build_network
from samunet.variants.sam_unet.network import EncodedImage
from samunet.variants.sam_unet_prompted.joining import thinned
from samunet.variants.sam_unet_prompted.network import PromptedSAMUNet

SEED_SIDE = 128  # pixels; of 64, 128 and 256 it is best at clicks on real images (documentation/results/seed.md)
SAM_SIDE = 1024  # pixels that SAM was trained on
DARKEST, BRIGHTEST = 0.5, 99.5  # percentiles of a plane that become black and white for SAM
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

    def encode(self, plane: np.ndarray, spacing: Sequence[float]) -> Features:
        """Look at a (C, H, W) float32 plane with a spacing in mm (H, W); nothing here knows of prompts."""

    def answer(self, features: Features, drawn: np.ndarray, spacing: Sequence[float]) -> Answer:
        """Segment what a (H, W) uint8 map of prompts shows (see `samunet.core.prompts`)."""


class SeedModel:
    """The promptable U-Net of a seed, on planes brought to `side` pixels along their longer side in mm."""

    def __init__(self, path: Path, side: int = SEED_SIDE, device: str | None = "cpu") -> None:
        seed = load_seed(path)
        recipe = Recipe(**seed.card["recipe"])
        if recipe.dimensions != 2:
            raise CheckpointError(f"Seed {path} is for volumes; planes are annotated with one of 2 dimensions.")
        plan = plan_of(recipe)
        network = build_network(
            plan, next(iter(plan.configurations.values())), parse_labels({"background": 0, "object": 1})
        )
        transfer(network, seed.weights)
        self.device = choose_device(device)
        self.precision = choose_precision("auto", self.device)
        self.network = cast(PromptedSAMUNet, network.to(self.device).eval())
        self.side, self.name = side, path.stem
        self.sha256 = f"{file_sha256(path)}-{side}"

    @torch.inference_mode()
    def encode(self, plane: np.ndarray, spacing: Sequence[float]) -> Features:
        shown = _reduced(torch.from_numpy(plane.mean(0))[None, None], self._size(plane.shape[1:], spacing))
        shown = _padded((shown - shown.mean()) / (shown.std() + 1e-6), self.side)
        with autocast(self.device, self.precision):
            encoded = self.network.encode_image(shown[:, :, None].to(self.device))
        return {str(number): stage for number, stage in enumerate(encoded.stages)}

    @torch.inference_mode()
    def answer(self, features: Features, drawn: np.ndarray, spacing: Sequence[float]) -> Answer:
        size = self._size(drawn.shape, spacing)
        shown = _padded(_reduced_prompts(drawn, size), self.side)[None, None].to(self.device)
        stages = [features[str(number)].float().to(self.device) for number in range(len(features))]
        with autocast(self.device, self.precision):
            masks = self.network.masks(EncodedImage(stages, None), shown, torch.zeros(1, dtype=torch.long))
        quality = self.network.quality(masks.features.float(), masks.levels[0].float()).sigmoid()
        return Answer(_enlarged(masks.levels[0][:, :, 0, : size[0], : size[1]], drawn.shape), float(quality))

    def _size(self, shape: Sequence[int], spacing: Sequence[float]) -> tuple[int, int]:
        return _size_within(self.side, shape, spacing)


class SAMModel:
    """A SAM with its own prompt encoder and mask decoder; also MedSAM, and others in SAM's layout.

    Args:
        side: pixels of the square that the encoder looks at.
    """

    def __init__(self, path: Path, side: int = SAM_SIDE, device: str | None = "cpu") -> None:
        table = read_tensors(path).get("image_encoder.pos_embed")
        backbone = next((one for one in BACKBONES if table is not None and one.width == table.shape[-1]), None)
        if backbone is None:
            raise CheckpointError(f"{path} is no seed of samunet and no checkpoint of SAM; name another file.")
        sam = build_sam(backbone, (side, side))
        load_weights(sam, backbone, path)
        self.device = choose_device(device)
        self.precision = choose_precision("auto", self.device)
        self.sam = sam.to(self.device).eval()
        self.side, self.name = side, path.stem
        self.sha256 = f"{file_sha256(path)}-{side}"

    @torch.inference_mode()
    def encode(self, plane: np.ndarray, spacing: Sequence[float]) -> Features:
        low, high = np.percentile(plane, (DARKEST, BRIGHTEST))
        shown = torch.from_numpy(np.clip((plane - low) / max(high - low, 1e-6), 0, 1) * 255)[None]
        shown = shown if len(plane) == 3 else shown.mean(1, keepdim=True).expand(-1, 3, -1, -1)
        shown = _reduced(shown.float(), _size_within(self.side, plane.shape[1:], spacing))
        mean, std = (torch.tensor(values)[:, None, None] for values in (PIXEL_MEAN, PIXEL_STD))
        with autocast(self.device, self.precision):
            return {"embedding": self.sam.image_encoder(_padded((shown - mean) / std, self.side).to(self.device))}

    @torch.inference_mode()
    def answer(self, features: Features, drawn: np.ndarray, spacing: Sequence[float]) -> Answer:
        size, prompts = _size_within(self.side, drawn.shape, spacing), self.sam.prompt_encoder
        shown = thinned(_padded(_reduced_prompts(drawn, size), self.side)[None, None])[0, 0]
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


def _size_within(side: int, shape: Sequence[int], spacing: Sequence[float]) -> tuple[int, int]:
    """Return the (h, w) to which a plane is brought: square pixels, the longer side `side` of them."""
    height, width = (length * step for length, step in zip(shape, spacing, strict=True))
    longest = max(height, width)
    return max(1, round(height / longest * side)), max(1, round(width / longest * side))


def _reduced(plane: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (1, C, H, W) intensities."""
    smaller = size[0] < plane.shape[2] or size[1] < plane.shape[3]
    return F.interpolate(plane, size=size, mode="bilinear", antialias=smaller, align_corners=False)


def _padded(plane: Tensor, side: int) -> Tensor:
    return F.pad(plane, (0, side - plane.shape[-1], 0, side - plane.shape[-2]))


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
