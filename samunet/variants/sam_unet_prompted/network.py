"""The network of sam_unet_prompted; see documentation/methods/sam_unet_prompted.md.

Axes: B batch, R foreground classes or regions, N structures shown, D H W voxels, K outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from segment_anything.modeling import Sam
from torch import Tensor, nn

from samunet.core.batch import Batch
from samunet.core.labels import Labels
from samunet.core.prompts import SHOWS
from samunet.errors import ConfigError
from samunet.models.convolution import Convolution
from samunet.models.losses import deep_supervision_sums, deep_supervision_terms, known_voxels, region_targets
from samunet.models.segmenter import ABSENT, PromptedSegmenter
from samunet.models.spec import NetworkSpec
from samunet.models.unet import Decoder, Encoder
from samunet.variants.sam_unet.network import EncodedImage, ImageEncoder
from samunet.variants.sam_unet_prompted import annotator
from samunet.variants.sam_unet_prompted.joining import PromptStem, PromptTokenHead, Quality, likeness, prototype
from samunet.variants.sam_unet_prompted.rules import Config

ENTROPY, QUALITY = 4.0, 0.2  # weights beside the Dice loss's 1
UNKNOWN = 2  # label of what is not annotated
# One structure as a region: a sigmoid, and no background.
STRUCTURE = Labels(values=(("background", (0,)), ("structure", (1,))), ignore=UNKNOWN, regions_order=(1,))
TOGETHER = 4  # structures decoded at a time where no gradient is wanted


class Masks(NamedTuple):
    """What the network answers to the prompts of N structures."""

    levels: list[Tensor]
    """(N, 1, D, H, W) logits of every supervised level, full resolution first; one level in prediction."""
    features: Tensor
    """(N, F, D, H, W) of the last level of the decoder."""


class PromptedSAMUNet(ImageEncoder, PromptedSegmenter):
    """See the module docstring; build it with `build`."""

    prompts = "mixed"
    whole_object = True

    def __init__(self, sam: Sam, spec: NetworkSpec, config: Config) -> None:
        super().__init__()
        self.labels, self.rounds = spec.labels, config.rounds
        self.order = [self.labels.foreground.index(named) for named in self.labels.channels]
        widths = spec.topology.widths
        self.convolutions = Encoder(len(spec.schemes), spec.topology)
        self.stem = PromptStem(spec.topology) if config.maps else None
        self.decoder = Decoder(spec.topology)
        levels = max(1, len(widths) - 2) if config.network.deep_supervision else 1
        self.outputs = nn.ModuleList(Convolution(width, 1, 1) for width in widths[:levels])
        self.quality = Quality(widths[0])
        self.join_sam(sam, spec, config.network)
        self.tokens = PromptTokenHead(sam, widths[0], spec.encoder_scale) if config.tokens else None

    def forward(self, image: Tensor, drawn: Tensor | None = None) -> Tensor:
        return self.answers(self.encode_image(image), drawn, image.shape[2:])

    def answers(self, encoded: EncodedImage, drawn: Tensor | None, shape: Sequence[int]) -> Tensor:
        """Return (B, K, D, H, W) logits for encoded images and a (B, R, D, H, W) prompt map; see `forward`."""
        batch, structures = encoded.stages[0].shape[0], len(self.labels.foreground)
        if drawn is None:
            nothing = torch.zeros(batch, *shape, dtype=torch.uint8, device=encoded.stages[0].device)
            logits = self.masks(encoded, nothing, torch.arange(batch)).levels[0].expand(-1, structures, -1, -1, -1)
        else:
            drawn = drawn.to(torch.uint8)
            shown = (drawn & SHOWS > 0).flatten(2).any(2).nonzero()
            logits = encoded.stages[0].new_full((batch, structures, *shape), ABSENT)
            logits = logits + 0 * encoded.stages[-1].mean()  # a gradient, where nothing is shown
            together = max(1, len(shown)) if torch.is_grad_enabled() else TOGETHER
            for pairs in shown.split(together):
                sample, structure = pairs.unbind(1)
                masks = self.masks(encoded, drawn[sample, structure], sample).levels[0]
                logits = logits.index_put((sample, structure), masks[:, 0].to(logits.dtype))
        return logits if self.labels.has_regions else torch.cat((torch.zeros_like(logits[:, :1]), logits), dim=1)

    def masks(self, encoded: EncodedImage, drawn: Tensor, sample: Tensor, reference: Tensor | None = None) -> Masks:
        """Segment N structures.

        Args:
            encoded: of `encode_image`.
            drawn: (N, D, H, W) prompt map.
            sample: (N,) the image of each.
            reference: (N, F) prototypes of `reference_of`, zeros for structures without one; None without any.
        """
        stages = [_chosen(stage, sample) for stage in encoded.stages]
        if self.stem is not None:
            alike = None if reference is None else likeness(stages[self.stem.likeness_stage], reference)
            stages = self.stem(drawn, stages, alike)
        decoded = self.decoder(stages)
        levels = [output(level) for output, level in zip(self.outputs, decoded, strict=False)]
        if self.tokens is not None and encoded.embedding is not None:
            levels[0] = levels[0] + self.tokens(_chosen(encoded.embedding, sample), drawn, decoded[0])
        return Masks(levels if self.training else levels[:1], decoded[0])

    @property
    def takes_references(self) -> bool:
        """Whether another object's features may show what is sought."""
        return self.stem is not None

    def reference_of(self, encoded: EncodedImage, mask: Tensor) -> Tensor:
        """Return (B, F) prototypes of what (B, D, H, W) masks show in encoded images.

        Raises:
            ConfigError: the network was built without maps.
        """
        if self.stem is None:
            raise ConfigError("sam_unet_prompted: without maps nothing is compared with a reference.")
        return prototype(encoded.stages[self.stem.likeness_stage].float(), mask)

    def sums(self, batch: Batch) -> dict[str, Tensor]:
        encoded, known = self.encode_image(batch.image), known_voxels(batch.label, self.labels)
        targets = region_targets(batch.label, self.labels).bool()
        present = targets.flatten(2).any(2)
        sample = present.any(1).nonzero()[:, 0]
        if not len(sample):
            zero = 0 * encoded.stages[-1].mean()
            levels = range(len(self.outputs) if self.training else 1)
            names = [f"{name}.{level}" for level in levels for name in ("entropy", "voxels", "dice", "dices")]
            return dict.fromkeys((*names, "quality", "structures"), zero)
        structure = torch.multinomial(present[sample].float(), 1)[:, 0]
        target, known = targets[sample, structure], known[sample]
        drawn = self.corrected(annotator.first_prompts(target), encoded, target, known, sample)
        return self.sums_of(self.masks(encoded, drawn, sample), target, known)

    def sums_of(self, masks: Masks, target: Tensor, known: Tensor) -> dict[str, Tensor]:
        """Return the sums over N structures that `terms` needs.

        Args:
            masks: answers.
            target, known: (N, D, H, W) bool.
        """
        label = torch.where(known, target.to(torch.int16), UNKNOWN)
        sums = deep_supervision_sums(masks.levels, label, STRUCTURE, batch_dice=False)
        answer = (masks.levels[0][:, 0] > 0) & known
        both, either = ((part & known).flatten(1).sum(1) for part in (answer & target, answer | target))
        expected = self.quality(masks.features.float(), masks.levels[0].float()).sigmoid()
        error = (expected - both / either.clamp_min(1)).square().sum()
        return sums | {"quality": error, "structures": error.new_tensor(float(len(target)))}

    def terms(self, sums: dict[str, Tensor]) -> dict[str, Tensor]:
        if not sums["structures"]:  # nothing to learn, and no mean
            return {"bce": sums["entropy.0"]}
        levels = {name: value for name, value in sums.items() if "." in name}
        terms = deep_supervision_terms(levels, STRUCTURE)
        quality = QUALITY * sums["quality"] / sums["structures"]
        return {"bce": ENTROPY * terms["bce"], "dice": terms["dice"], "quality": quality}

    @torch.no_grad()
    def corrected(
        self,
        drawn: Tensor,
        encoded: EncodedImage,
        target: Tensor,
        known: Tensor,
        sample: Tensor,
        reference: Tensor | None = None,
    ) -> Tensor:
        """Add the corrections of a training step to first prompts: of a random number of answers.

        Args:
            drawn: (N, D, H, W) uint8 prompt map.
            target, known: (N, D, H, W) bool.
            encoded, sample, reference: see `masks`.
        """
        for _ in range(int(torch.randint(self.rounds, ()))):
            answer = self.masks(encoded, drawn, sample, reference).levels[0][:, 0] > 0
            drawn = annotator.corrected(drawn, answer, target, known)
        torch.clear_autocast_cache()  # some versions of torch would give the step casts of weights without gradient
        return drawn

    def answer(self, batch: Batch) -> Tensor:
        targets = region_targets(batch.label, self.labels).bool()[:, self.order]
        drawn = annotator.clicks(targets.flatten(0, 1)).unflatten(0, targets.shape[:2])
        return self.answers(self.encode_image(batch.image), drawn, batch.label.shape[1:])


def _chosen(features: Tensor, sample: Tensor) -> Tensor:
    """Return the features of the images `sample`; themselves, not a copy, where each image is asked for once."""
    everyone = torch.arange(len(features), device=sample.device)
    return features if torch.equal(sample, everyone) else features[sample]
