"""Models by the names that users give them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from samunet.checkpoints.seeds import SHIPPED, is_seed, shipped_seed
from samunet.interaction.slices import PlaneModel, SAMModel, SeedModel
from samunet.interaction.volumes import VolumeModel
from samunet.sam.checkpoints import find_weights


def model_named(name: str, device: str | None = None, weights_folders: Sequence[Path] = ()) -> PlaneModel | VolumeModel:
    """Load a model for annotation.

    Args:
        name: "seed" for what comes with samunet, a seed's file, the folder of a trained model that takes prompts, or a
            file or the name of a checkpoint in SAM's layout.
        weights_folders: where checkpoints are looked for.

    Raises:
        CheckpointError, WeightsAbsentError: there is no such model, or it is none of these.
        ConfigError: it takes no prompts, or the device is absent.
    """
    if name == str(SHIPPED):
        return SeedModel(shipped_seed(2), device=device)
    path = Path(name).expanduser()
    if (path / "plans.json").is_file():
        return VolumeModel(path, device, weights_folders)
    found = find_weights(name, weights_folders)
    return SeedModel(found, device=device) if is_seed(found) else SAMModel(found, device=device)
