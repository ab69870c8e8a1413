"""Fingerprint to plan, and plan to preprocessed cases."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from samunet.core.codec import decode, read_json
from samunet.core.dataset import DatasetSpec, read_dataset_json
from samunet.core.fingerprint import Fingerprint
from samunet.core.labels import left_right_pairs
from samunet.core.lock import held
from samunet.core.names import DEFAULT_PLANS_NAME
from samunet.core.plan import MOVE_PLANS, Plan, check_plans_name, load_plan, parse_configuration_name, save_plan
from samunet.core.units import counted
from samunet.core.workspace import FINGERPRINT_FILE, Workspace, dataset_id
from samunet.errors import ConfigError, DatasetError, PlanningError, SamunetError
from samunet.pipeline.datasets import RawDataset, open_dataset
from samunet.pipeline.estimating import TRAINED_IN, estimate_gib, planned_method
from samunet.planning.known import refuse_unknown_names
from samunet.planning.options import PlanOptions as PlanOptions
from samunet.planning.planners.default import Target
from samunet.planning.planners.default import plan as make_plan
from samunet.preprocessing.run import preprocess_dataset
from samunet.sam.backbones import Backbone, backbone_named
from samunet.sam.checkpoints import checkpoint_named, find_checkpoint, find_weights, trusted_sha256
from samunet.variants.method import load_variant

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

DEFAULT_CONFIGURATIONS = ("3d_adapter", "2d_adapter")
EMBEDDED_BACKBONE, OFFICIAL_BACKBONE = "vit_tiny", "vit_b"  # what -backbone auto chooses between
MOST_MEASUREMENTS = 4
# Share of the estimate to plan for next, when a step ran out of memory and nobody knows by how much.
WHERE_IT_RAN_OUT = 0.75


def plan(
    workspace: Workspace,
    dataset: RawDataset,
    fingerprint: Fingerprint,
    options: PlanOptions,
    *,
    measure_on: torch.device | None = None,
) -> Plan:
    """Plan the default configurations and save the plan.

    Args:
        measure_on: device on which a training step of every configuration is run first; those that need more memory
            than was asked for are planned again, smaller.

    Raises:
        WeightsAbsentError: the weights that are given, or that the backbone needs, are not on this machine.
        CheckpointError: the weights do not fit, or nothing says that their file can be trusted.
        PlanningError: no plan fits the memory, by estimate or as measured.
        ConfigError: a step cannot be measured on that device.
        InUseError: a training goes by the plan that would be replaced.
    """
    names = tuple(name for name in DEFAULT_CONFIGURATIONS if not (fingerprint.planar and name.startswith("3d")))
    made = _plan(workspace, dataset.spec, fingerprint, options, names, dataset.reader.name)
    if measure_on is not None:
        made = _measured(workspace, dataset, fingerprint, made, options, measure_on)
    path = plan_path(workspace, dataset.spec.name, options.plans_name)
    plans = [made]
    with suppress(SamunetError):  # one that is absent, damaged or of another version trains nobody
        plans.append(load_plan(path))
    folders = {path.parent / entry.data_identifier for one in plans for entry in one.configurations.values()}
    with ExitStack() as stack:  # nobody trains by the plan that this one replaces
        for folder in sorted(filter(Path.is_dir, folders)):
            stack.enter_context(held(folder))
        save_plan(path, made)
    return made


def _measured(
    workspace: Workspace,
    dataset: RawDataset,
    fingerprint: Fingerprint,
    made: Plan,
    options: PlanOptions,
    device: torch.device,
) -> Plan:
    """Run a training step of every configuration, and plan those again that need more memory than was asked for."""
    from samunet.pipeline.measuring import measure_step

    for name in made.configurations:
        how = (device, workspace.weights_folders, TRAINED_IN[made.precision])
        for again in range(MOST_MEASUREMENTS, -1, -1):
            step = measure_step(made, name, dataset.spec.labels, *how)
            if step.gib <= options.memory_gib:
                break
            share = 0.95 * options.memory_gib / step.gib if math.isfinite(step.gib) else WHERE_IT_RAN_OUT
            budget = share * estimate_gib(made.configuration(name), dataset.spec, made.precision)
            try:
                if not again:
                    raise PlanningError(f"{MOST_MEASUREMENTS} smaller plans were tried.")
                asked = replace(options, memory_gib=budget)
                smaller = _plan(workspace, dataset.spec, fingerprint, asked, (name,), dataset.reader.name)
            except PlanningError as error:
                need = f"{step.gib:.2f} GiB" if math.isfinite(step.gib) else "more than there is"
                raise PlanningError(
                    f"A training step of {name} needs {need} on {device.type}, {options.memory_gib:g} GiB were asked "
                    f"for, and no smaller plan helps ({error}) Raise -gpu_memory_target, or choose a smaller -backbone."
                ) from None
            made = _merged(made, smaller, name)
        reason = f"a training step needs {step.gib:.2f} GiB and takes {step.seconds:.2f} s, measured on {device.type}"
        made = replace(made, reasons={**made.reasons, f"{name}: memory": reason})
    return made


def plan_path(workspace: Workspace, dataset: str, plans_name: str) -> Path:
    """Return where a dataset's plan lies."""
    return workspace.preprocessed / dataset / f"{plans_name}.json"


def open_plan(workspace: Workspace, dataset: str, plans_name: str) -> Plan:
    """Read a dataset's saved plan; its name is that of the file, whatever stands in it. Raises ConfigError where it is
    absent, of another form, or another dataset's.
    """
    path = plan_path(workspace, dataset, plans_name)
    if not path.is_file():
        named = "" if plans_name == DEFAULT_PLANS_NAME else f" -overwrite_plans_name {plans_name}"
        raise ConfigError(
            f"{dataset} has no plan '{plans_name}' ({path}). Make it first: samunet_plan_and_preprocess -d "
            f"{dataset_id(dataset)}{named}"
        )
    plan = load_plan(path)
    _refuse_other_dataset(plan, dataset, str(path))
    refuse_unknown_names(plan, path)
    return replace(plan, plans_name=plans_name)


def move_plan(
    workspace: Workspace,
    source: str,
    target: str,
    *,
    source_plans: str,
    target_plans: str,
    configurations: Sequence[str] = (),
) -> Path:
    """Save a dataset's plan as one of another dataset, so that a model of the one can be trained further on the other.

    Everything is kept, intensity statistics too, but for the dataset's name, the reader and the names of plan and data.

    Args:
        configurations: names that the plan is to hold besides its own, computed from the source's data.

    Raises:
        ConfigError: the source has no such plan, the target has one of that name, or there is no such configuration.
        DatasetError: the two datasets differ in their number of channels, or the plan is for volumes and the target
            holds 2D images.
    """
    check_plans_name(target_plans)
    moved, spec = open_plan(workspace, source, source_plans), open_dataset(workspace, target)
    for name in configurations:
        moved = resolve(workspace, moved, name)
    if len(moved.channels) != len(spec.spec.channels):
        raise DatasetError(
            f"The plan of {source} is for {counted(len(moved.channels), 'channel')}; {target} has "
            f"{len(spec.spec.channels)}. Plan {target} itself."
        )
    planar = spec.reader.peek(spec.cases[0].images[0]).geometry.planar
    if planar and any(configuration.dimensions == 3 for configuration in moved.configurations.values()):
        raise DatasetError(f"The plan of {source} is for volumes, and {target} holds 2D images. Plan {target} itself.")
    path = plan_path(workspace, target, target_plans)
    if path.exists():
        raise ConfigError(f"{path} exists already; give another name with -tp.")
    sided = left_right_pairs(spec.spec.labels)
    if sided and any(configuration.mirror_axes for configuration in moved.configurations.values()):
        (left, _), (right, _) = sided[0]
        what = f"{target} has labels for left and right ('{left}', '{right}'), and the moved plan allows flips"
        logger.warning("%s; take the axis between them out of mirror_axes in %s.", what, path)
    own = {name: entry.data_identifier.removeprefix(source_plans) for name, entry in moved.configurations.items()}
    renamed = {
        name: replace(entry, data_identifier=target_plans + own[name]) for name, entry in moved.configurations.items()
    }
    names: dict[str, Any] = {"dataset": target, "plans_name": target_plans, "reader": spec.reader.name}
    names["seen"] = None  # the source's cases are not those that this plan will train on
    save_plan(path, replace(moved, configurations=renamed, **names))
    return path


def resolve(workspace: Workspace, saved: Plan, name: str) -> Plan:
    """Return a plan that holds the configuration `name`, computed from the fingerprint when the saved one lacks it.

    Raises:
        ConfigError: the name is no configuration; the nearest one is named. Or the saved plan was made from other data
            than the fingerprint.
    """
    if name in saved.configurations:
        return saved
    dimensions, variant = parse_configuration_name(name)
    load_variant(variant)
    other_data = ConfigError(
        f"Plan '{saved.plans_name}' of {saved.dataset} lacks '{name}' and was made from other data than are there now. "
        "Plan again; if the plan was moved from another dataset, move it with -c."
    )
    path = workspace.preprocessed / saved.dataset / FINGERPRINT_FILE
    if not path.is_file():
        raise other_data
    try:
        fingerprint = decode(Fingerprint, read_json(path), path.name)
    except ConfigError as error:
        again = f"samunet_extract_fingerprint -d {dataset_id(saved.dataset)}"
        raise ConfigError(f"{error} Measure again: {again}") from None
    if fingerprint.planar and dimensions == 3:
        raise ConfigError(f"{saved.dataset} holds 2D images, so configuration '{name}' does not exist; use 2d_adapter.")
    planned = next(iter(saved.configurations.values()))
    options = PlanOptions(
        plans_name=saved.plans_name,
        memory_gib=saved.memory_gib,
        precision="fp32" if saved.precision == "fp32" else "mixed",
        spacing=saved.asked_spacing,
        keep_orientation=saved.orientation is None,
        backbone=planned.backbone,
        weights=planned.weights,
        sha256=planned.weights_sha256,
    )
    spec = read_dataset_json(workspace.raw / saved.dataset / "dataset.json")
    made = _plan(workspace, spec, fingerprint, options, (name,), saved.reader)
    entry = made.configuration(name)
    shared = [other for other in saved.configurations.values() if other.data_identifier == entry.data_identifier]
    decided = [(plan.orientation, plan.transpose, plan.channels) for plan in (made, saved)]
    if decided[0] != decided[1] or any(other.spacing != entry.spacing for other in shared):
        raise other_data
    return _merged(saved, made, name)


def preprocess(
    workspace: Workspace, dataset: RawDataset, plan: Plan, name: str, *, threads: int, quiet: bool = False
) -> Path:
    """Preprocess every training case for one configuration; returns the folder.

    Raises ConfigError for a plan of another dataset.
    """
    _refuse_other_dataset(plan, dataset.spec.name, f"Plan '{plan.plans_name}'")
    configuration = plan.configuration(name)
    folder = workspace.preprocessed / dataset.spec.name / configuration.data_identifier
    what = (dataset.spec, dataset.cases, plan, configuration, dataset.reader)
    preprocess_dataset(folder, *what, threads=threads, quiet=quiet)
    return folder


def _refuse_other_dataset(plan: Plan, dataset: str, where: str) -> None:
    if plan.dataset != dataset:
        raise ConfigError(
            f"{where} is a plan of {plan.dataset}, not of {dataset}: plan {dataset} itself, or {MOVE_PLANS}."
        )


def _merged(saved: Plan, made: Plan, name: str) -> Plan:
    """Put one configuration of a plan, with its reasons, into another."""
    own_reasons = {decision: reason for decision, reason in made.reasons.items() if decision.startswith(f"{name}:")}
    return replace(
        saved, configurations={**saved.configurations, **made.configurations}, reasons={**saved.reasons, **own_reasons}
    )


def _plan(
    workspace: Workspace,
    spec: DatasetSpec,
    fingerprint: Fingerprint,
    options: PlanOptions,
    names: Sequence[str],
    reader: str,
) -> Plan:
    backbone, weights, sha256, reason = _choose_backbone(options, workspace.weights_folders)
    target = Target(
        memory_gib=options.memory_gib,
        precision=options.precision,
        backbone=backbone.name,
        backbone_reason=reason,
        weights=None if weights is None else str(weights),
        weights_sha256=sha256,
        spacing=options.spacing,
        keep_orientation=options.keep_orientation,
        plans_name=options.plans_name,
        reader=reader,
    )
    methods = {
        name: planned_method(name, spec, backbone, pretrained=weights is not None, precision=options.precision)
        for name in names
    }
    return make_plan(fingerprint, spec, target, methods)


def _choose_backbone(options: PlanOptions, folders: Sequence[Path]) -> tuple[Backbone, Path | None, str | None, str]:
    """Return the backbone, its weights file and that file's hash, and the reason."""
    automatic = options.backbone == "auto" and options.weights is None
    official = checkpoint_named(f"sam_{OFFICIAL_BACKBONE}")
    if automatic and find_checkpoint(official, folders) is None:
        reason = (
            f"{EMBEDDED_BACKBONE}, without pretrained weights, chosen from {OFFICIAL_BACKBONE} and "
            f"{EMBEDDED_BACKBONE}: the checkpoint of {OFFICIAL_BACKBONE} is not on this machine (samunet_weights "
            f"download {official.name} gets it; then plan again)"
        )
        return backbone_named(EMBEDDED_BACKBONE), None, None, reason
    backbone = backbone_named(OFFICIAL_BACKBONE if options.backbone == "auto" else options.backbone)
    if options.weights is None and not (automatic or backbone.pretrained):
        return backbone, None, None, f"{backbone.name} as asked for, without pretrained weights"
    weights = find_weights(options.weights or f"sam_{backbone.name}", folders)
    sha256 = trusted_sha256(weights, options.sha256, folders)
    from samunet.sam.weights import check_weights  # needs torch, which plans without weights do not wait for

    check_weights(backbone, weights)
    reason = f"{backbone.name} with the pretrained weights {weights.name}"
    if automatic:
        reason += f", chosen from {OFFICIAL_BACKBONE} and {EMBEDDED_BACKBONE} because its checkpoint is at hand"
    return backbone, weights, sha256, reason
