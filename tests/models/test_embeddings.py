"""Embeddings of a frozen encoder come from disk when a slice comes again, and only then."""

from __future__ import annotations

import pytest
import torch
from samples import planned_with_weights

from samunet import pipeline
from samunet.checkpoints.file import load_checkpoint
from samunet.data.dataset import PreprocessedDataset
from samunet.models import prompt_free
from samunet.models.embeddings import EmbeddingCache
from samunet.preprocessing.storage import open_array, stored_cases
from samunet.training.config import TrainingConfig


class Counting:
    """Stands for an encoder; remembers how many slices it was asked for."""

    def __init__(self) -> None:
        self.slices = 0

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        self.slices += len(pixels)
        return pixels.mean((3, 4), keepdim=True) * torch.arange(1.0, 3).view(2, 1)


def test_known_slices_are_read_and_only_new_ones_computed(tmp_path):
    cache, encode = EmbeddingCache(tmp_path, torch.nn.Linear(2, 2)), Counting()
    first, second = torch.randn(2, 3, 3, 4, 5), torch.randn(1, 3, 3, 4, 5)
    second[0, 1] = first[1, 2]
    wanted = encode(first.flatten(0, 1).unsqueeze(1)).reshape(2, 3, 3, 2, 1)
    encode.slices = 0
    assert torch.equal(cache.embed(first, encode), wanted) and encode.slices == 6
    assert torch.equal(cache.embed(first, encode), wanted) and encode.slices == 6
    assert torch.equal(cache.embed(second, encode)[0, 1], wanted[1, 2]) and encode.slices == 8
    assert len(list(tmp_path.rglob("*.safetensors"))) == 8
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cache.embed(first, encode)
    assert encode.slices == 14  # another number format has embeddings of its own
    EmbeddingCache(tmp_path, torch.nn.Linear(2, 2)).embed(first, encode)
    assert encode.slices == 20  # and so have other weights


def test_an_embedding_with_a_flipped_bit_is_computed_again(tmp_path):
    encoder, encode, pixels = torch.nn.Linear(2, 2), Counting(), torch.randn(1, 1, 3, 4, 5)
    wanted = EmbeddingCache(tmp_path, encoder).embed(pixels, encode)
    (file,) = tmp_path.rglob("*.safetensors")
    whole = file.read_bytes()
    for bit in range(0, 8 * len(whole), 7):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        file.write_bytes(damaged)
        assert torch.equal(EmbeddingCache(tmp_path, encoder).embed(pixels, encode), wanted)
        assert file.read_bytes() in (whole, bytes(damaged))  # the latter where padding of the header changed
    assert encode.slices > len(whole) // 2


@pytest.fixture(scope="module")
def frozen(tmp_path_factory):
    """Frozen random weights under a linear head, planned for slices that are whole in the patch."""
    workspace, dataset, _, plan = planned_with_weights(
        tmp_path_factory.mktemp("frozen"), "Dataset906_Frozen", size=(6, 40, 32), side=256
    )
    plan = pipeline.resolve(workspace, plan, "2d_frozen")
    folder = pipeline.preprocess(workspace, dataset, plan, "2d_frozen", threads=1, quiet=True)
    return workspace, dataset.spec.name, folder


def train(workspace, name, *, configuration="2d_frozen", fold="all", iterations=12, **settings):
    config = TrainingConfig(epochs=1, iterations=iterations, batch_size=4, workers=0, precision="fp32", **settings)
    chosen = pipeline.TrainOptions(configuration=configuration, fold=fold, device="cpu", validate=False, overwrite=True)
    return load_checkpoint(pipeline.train(workspace, name, config, chosen) / "checkpoint_final.safetensors").model


@pytest.fixture
def slice_by_slice(monkeypatch):
    """Encode one slice at a time, in memory of its own.

    The last digits of a product may depend on what else is in the batch and where it lies, and the slices that are not
    kept yet make other batches. Where a gradient is zero but for rounding, as that of keys' biases is, AdamW makes
    whole steps of such digits.
    """
    embed = prompt_free.PromptFreeSAM.embed

    def embed_each(network, pixels):
        planes = [embed(network, plane[None, None].clone())[0] for plane in pixels.flatten(0, 1)]
        return (torch.cat(planes).contiguous().flatten(0, 1).unflatten(0, pixels.shape[:2]),)

    monkeypatch.setattr(prompt_free.PromptFreeSAM, "embed", embed_each)


def test_training_without_augmentation_keeps_each_slice_once_and_learns_the_same(frozen, slice_by_slice, monkeypatch):
    workspace, name, folder = frozen
    kept = folder.with_name(f"{folder.name}_embeddings")
    train(workspace, name, iterations=1)
    assert not kept.exists()  # augmented slices never come again
    with monkeypatch.context() as patch:
        patch.setattr(prompt_free.PromptFreeSAM, "keep_embeddings", lambda *_: False)
        computed = train(workspace, name, augmentation="none")
    first = train(workspace, name, augmentation="none")
    files = {path: path.stat().st_mtime_ns for path in kept.rglob("*.safetensors")}
    slices = sum(open_array(folder / f"{case}.b2nd").shape[1] for case in stored_cases(folder))
    assert 0 < len(files) <= slices
    again = train(workspace, name, augmentation="none")
    assert files == {path: path.stat().st_mtime_ns for path in kept.rglob("*.safetensors")}
    damaged, size = next(iter(files)), next(iter(files)).stat().st_size
    damaged.write_bytes(b"cut off")  # as by a full disk
    train(workspace, name, augmentation="none")
    assert damaged.stat().st_size == size
    assert first.keys() == computed.keys() == again.keys()
    assert all(torch.equal(first[key], again[key]) and torch.equal(first[key], computed[key]) for key in first)


def test_an_encoder_that_trains_keeps_nothing(frozen):
    workspace, name, _ = frozen
    for path in workspace.preprocessed.rglob("*.safetensors"):
        path.unlink()
    train(workspace, name, configuration="2d_samed", augmentation="none", iterations=1)
    assert not list(workspace.preprocessed.rglob("*.safetensors"))


def test_planes_wider_than_the_patch_keep_nothing(frozen):
    _, _, folder = frozen
    cases = PreprocessedDataset(folder, stored_cases(folder))
    widest = [max(cases.shape(name)[axis] for name in cases.identifiers) for axis in (1, 2)]
    assert (
        cases.planes_fit((1, *widest))
        and not cases.planes_fit((1, widest[0] - 1, widest[1]))
        and not cases.planes_fit((1, widest[0], widest[1] - 1))
    )
