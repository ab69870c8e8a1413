"""A frozen encoder's embeddings on disk, so that a slice that comes again costs a read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from samunet.core.codec import atomic_path

TENSOR_NAME, CHECKSUM = "embedding", "sha256"
EMBEDDING_FORMAT = b"1"  # raise it when the encoder gives other embeddings for the same weights


class EmbeddingCache:
    """Embeddings of one encoder, found by the pixels that went in, and by the number format that is in force.

    Args:
        folder: where encoders have a folder each, named by a hash of their weights.
        encoder: must not change while the cache is used.
    """

    def __init__(self, folder: Path, encoder: nn.Module) -> None:
        self.root, self.encoder = folder, encoder
        self.checked: set[Path] = set()  # files that were compared with their checksum
        self.folder: Path | None = None  # named when the first slice comes: a checkpoint may still be loaded before

    def embed(self, pixels: Tensor, encode: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the (B, D, C, h, w) embeddings of (B, D, 3, H, W) pixels.

        Args:
            encode: computes (N, 1, C, h, w) embeddings of (N, 1, 3, H, W) pixels; called for slices that are not known
                yet.
        """
        if self.folder is None:
            self.folder = self.root / _fingerprint(self.encoder)
        kind = (
            torch.get_autocast_dtype(pixels.device.type)
            if torch.is_autocast_enabled(pixels.device.type)
            else pixels.dtype
        )
        planes = pixels.flatten(0, 1)
        names = [_sha256(plane)[:32] for plane in planes]
        folder = self.folder / str(kind).removeprefix("torch.")
        files = [folder / name[:2] / f"{name}.safetensors" for name in names]
        embeddings = {
            index: embedding for index, file in enumerate(files) if (embedding := self._read(file)) is not None
        }
        absent = [index for index in range(len(files)) if index not in embeddings]
        if absent:
            for index, embedding in zip(absent, encode(planes[absent].unsqueeze(1)).flatten(0, 1).cpu(), strict=True):
                embeddings[index] = embedding.contiguous()
                with atomic_path(files[index]) as temporary:
                    save_file(
                        {TENSOR_NAME: embeddings[index]}, temporary, metadata={CHECKSUM: _sha256(embeddings[index])}
                    )
        with torch.autocast(pixels.device.type, enabled=False):  # which would refuse to stack some formats
            stacked = torch.stack([embeddings[index] for index in range(len(files))])
        return stacked.to(pixels.device).unflatten(0, pixels.shape[:2])

    def _read(self, file: Path) -> Tensor | None:
        """Return a stored embedding, or None where there is none that is as it was written."""
        if not file.is_file():
            return None
        try:
            with safe_open(file, framework="pt") as stored:
                embedding, checksum = stored.get_tensor(TENSOR_NAME), (stored.metadata() or {}).get(CHECKSUM)
        except (SafetensorError, OSError):
            return None
        if file not in self.checked and checksum != _sha256(embedding):
            return None
        self.checked.add(file)
        return embedding


def _sha256(tensor: Tensor) -> str:
    return hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)};".encode() + _bytes(tensor)).hexdigest()


def _fingerprint(encoder: nn.Module) -> str:
    weights = hashlib.sha256(EMBEDDING_FORMAT)
    for name, tensor in sorted(encoder.state_dict().items()):
        weights.update(name.encode() + _bytes(tensor))
    return weights.hexdigest()[:16]


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
