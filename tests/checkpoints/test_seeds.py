"""A seed comes back with its card, is refused where it is not whole, and starts networks."""

from __future__ import annotations

import pytest
import torch

from samunet.checkpoints import seeds
from samunet.checkpoints.seeds import is_seed, load_seed, save_seed, shipped_seed, shipped_seeds
from samunet.cli.weights import main
from samunet.errors import CheckpointError

WEIGHTS = {"one": torch.arange(6).view(2, 3).half(), "two": torch.ones(1).half()}


def test_a_seed_comes_back_with_its_card(tmp_path):
    save_seed(tmp_path / "a.safetensors", WEIGHTS, {"steps": 3})
    seed = load_seed(tmp_path / "a.safetensors")
    assert seed.card == {"steps": 3} and seed.weights.keys() == WEIGHTS.keys()
    assert all(torch.equal(seed.weights[name], tensor) for name, tensor in WEIGHTS.items())
    assert is_seed(tmp_path / "a.safetensors")


def test_what_is_no_whole_seed_is_refused_by_name(tmp_path):
    path = tmp_path / "a.safetensors"
    with pytest.raises(CheckpointError, match="a.safetensors cannot be read"):
        load_seed(path)
    save_seed(path, WEIGHTS, {"steps": 3})
    whole = bytearray(path.read_bytes())
    whole[-1] ^= 1
    path.write_bytes(whole)
    with pytest.raises(CheckpointError, match="a.safetensors is no whole seed"):
        load_seed(path)
    path.write_bytes(b"nothing")
    assert not is_seed(path)
    seeds.save_tensors(path, WEIGHTS)
    assert not is_seed(path)
    with pytest.raises(CheckpointError, match="a.safetensors is no whole seed"):
        load_seed(path)


def test_slices_serve_volumes_where_no_seed_is_for_them(tmp_path, monkeypatch):
    monkeypatch.setattr(seeds, "files", lambda package: tmp_path)
    with pytest.raises(CheckpointError, match="without its seeds"):
        shipped_seed(3)
    (tmp_path / "seeds").mkdir()
    save_seed(tmp_path / "seeds" / "seed_2d.safetensors", WEIGHTS, {})
    assert shipped_seed(3).name == shipped_seed(2).name == "seed_2d.safetensors"
    save_seed(tmp_path / "seeds" / "seed_3d.safetensors", WEIGHTS, {})
    assert shipped_seed(3).name == "seed_3d.safetensors"


def test_the_seeds_that_come_with_samunet_are_whole_small_and_say_what_they_are(capsys):
    assert [path.stem for path in shipped_seeds()][:1] == ["seed_2d"]
    assert sum(path.stat().st_size for path in shipped_seeds()) <= 12e6
    for path in shipped_seeds():
        seed = load_seed(path)
        assert "no image of any patient" in seed.card["contains"] and {"recipe", "training", "steps"} <= set(seed.card)
        assert all(tensor.dtype == torch.float16 and tensor.isfinite().all() for tensor in seed.weights.values())
    assert main(["list"]) == main(["verify", "seed_2d"]) == 0
    assert capsys.readouterr().out.count(str(shipped_seed(2))) == 2
