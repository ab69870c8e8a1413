"""Batches whose content depends only on (seed, step, item), whatever the number of workers.

Augmentation draws from numpy's and torch's global generators; both are seeded from that tuple before each sample and
put back afterwards, so samples made in the main process leave its generators alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from samunet.core.batch import Batch
from samunet.core.geometry import Shape
from samunet.core.preprocessed import OUTSIDE
from samunet.data.augmentation import Augmentation, augment
from samunet.data.dataset import PreprocessedDataset
from samunet.data.sampling import choose_patch

FOREGROUND_SHARE = 1 / 3  # nnU-Net's: of each batch, rounded so that a batch of two has one


@dataclass(frozen=True, kw_only=True)
class PatchSource(Dataset):
    """Sample number n of a stream: item n % batch_size of step n // batch_size."""

    cases: PreprocessedDataset
    augmentation: Augmentation
    batch_size: int
    seed: int
    augmented: bool

    def __getitem__(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return image (C, D, H, W) float32 and label (D, H, W) int16."""
        step, item = divmod(number, self.batch_size)
        sequence = np.random.SeedSequence((self.seed, step, item))
        random = np.random.default_rng(sequence)
        foreground = item >= round(self.batch_size * (1 - FOREGROUND_SHARE))
        patch_size: Shape = self.augmentation.patch_size
        read_size = self.augmentation.read_size if self.augmented else patch_size
        identifier, start = choose_patch(self.cases, patch_size, read_size, random, foreground=foreground)
        image, label = self.cases.cut(identifier, start, read_size)
        if not self.augmented:
            return torch.from_numpy(image), torch.from_numpy(np.where(label == OUTSIDE, 0, label).astype(np.int16))
        global_state = np.random.get_state()
        with torch.random.fork_rng(devices=[]):
            words = sequence.generate_state(2)
            np.random.seed(words[0])
            torch.default_generator.manual_seed(int(words[1]))  # torch.manual_seed would also seed the GPUs
            try:
                return augment(self.augmentation.pipeline, image, label, self.augmentation.masked_channels)
            finally:
                np.random.set_state(global_state)


def batches(source: PatchSource, *, first_step: int, steps: int, workers: int, pin_memory: bool = False) -> Iterator[Batch]:
    """Yield the batches of steps first_step, first_step + 1, ...; one pool of workers lives as long as the iterator.

    Args:
        workers: processes that make samples ahead; 0 makes them in this process.
    """
    numbers = range(first_step * source.batch_size, (first_step + steps) * source.batch_size)
    loader = DataLoader(
        source,
        batch_size=source.batch_size,
        sampler=numbers,
        num_workers=workers,
        multiprocessing_context="spawn" if workers else None,
        worker_init_fn=_limit_threads if workers else None,
        prefetch_factor=2 if workers else None,
        pin_memory=pin_memory,
        generator=torch.Generator(),  # unused, but without one the loader draws from torch's global generator
    )
    for image, label in loader:
        yield Batch(image=image, label=label)


def _limit_threads(_: int) -> None:
    torch.set_num_threads(1)
