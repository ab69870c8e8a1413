"""The network of masksam; see documentation/methods/masksam.md.

Axes: B batch, C channels, D H W voxels, Q queries, K outputs, h w token rows and columns.
"""

from __future__ import annotations

import math

import torch
from segment_anything.modeling import Sam
from torch import Tensor, nn

from samunet.core.batch import Batch
from samunet.models.bottleneck import BottleneckStyle
from samunet.models.losses import known_voxels, output_targets, slab_sums, slab_terms
from samunet.models.rules import narrowed
from samunet.models.sam_with_sites import fit_to_patch
from samunet.models.segmenter import ParameterGroup, SlabSegmenter, groups_around
from samunet.models.spec import NetworkSpec
from samunet.sam.backbones import encoder_size
from samunet.sam.encoder import embed_patches, encode, ends_of_quarters
from samunet.variants.masksam.adapters import MaskSites, mask_decoder_adapters
from samunet.variants.masksam.matching import Said, SetWeights, set_sums, set_terms
from samunet.variants.masksam.queries import (
    Answers,
    FinestMasks,
    LearnedPixels,
    PromptGenerator,
    Prompts,
    QueryMasks,
    along_depth,
)
from samunet.variants.masksam.rules import Config, generator_doublings, mask_doublings

TINY = 1e-6  # smallest chance of a class in a voxel


class MaskSAM(SlabSegmenter):
    """Stem, adapted encoder, prompt generator and SAM's decoder once for every slice and query.

    SAM's encoder, prompt encoder and decoder are frozen when their weights are pretrained.

    Args:
        sam: for the token grid of `spec`.
        spec: data and plan.
        config: the method's options.
    """

    def __init__(self, sam: Sam, spec: NetworkSpec, config: Config) -> None:
        super().__init__()
        config = config.settled()
        self.labels, self.scale, self.checkpointing = spec.labels, spec.encoder_scale, config.checkpointing
        self.background_is_rest = config.background_is_rest(spec.labels)
        self.combined_loss = config.combined_loss
        self.weights = SetWeights(points=config.points, match=config.match)
        doublings = int(math.log2(spec.encoder_scale))
        self.encoder_size = encoder_size(spec.patch_size[1:], spec.encoder_scale)
        self.pixels = LearnedPixels(len(spec.schemes), doublings, self.encoder_size)
        for part in (sam.image_encoder, sam.prompt_encoder, sam.mask_decoder):
            part.requires_grad_(not spec.pretrained)
        self.image_encoder = sam.image_encoder
        blocks, width = sam.image_encoder.blocks, sam.image_encoder.pos_embed.shape[-1]
        self.taps = ends_of_quarters(sam.image_encoder)
        style, depth = BottleneckStyle(start_at_zero=config.initialization == "zero"), spec.patch_size[0]
        self.sites = nn.ModuleList(MaskSites(width, narrowed(width, config.ratio), style) for _ in blocks)
        self.depth_embedding = nn.Parameter(torch.zeros(depth, width))
        decoder_width = sam.mask_decoder.transformer_dim
        self.generator = PromptGenerator(
            width,
            decoder_width,
            config.queries_for(spec.labels.outputs),
            doublings=min(config.generator_doublings, generator_doublings(spec.encoder_scale)),
            kernels=spec.topology.kernels[::-1],
        )
        adapters = mask_decoder_adapters(
            len(sam.mask_decoder.transformer.layers),
            decoder_width,
            narrowed(decoder_width, config.ratio),
            style,
            depth=depth if config.decoder_depth == "perceptron" else None,
        )
        self.head = QueryMasks(sam, spec.labels.outputs - self.background_is_rest, depth, adapters)
        self.refine = None
        if config.finest_masks and (levels := mask_doublings(spec.encoder_scale)):
            self.refine = FinestMasks(config.queries_for(spec.labels.outputs), decoder_width // 4, levels)

    def forward(self, image: Tensor) -> Tensor:
        """Weigh every query's mask by its chances of each class, and return logits of that sum."""
        _, answers = self._answers(image)
        return self._combined(self._fit(answers.masks, image.shape[2:]), answers.classes)

    def _combined(self, masks: Tensor, classes: Tensor) -> Tensor:
        """(B, Q, D, H, W) and (B, D, Q, K + 1) logits of all queries to the (B, outputs, D, H, W) logits of the voxels.

        Where background is the rest, it is as likely as that no query has a class here.
        """
        with torch.autocast(masks.device.type, enabled=False):  # 1 - TINY is 1 in 16 bits
            shares, masks = classes.float().softmax(-1), masks.float().sigmoid()
            chances = torch.einsum("bdqk,bqdhw->bkdhw", shares[..., :-1], masks)
            if self.labels.has_regions:
                return chances.clamp(TINY, 1 - TINY).logit()
            if self.background_is_rest:
                objects = masks * (1 - shares[..., -1]).transpose(1, 2)[..., None, None]
                rest = torch.log1p(-objects.clamp_max(1 - TINY)).sum(1, keepdim=True)
                return torch.cat((rest, chances.clamp_min(TINY).log()), dim=1)
            return chances.clamp_min(TINY).log()

    def sums(self, batch: Batch) -> dict[str, Tensor]:
        prompts, answers = self._answers(batch.image)
        shape = batch.label.shape[1:]
        plane = torch.tensor(self.encoder_size[::-1], device=prompts.boxes.device)
        share = plane / (self.scale * torch.tensor([shape[2], shape[1]], device=plane.device))  # of the patch's plane
        said = Said(
            masks=self._fit(answers.masks, shape),
            auxiliary=self._fit(prompts.masks, shape),
            boxes=prompts.boxes * share.repeat(2),
            classes=answers.classes,
        )
        targets, known = output_targets(batch.label, self.labels).float(), known_voxels(batch.label, self.labels)
        sums = set_sums(said, targets[:, int(self.background_is_rest) :], known, self.weights)
        if self.combined_loss:
            combined = slab_sums(self._combined(said.masks, said.classes), batch.label, self.labels)
            sums |= {f"combined.{name}": value for name, value in combined.items()}
        return sums

    def terms(self, sums: dict[str, Tensor]) -> dict[str, Tensor]:
        terms = set_terms(sums, self.weights)
        if self.combined_loss:
            whole = slab_terms({name.removeprefix("combined."): value for name, value in sums.items()})
            terms |= {f"combined {name}": self.combined_loss * value for name, value in whole.items()}
        return terms

    def parameter_groups(self) -> tuple[ParameterGroup, ...]:
        return groups_around(self, self.image_encoder)

    def _answers(self, image: Tensor) -> tuple[Prompts, Answers]:
        tokens = embed_patches(self.image_encoder, self.pixels(image))
        tokens = tokens + along_depth(self.depth_embedding, tokens.shape[1])[:, None, None]
        encoded = encode(self.image_encoder, tokens, self.sites, self.taps, checkpointing=self.checkpointing)
        used = [side * self.scale / whole for side, whole in zip(image.shape[3:], self.encoder_size, strict=True)]
        prompts = self.generator(encoded.taps, encoded.neck, (used[0], used[1]))
        answers = self.head(encoded.neck, prompts)
        return prompts, answers if self.refine is None else answers._replace(masks=self.refine(answers.masks))

    def _fit(self, logits: Tensor, shape: torch.Size) -> Tensor:
        return fit_to_patch(logits, shape, self.scale, self.encoder_size)
