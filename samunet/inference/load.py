"""Load a trained model's folder as a predictor."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from samunet.checkpoints.file import check_frozen_weights, load_checkpoint, load_trainable_state
from samunet.core.dataset import read_dataset_json
from samunet.core.plan import load_plan
from samunet.core.results import FINAL, checkpoint_file, finished_folds
from samunet.errors import CheckpointError
from samunet.inference.predictor import PredictionOptions, Predictor
from samunet.inference.prompted_predictor import PromptedPredictor
from samunet.machine.hardware import choose_device
from samunet.models.segmenter import PromptedSegmenter, SlabSegmenter
from samunet.planning.known import refuse_unknown_names
from samunet.variants.network import build_network


def load_predictor(
    folder: Path | str,
    *,
    folds: Sequence[str] | None = None,
    checkpoint: str = FINAL,
    device: str | None = None,
    options: PredictionOptions | None = None,
    weights_folders: Sequence[Path] = (),
    compile: bool = False,
) -> Predictor:
    """Load a model folder `<Trainer>__<plans>__<configuration>`; raises CheckpointError where the folder holds no such
    model, or a fold is not trained.

    Args:
        folds: fold names such as ("0", "1"); None takes every fold that has the checkpoint.
        checkpoint: file name, with or without its ending.
        device: cuda, mps or cpu; None takes the best one present.
        weights_folders: where the frozen weights are looked for when they are not at the plan's path.
        compile: compile the networks with torch.compile; the first tiles take longer.

    Returns:
        A `PromptedPredictor` where the networks segment what prompts show, else a `Predictor`.
    """
    folder = Path(folder)
    if not (folder / "plans.json").is_file():
        raise CheckpointError(
            f"Folder {folder} is not a trained model; it has no plans.json. "
            "Give a <Trainer>__<plans>__<configuration> folder."
        )
    plan = load_plan(folder / "plans.json")
    refuse_unknown_names(plan, folder / "plans.json")
    dataset = read_dataset_json(folder / "dataset.json")
    file_name = checkpoint_file(checkpoint)
    trained = finished_folds(folder, file_name)
    folds = tuple(folds) if folds is not None else trained
    if not folds:
        raise CheckpointError(
            f"Model {folder} has no fold with {file_name}; train one first, or name another checkpoint with -chk."
        )
    on = choose_device(device)
    networks: list[SlabSegmenter] = []
    for fold in folds:
        path = folder / f"fold_{fold}" / file_name
        if not path.is_file():
            raise CheckpointError(
                f"Fold {fold} of {folder.name} is not trained: {path} does not exist. "
                f"Folds with that checkpoint: {', '.join(trained) or 'none'}."
            )
        stored = load_checkpoint(path, with_optimizer=False)
        configuration = plan.configuration(stored.state.configuration)
        check_frozen_weights(stored.state, configuration, path)
        network = build_network(plan, configuration, dataset.labels, weights_folders)
        load_trainable_state(network, stored.weights, path, pretrained=configuration.weights is not None)
        network.merge()
        share_frozen(network, networks[:1])
        networks.append(network.to(on).eval())
        if compile:
            network.forward = torch.compile(network.forward)  # type: ignore[method-assign]
    kind: type[Predictor] = PromptedPredictor if isinstance(networks[0], PromptedSegmenter) else Predictor
    return kind(
        plan=plan,
        configuration=configuration,
        dataset=dataset,
        folds=folds,
        networks=tuple(networks),
        device=on,
        options=options or PredictionOptions(),
    )


def share_frozen(network: nn.Module, others: Sequence[nn.Module]) -> None:
    """Let a network use others' frozen parameters where they are equal, so that folds hold their backbone once."""
    for other in others:
        theirs = dict(other.named_parameters())
        for name, parameter in network.named_parameters():
            if not parameter.requires_grad and torch.equal(parameter, theirs[name].to(parameter.device)):
                parameter.data = theirs[name].data
