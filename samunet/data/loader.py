"""Batches whose content depends only on (seed, step, item), whatever the number of workers.

Augmentation draws from numpy's and torch's global generators; both are seeded from that tuple before each sample and
put back afterwards, so samples made in the main process leave its generators alone.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from samunet.core.batch import Batch
from samunet.core.geometry import Shape
from samunet.core.preprocessed import OUTSIDE_NONZERO
from samunet.core.process import end_with_parent
from samunet.data.augmentation import Augmentation, augment
from samunet.data.dataset import PreprocessedDataset
from samunet.data.sampling import choose_patch
from samunet.errors import ConfigError, DatasetError

Sample = tuple[torch.Tensor, torch.Tensor]

FOREGROUND_SHARE = 1 / 3  # nnU-Net's: of each batch, rounded so that a batch of two has one


class SampleSource(Dataset["Sample | DatasetError"]):
    """A stream of samples: number n is item n % batch_size of step n // batch_size."""

    batch_size: int


@dataclass(frozen=True, kw_only=True)
class PatchSource(SampleSource):
    """Patches of preprocessed cases."""

    cases: PreprocessedDataset
    augmentation: Augmentation
    batch_size: int
    seed: int
    augmented: bool
    balanced: bool = False
    """See `choose_patch`."""

    def place(self, number: int) -> tuple[str, Shape]:
        """Return the case and the first voxel of a sample."""
        return self._place(*divmod(number, self.batch_size))[1]

    def __getitem__(self, number: int) -> Sample | DatasetError:
        """Return image (C, D, H, W) float32 and label (D, H, W) int16, or the error that names the case."""
        try:
            sequence, (identifier, start) = self._place(*divmod(number, self.batch_size))
            image, label = self.cases.cut(identifier, start, self._read_size)
        except (DatasetError, OSError) as error:  # returned, since an error that is raised in a worker arrives as text
            return DatasetError(str(error))
        if not self.augmented:
            return torch.from_numpy(image), torch.from_numpy(
                np.where(label == OUTSIDE_NONZERO, 0, label).astype(np.int16)
            )
        global_state = np.random.get_state()
        with torch.random.fork_rng(devices=[]):
            words = sequence.generate_state(2)
            np.random.seed(words[0])
            torch.default_generator.manual_seed(int(words[1]))  # torch.manual_seed would also seed the GPUs
            try:
                return augment(self.augmentation.pipeline, image, label, self.augmentation.masked_channels)
            finally:
                np.random.set_state(global_state)

    @property
    def _read_size(self) -> Shape:
        return self.augmentation.read_size if self.augmented else self.augmentation.patch_size

    def _place(self, step: int, item: int) -> tuple[np.random.SeedSequence, tuple[str, Shape]]:
        sequence = np.random.SeedSequence((self.seed, step, item))
        foreground = item >= round(self.batch_size * (1 - FOREGROUND_SHARE))
        random = np.random.default_rng(sequence)
        patch_size = self.augmentation.patch_size
        return sequence, choose_patch(
            self.cases, patch_size, self._read_size, random, foreground=foreground, balanced=self.balanced
        )


def batches(
    source: SampleSource,
    *,
    first_step: int,
    steps: int,
    workers: int,
    pin_memory: bool = False,
    items: range | None = None,
) -> Generator[Batch, None, None]:
    """Yield the batches of steps first_step, first_step + 1, ...; one pool of workers lives as long as the iterator.

    Args:
        workers: processes that make samples ahead; 0 makes them in this process.
        items: which samples of each batch; None for all of them.

    Raises:
        DatasetError: a patch cannot be read; its file is named.
    """
    items = range(source.batch_size) if items is None else items
    if workers:
        _refuse_unguarded_script()
    loader = DataLoader(
        source,
        batch_size=len(items),
        sampler=_Numbers(range(first_step, first_step + steps), items, source.batch_size),
        collate_fn=_collate,
        num_workers=workers,
        multiprocessing_context="spawn" if workers else None,
        worker_init_fn=_prepare_worker if workers else None,
        prefetch_factor=2 if workers else None,
        pin_memory=pin_memory,
        generator=torch.Generator(),  # unused, but without one the loader draws from torch's global generator
    )
    for made in loader:
        if isinstance(made, DatasetError):
            raise made
        yield Batch(image=made[0], label=made[1])


def _refuse_unguarded_script() -> None:
    """Raise ConfigError where the running script would run again in every process that is started, which then dies."""
    script = Path(getattr(sys.modules["__main__"], "__file__", None) or "")
    if (
        script.suffix == ".py"
        and script.is_file()
        and "__name__" not in script.read_text(encoding="utf-8", errors="replace")
    ):
        raise ConfigError(
            f"{script} would run again in each process that prepares patches; put what it does below a line "
            "'if __name__ == \"__main__\":', or train with workers=0."
        )


@contextmanager
def naming_dead_workers() -> Iterator[None]:
    """Turn torch's error about a worker that died, which is raised wherever the training process is at that moment,
    into a DatasetError.
    """
    try:
        yield
    except RuntimeError as error:
        if not any(sign in str(error) for sign in ("DataLoader worker (pid", "Pin memory thread exited")):
            raise
        message = (
            f"A process that prepares patches died ({str(error).splitlines()[0].strip()}); memory may have run out. "
            "Lower --workers, or free memory."
        )
        raise DatasetError(message) from None


@dataclass(frozen=True)
class _Numbers:
    """The sample numbers of some steps and items, in order."""

    steps: range
    items: range
    batch_size: int

    def __iter__(self) -> Iterator[int]:
        return (step * self.batch_size + item for step in self.steps for item in self.items)


def _collate(samples: list[Sample | DatasetError]) -> Sample | DatasetError:
    patches: list[Sample] = []
    for sample in samples:
        if isinstance(sample, DatasetError):
            return sample
        patches.append(sample)
    images, labels = zip(*patches, strict=True)
    return torch.stack(images), torch.stack(labels)


def _prepare_worker(_: int) -> None:
    end_with_parent()
    torch.set_num_threads(1)
    for number in (
        signal.SIGINT,
        signal.SIGTERM,
    ):  # signals to the whole group are the training process's, which ends its workers
        signal.signal(number, signal.SIG_IGN)
