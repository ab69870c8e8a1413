"""Models that segment planes by prompts: samunet's seed, and SAM with its own decoder.

Axes: C channels, H W pixels of a plane of the file, h w token rows and columns, F features of a token, r pixels along a
side of a model's masks, M masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from samunet.checkpoints.seeds import SHIPPED, is_seed, shipped_seed
from samunet.core.prompts import BOX, INSIDE, MASK, OUTSIDE
from samunet.errors import ConfigError
from samunet.fewshot.guided import guided_masks
from samunet.machine.hardware import autocast, choose_device, choose_precision
from samunet.models.embeddings import EmbeddingCache
from samunet.pipeline.planes import (
    SAM_SIDE,
    SEED_SIDE,
    resized,
    sam_network,
    sam_pixels,
    seed_network,
    seed_pixels,
    size_within,
)
from samunet.sam.backbones import TOKEN_PIXELS
from samunet.sam.checkpoints import find_weights
from samunet.sam.high_quality import plain_decoder
from samunet.variants.sam_unet.network import EncodedImage


class Frame(NamedTuple):
    """How a plane lies in the square that a model looks at: in its upper left, the rest is padding."""

    shape: tuple[int, int]
    """(H, W) of the plane."""
    size: tuple[int, int]
    """Pixels of the square that it takes."""
    side: int

    def enlarge(self, raw: Tensor) -> np.ndarray:
        """(r, r) numbers on the square to (H, W) on the plane."""
        square = resized(raw.float().cpu()[None, None], (self.side, self.side))
        return resized(square[:, :, : self.size[0], : self.size[1]], self.shape)[0, 0].numpy()

    def reduce(self, plane: np.ndarray, side: int, padding: float) -> Tensor:
        """(H, W) numbers on the plane to (side, side) on the square."""
        square = resized(torch.from_numpy(plane.astype(np.float32))[None, None], self.size)
        padded = F.pad(square, (0, self.side - self.size[1], 0, self.side - self.size[0]), value=padding)
        return resized(padded, (side, side))[0, 0]

    def cells(self, tokens: Tensor) -> Tensor:
        """Return of (F, h, w) tokens of the square those that show some of the plane."""
        rows, columns = (-(-length * tokens.shape[-1] // self.side) for length in self.size)
        return tokens[:, :rows, :columns]

    def place(self, points: np.ndarray) -> np.ndarray:
        """(n, 2) rows and columns of the plane to rows and columns of the square."""
        return np.asarray(points, float).reshape(-1, 2) * np.array(self.size) / self.shape


class Look(NamedTuple):
    """What a model sees in a plane."""

    frame: Frame
    parts: list[Tensor]


class PlanePrompts(NamedTuple):
    """What shows one structure in a plane."""

    inside: np.ndarray = np.empty((0, 2))
    """(n, 2) rows and columns."""
    outside: np.ndarray = np.empty((0, 2))
    box: tuple[int, int, int, int] | None = None
    """First row and column, last row and column."""
    mask: Tensor | None = None
    """(r, r) logits, as a model answered them or `Frame.reduce` makes them."""


class Guidance(NamedTuple):
    """What a reference says about a plane."""

    prototype: Tensor
    """(F,) features of its structure."""
    attention: Tensor
    """(h, w) of all tokens of the square, in [0, 1]."""
    form: str
    """One of `samunet.fewshot.guided.FORMS`."""


class Answer(NamedTuple):
    """What a model makes of prompts."""

    raw: Tensor
    """(M, r, r) logits on the square."""
    quality: Tensor
    """(M,) expected IoU."""

    def best(self) -> tuple[Tensor, float]:
        """Return the mask of the highest quality, and that quality within [0, 1]."""
        index = int(self.quality.argmax())
        return self.raw[index], min(max(float(self.quality[index]), 0.0), 1.0)


class PlaneModel(Protocol):
    """A model that segments planes."""

    name: str
    mask_side: int
    """r."""

    def encode(self, plane: np.ndarray, spacing: Sequence[float]) -> Look:
        """Look at a (C, H, W) float32 plane with a spacing in mm (H, W)."""

    def tokens(self, look: Look) -> Tensor:
        """Return (F, h, w) features, float32, whose cosine tells what is alike."""

    def summary(self, look: Look) -> np.ndarray:
        """Return a vector that tells images apart."""

    def decode(self, look: Look, prompts: PlanePrompts, *, several: bool = False) -> Answer:
        """Segment what prompts show; with `several`, give all masks that they could mean."""

    def guided(self, look: Look, prompts: PlanePrompts, guidance: Guidance) -> Answer:
        """Return the mask of what a reference shows, told by clicks where the model needs them."""

    def candidates(self, look: Look, prompts: PlanePrompts, guidance: Guidance) -> Answer:
        """Return three masks that a click could mean, for PerSAM-F to weigh."""


class SeedModel:
    """The promptable U-Net of a seed, on planes brought to `side` pixels along their longer side in mm.

    Guidance is its own input for a reference's likeness, and needs no click. It has one mask; its candidates are its
    answers to the click alone, to click and reference, and to the reference alone.
    """

    def __init__(self, path: Path, side: int = SEED_SIDE, device: str | None = "cpu", cache: Path | None = None):
        network, self.widths = seed_network(path)
        self.device = choose_device(device)
        self.precision = choose_precision("auto", self.device)
        self.network = network.to(self.device)
        self.side, self.mask_side, self.name = side, side, path.stem
        self.cache = None if cache is None else EmbeddingCache(cache, self.network)

    @torch.inference_mode()
    def encode(self, plane: np.ndarray, spacing: Sequence[float]) -> Look:
        frame = _frame(self.side, plane.shape[1:], spacing)
        shown = seed_pixels(plane, self.side, spacing).to(self.device)
        with autocast(self.device, self.precision):
            flat = self.cache.embed(shown[None], self._flat) if self.cache else self._flat(shown[None])
        stages, first = [], 0
        for number, width in enumerate(self.widths):
            side = self.side >> number
            stages.append(flat[0, 0, first : first + width * side * side].view(1, width, 1, side, side))
            first += width * side * side
        return Look(frame, stages)

    def _flat(self, pixels: Tensor) -> Tensor:
        """(N, 1, 1, H, W) planes to the (N, 1, n) numbers of all stages, as half precision holds them."""
        stages = self.network.encode_image(pixels).stages
        return torch.cat([stage.flatten(1) for stage in stages], dim=1)[:, None].to(torch.float16)

    def tokens(self, look: Look) -> Tensor:
        stage = look.parts[self._likeness][0, :, 0].float().cpu()
        return stage - look.frame.cells(stage).mean((1, 2), keepdim=True)

    @property
    def _likeness(self) -> int:
        return 0 if self.network.stem is None else self.network.stem.likeness_stage

    def summary(self, look: Look) -> np.ndarray:
        means = [look.frame.cells(stage[0, :, 0].float().cpu()).mean((1, 2)) for stage in look.parts[2:]]
        return torch.cat(means).numpy()

    def decode(self, look: Look, prompts: PlanePrompts, *, several: bool = False) -> Answer:
        return self._answer(look, prompts, None)

    def guided(self, look: Look, prompts: PlanePrompts, guidance: Guidance) -> Answer:
        # Shown a click too, it segments the part of the structure that was clicked at.
        return self._answer(look, PlanePrompts(), guidance)

    @torch.inference_mode()
    def _answer(self, look: Look, prompts: PlanePrompts, guidance: Guidance | None) -> Answer:
        drawn = torch.zeros(1, 1, self.side, self.side, dtype=torch.uint8)
        for points, bit in ((prompts.inside, INSIDE), (prompts.outside, OUTSIDE)):
            for row, column in look.frame.place(points).astype(int):
                drawn[0, 0, row, column] |= bit
        if prompts.box is not None:
            (top, left), (bottom, right) = look.frame.place(np.array(prompts.box)).round().astype(int)
            drawn[0, 0, top : bottom + 1, left : right + 1] |= BOX
        if prompts.mask is not None:
            drawn[0, 0] |= (prompts.mask > 0).to(torch.uint8) * MASK
        reference = None if guidance is None else guidance.prototype[None].to(self.device)
        encoded, first = EncodedImage([part.float() for part in look.parts], None), torch.zeros(1, dtype=torch.long)
        with autocast(self.device, self.precision):
            masks = self.network.masks(encoded, drawn.to(self.device), first, reference)
        quality = self.network.quality(masks.features.float(), masks.levels[0].float()).sigmoid()
        return Answer(masks.levels[0][0, :, 0].float().cpu(), quality.cpu())

    def candidates(self, look: Look, prompts: PlanePrompts, guidance: Guidance) -> Answer:
        asked = ((prompts, None), (prompts, guidance), (PlanePrompts(), guidance))
        answers = [self._answer(look, shown, guide) for shown, guide in asked]
        return Answer(*(torch.cat(parts) for parts in zip(*answers, strict=True)))


class SAMModel:
    """A SAM with its own prompt encoder and mask decoder; also MedSAM, HQ-SAM, and others in SAM's layout.

    PerSAM's guided pass is that of SAM's own decoder, of HQ-SAM too.

    Args:
        side: pixels of the square that the encoder looks at.
    """

    def __init__(self, path: Path, side: int = SAM_SIDE, device: str | None = "cpu", cache: Path | None = None):
        self.device = choose_device(device)
        self.precision = choose_precision("auto", self.device)
        self.sam = sam_network(path, side).to(self.device)
        self.side, self.mask_side, self.name = side, 4 * side // TOKEN_PIXELS, path.stem
        self.width = self.sam.prompt_encoder.embed_dim  # what follows in an embedding is for HQ-SAM's own decoder
        self.cache = None if cache is None else EmbeddingCache(cache, self.sam.image_encoder)

    @torch.inference_mode()
    def encode(self, plane: np.ndarray, spacing: Sequence[float]) -> Look:
        frame = _frame(self.side, plane.shape[1:], spacing)
        pixels = sam_pixels(plane, self.side, spacing)[None].to(self.device)
        with autocast(self.device, self.precision):
            embedding = self.cache.embed(pixels, self._embedding) if self.cache else self._embedding(pixels)
        return Look(frame, [embedding[0]])

    def _embedding(self, pixels: Tensor) -> Tensor:
        """(N, 1, 3, H, W) to (N, 1, C, h, w)."""
        embedding: Tensor = self.sam.image_encoder(pixels[:, 0])
        return embedding[:, None].float()

    def tokens(self, look: Look) -> Tensor:
        return look.parts[0][0, : self.width].float().cpu()

    def summary(self, look: Look) -> np.ndarray:
        return look.frame.cells(self.tokens(look)).mean((1, 2)).numpy()

    @torch.inference_mode()
    def decode(self, look: Look, prompts: PlanePrompts, *, several: bool = False) -> Answer:
        sparse, dense = self._embedded(look, prompts)
        raw, quality = self.sam.mask_decoder(
            image_embeddings=look.parts[0],
            image_pe=self.sam.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=several,
        )
        return Answer(raw[0].float().cpu(), quality[0].cpu())

    @torch.inference_mode()
    def guided(self, look: Look, prompts: PlanePrompts, guidance: Guidance) -> Answer:
        raw, quality = guided_masks(
            plain_decoder(self.sam),
            self.sam.prompt_encoder,
            look.parts[0][:, : self.width],
            *self._embedded(look, prompts),
            guidance=guidance.attention.flatten().to(self.device),
            semantic=guidance.prototype.to(self.device),
            form=guidance.form,
        )
        return Answer(raw[:1].float().cpu(), quality[:1].cpu())

    def _embedded(self, look: Look, prompts: PlanePrompts) -> tuple[Tensor, Tensor]:
        """Return the sparse and the dense embeddings of prompts."""
        places = np.concatenate([look.frame.place(prompts.inside), look.frame.place(prompts.outside)])
        kinds = torch.tensor([[1] * len(prompts.inside) + [0] * len(prompts.outside)], device=self.device)
        points = torch.from_numpy(places[:, ::-1].copy())[None].float().to(self.device)
        corners = None
        if prompts.box is not None:
            (top, left), (bottom, right) = look.frame.place(np.array(prompts.box))
            corners = torch.tensor([[left, top, right, bottom]], dtype=torch.float, device=self.device)
        mask = None if prompts.mask is None else prompts.mask[None, None].float().to(self.device)
        return self.sam.prompt_encoder(points=(points, kinds) if len(places) else None, boxes=corners, masks=mask)

    def candidates(self, look: Look, prompts: PlanePrompts, guidance: Guidance) -> Answer:
        return self.decode(look, prompts, several=True)


def model_named(
    name: str, *, device: str | None = None, cache: Path | None = None, weights_folders: Sequence[Path] = ()
) -> PlaneModel:
    """Load a promptable model.

    Args:
        name: "seed" for what comes with samunet, a seed's file, or a file or the name of a checkpoint in SAM's layout.
        cache: folder in which embeddings are kept; None keeps none.
        weights_folders: where checkpoints are looked for.

    Raises:
        CheckpointError, WeightsAbsentError: there is no such model, or it is none of these.
        ConfigError: it is a trained model.
    """
    if (Path(name).expanduser() / "plans.json").is_file():
        raise ConfigError(
            f"{name} is a trained model, which has no features of single planes to compare with references; give a "
            "seed or a checkpoint of SAM here. A trained model annotates with samunet_annotate -m, and labels with "
            "samunet_predict."
        )
    path = shipped_seed(2) if name == str(SHIPPED) else find_weights(name, weights_folders)
    if is_seed(path):
        return SeedModel(path, device=device, cache=cache)
    return SAMModel(path, device=device, cache=cache)


def _frame(side: int, shape: Sequence[int], spacing: Sequence[float]) -> Frame:
    return Frame((shape[0], shape[1]), size_within(side, shape, spacing), side)
