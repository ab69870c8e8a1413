"""Trainers for stock nnU-Net that train samunet's networks with nnU-Net's own data, augmentation, loss, prediction and
evaluation.

    export nnUNet_extTrainer=$(samunet_info --ext_trainer)
    nnUNetv2_train DATASET 3d_fullres FOLD -tr samunetTrainer

nnU-Net finds a trainer by the name of its class in the files of that folder, and builds networks from its plan alone. A
network has the plan's patch, strides and kernels, no more features than samunet plans, the embedded vit_tiny without
pretrained weights, and no deep supervision inside nnU-Net's loss. The optimizer is samunet's AdamW, with nnU-Net's
decay of the rate.
"""

from __future__ import annotations

from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import Tensor, nn

from samunet.core.fingerprint import IntensityStatistics
from samunet.core.geometry import shape3, triple
from samunet.core.labels import Labels
from samunet.core.names import DEFAULT_PLANS_NAME
from samunet.core.plan import ChannelPlan, Configuration, Plan, Topology
from samunet.errors import ConfigError
from samunet.training.config import TrainingConfig
from samunet.training.optimizer import make_optimizer
from samunet.variants.method import load_variant
from samunet.variants.network import build_network

BACKBONE = "vit_tiny"
BASE_WIDTH, MAX_WIDTH = 32, 320  # nnU-Net's features, and samunet's
SCHEME_BY_CLASS = {
    "CTNormalization": "ct",
    "ZScoreNormalization": "zscore",
    "NoNormalization": "none",
    "RescaleTo01Normalization": "rescale_to_0_1",
    "RGBTo01Normalization": "rgb_to_0_1",
}
SMALLEST_CLASS = 8.0  # voxels across, which nnU-Net's plan does not tell
POWER = 0.9  # nnU-Net's decay
CUDA = torch.device("cuda")


class Slab(nn.Module):
    """A samunet network that takes nnU-Net's 2D batches too."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, H, W) or (B, C, D, H, W) to logits of the same form."""
        return self.network(image) if image.ndim == 5 else self.network(image.unsqueeze(2)).squeeze(2)


class Decay:
    """nnU-Net's polynomial decay, of a rate of its own for each parameter group."""

    def __init__(self, optimizer: torch.optim.Optimizer, epochs: int) -> None:
        self.optimizer, self.epochs = optimizer, epochs
        self.peaks = [group["lr"] for group in optimizer.param_groups]

    def step(self, epoch: int) -> None:
        """Set the rates of an epoch."""
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * (1 - epoch / self.epochs) ** POWER


class samunetTrainer(nnUNetTrainer):
    """samunet's default model, sam_unet."""

    variant = "sam_unet"

    def __init__(
        self, plans: dict, configuration: str, fold: int, dataset_json: dict, device: torch.device = CUDA
    ) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)  # nnU-Net reads the names of these from here
        self.enable_deep_supervision = False

    @classmethod
    def build_network_architecture(
        cls,
        plans_manager: Any,
        configuration_manager: Any,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """Build a samunet network from nnU-Net's plan."""
        del enable_deep_supervision
        if load_variant(cls.variant).prompted:
            raise ConfigError(
                f"The method {cls.variant} takes prompts, which nnU-Net does not give; train it with samunet_train."
            )
        network = build_network(
            *samunet_plan(cls.variant, configuration_manager, num_input_channels), class_labels(num_output_channels)
        )
        return Slab(network)

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, Decay]:
        """AdamW with samunet's rates, decayed as nnU-Net does."""
        slab = getattr(self.network, "_orig_mod", self.network)  # not yet within DistributedDataParallel
        optimizer = make_optimizer(slab.network, TrainingConfig())
        return optimizer, Decay(optimizer, self.num_epochs)

    def set_deep_supervision_enabled(self, enabled: bool) -> None:
        """There is none to switch."""


class samunetTrainer_ma_sam(samunetTrainer):
    """MA-SAM."""

    variant = "ma_sam"


class samunetTrainer_samed(samunetTrainer):
    """SAMed."""

    variant = "samed"


def samunet_plan(variant: str, configuration_manager: Any, channels: int) -> tuple[Plan, Configuration]:
    """Turn one of nnU-Net's configurations into a plan of samunet's for a variant.

    Args:
        configuration_manager: nnU-Net's; 2D patches become slabs of one slice.
        channels: of the image.
    """
    given = configuration_manager.configuration
    arch = configuration_manager.network_arch_init_kwargs
    lead = [1] * (3 - len(given["patch_size"]))
    topology = Topology(
        strides=tuple(shape3([*lead, *stride]) for stride in _sides(arch["strides"], len(given["patch_size"]))),
        kernels=tuple(shape3([*lead, *kernel]) for kernel in _sides(arch["kernel_sizes"], len(given["patch_size"]))),
        widths=tuple(min(BASE_WIDTH * 2**stage, MAX_WIDTH) for stage in range(len(arch["strides"]))),
    )
    patch_size = shape3([*lead, *given["patch_size"]])
    names = [SCHEME_BY_CLASS.get(name, "zscore") for name in given["normalization_schemes"]]
    names += [names[-1]] * (channels - len(names))
    figures = IntensityStatistics(
        mean=0.0, median=0.0, std=1.0, minimum=0.0, maximum=1.0, percentile_00_5=0.0, percentile_99_5=1.0
    )
    configuration = Configuration(
        variant=variant,
        dimensions=2 if lead else 3,
        data_identifier="nnunet",
        spacing=triple([*[1.0] * len(lead), *given["spacing"]]),
        median_shape=triple(
            [*[1.0] * len(lead), *map(float, given.get("median_image_size_in_voxels", given["patch_size"]))]
        ),
        patch_size=patch_size,
        batch_size=int(given["batch_size"]),
        backbone=BACKBONE,
        weights=None,
        weights_sha256=None,
        encoder_scale=load_variant(variant).preferred(topology, patch_size, SMALLEST_CLASS)[0].scale,
        topology=topology,
        mirror_axes=(),
        variant_options={},
    )
    plan = Plan(
        dataset="Dataset000_nnUNet",
        plans_name=DEFAULT_PLANS_NAME,
        reader="SimpleITKIO",
        memory_gib=8.0,
        precision="mixed",
        asked_spacing=None,
        transpose=(0, 1, 2),
        channels=tuple(
            ChannelPlan(name=f"channel {index}", scheme=name, within_mask=False, intensities=figures)
            for index, name in enumerate(names)
        ),
        configurations={},
        reasons={},
    )
    return plan, configuration


def class_labels(outputs: int) -> Labels:
    """Return labels with as many classes as nnU-Net wants output channels; it applies softmax or sigmoid itself."""
    if outputs == 1:
        return Labels(values=(("background", (0,)), ("output", (1,))), regions_order=(1,))
    return Labels(values=(("background", (0,)), *((f"output {value}", (value,)) for value in range(1, outputs))))


def _sides(values: Any, dimensions: int) -> list[list[int]]:
    """nnU-Net writes one number for all sides, or one per side."""
    return [[int(value)] * dimensions if isinstance(value, int) else [int(side) for side in value] for value in values]
