"""What a network is asked about scenes: masks for prompts, for a reference's likeness, distances, and a clean image.

Axes: B batch (one structure each), D H W voxels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from samunet.core.batch import Batch
from samunet.models.convolution import Convolution
from samunet.models.segmenter import ParameterGroup, SlabSegmenter
from samunet.pretraining.source import REFERENCE, TARGET
from samunet.variants.sam_unet_prompted import annotator
from samunet.variants.sam_unet_prompted.network import PromptedSAMUNet

NOISIEST = 0.5  # standard deviation of the noise that is added, in the image's
REFERENCES, ALONE = 0.5, 0.5  # share of scenes with a reference in which it is shown, and of these without a prompt
FARTHEST = 8  # voxels at which distances are cut
DISTANCE, DENOISING = 0.5, 0.2  # weights beside the Dice loss's 1


class PretrainingNetwork(SlabSegmenter):
    """A promptable network with a head for what only pretraining asks.

    Args:
        network: what is pretrained.
        features: of its decoder's last level.
        auxiliary: ask for distances and the clean image too.
    """

    mean_over_samples = True

    def __init__(self, network: PromptedSAMUNet, features: int, *, auxiliary: bool = True) -> None:
        super().__init__()
        self.network = network
        self.extra = Convolution(features, 2, 1) if auxiliary else None

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.network(image)
        return logits

    def sums(self, batch: Batch) -> dict[str, Tensor]:
        network, label, count = self.network, batch.label, len(batch.image)
        device = label.device
        noise = NOISIEST * torch.rand(count, 1, 1, 1, 1, device=device) * torch.randn_like(batch.image)
        encoded, sample = network.encode_image(batch.image + noise), torch.arange(count, device=device)
        example, known = label == REFERENCE, torch.ones_like(label, dtype=torch.bool)
        shown = example.flatten(1).any(1) & (torch.rand(count, device=device) < REFERENCES) & network.takes_references
        alone = shown & (torch.rand(count, device=device) < ALONE)
        # Nothing but a reference's likeness tells its family from the rest, and no member from another.
        target = torch.where(alone[:, None, None, None], label > 0, label == TARGET)
        reference = network.reference_of(encoded, example) * shown[:, None] if network.takes_references else None
        drawn = annotator.first_prompts(target) * ~alone[:, None, None, None]
        drawn = network.corrected(drawn, encoded, target, known, sample, reference)
        masks = network.masks(encoded, drawn, sample, reference)
        sums = network.sums_of(masks, target, known)
        if self.extra is not None:
            distance, clean = self.extra(masks.features).float().unbind(1)
            away = (distance.tanh() - clipped_distance(target)).abs().mean((1, 2, 3)).sum()
            sums |= {"distance": away, "denoising": (clean - batch.image[:, 0]).square().mean((1, 2, 3)).sum()}
        return sums

    def terms(self, sums: dict[str, Tensor]) -> dict[str, Tensor]:
        terms = self.network.terms(sums)
        if self.extra is not None:
            count = sums["structures"]
            terms |= {
                "distance": DISTANCE * sums["distance"] / count,
                "denoising": DENOISING * sums["denoising"] / count,
            }
        return terms

    def answer(self, batch: Batch) -> Tensor:
        return self.network.answer(batch)

    def parameter_groups(self) -> tuple[ParameterGroup, ...]:
        head, *rest = self.network.parameter_groups()
        own = tuple(self.extra.parameters()) if self.extra is not None else ()
        return (ParameterGroup(part="head", parameters=(*head.parameters, *own)), *rest)


def clipped_distance(mask: Tensor) -> Tensor:
    """Return the distance from the border in the plane, in steps to any of eight neighbors, positive inside, as a share
    of FARTHEST: (B, D, H, W) in [-1, 1].
    """
    return (annotator.layers(mask, FARTHEST) - annotator.layers(~mask, FARTHEST)) / FARTHEST
