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
from samunet.models.losses import known_voxels, output_targets
from samunet.models.sam_with_sites import fit_to_patch
from samunet.models.segmenter import ParameterGroup, SlabSegmenter, groups_around
from samunet.models.spec import NetworkSpec
from samunet.sam.backbones import encoder_size
from samunet.sam.encoder import embed_patches, encode, ends_of_quarters
from samunet.variants.masksam.adapters import MaskSites, mask_decoder_adapters
from samunet.variants.masksam.matching import Said, SetWeights, set_sums, set_terms
from samunet.variants.masksam.queries import Answers, LearnedPixels, PromptGenerator, Prompts, QueryMasks, along_depth
from samunet.variants.masksam.rules import Config, generator_doublings

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
        self.labels, self.scale, self.checkpointing = spec.labels, spec.encoder_scale, config.checkpointing
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
        self.sites = nn.ModuleList(MaskSites(width, int(config.ratio * width), style) for _ in blocks)
        self.depth_embedding = nn.Parameter(torch.zeros(depth, width))
        decoder_width = sam.mask_decoder.transformer_dim
        self.generator = PromptGenerator(
            width,
            decoder_width,
            config.queries_for(spec.labels.outputs),
            doublings=generator_doublings(spec.encoder_scale),
            kernels=spec.topology.kernels[::-1],
        )
        adapters = mask_decoder_adapters(
            len(sam.mask_decoder.transformer.layers),
            decoder_width,
            int(config.ratio * decoder_width),
            style,
            depth=depth if config.decoder_depth == "perceptron" else None,
        )
        self.head = QueryMasks(sam, spec.labels.outputs, depth, adapters)

    def forward(self, image: Tensor) -> Tensor:
        """Weigh every query's mask by its chances of each class, and return logits of that sum."""
        _, answers = self._answers(image)
        with torch.autocast(image.device.type, enabled=False):  # 1 - TINY is 1 in 16 bits
            masks = self._fit(answers.masks.float(), image.shape[2:]).sigmoid()
            classes = answers.classes.float().softmax(-1)[..., :-1]
            chances = torch.einsum("bdqk,bqdhw->bkdhw", classes, masks)
            return chances.clamp(TINY, 1 - TINY).logit() if self.labels.has_regions else chances.clamp_min(TINY).log()

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
        return set_sums(said, targets, known, self.weights)

    def terms(self, sums: dict[str, Tensor]) -> dict[str, Tensor]:
        return set_terms(sums, self.weights)

    def parameter_groups(self) -> tuple[ParameterGroup, ...]:
        return groups_around(self, self.image_encoder)

    def _answers(self, image: Tensor) -> tuple[Prompts, Answers]:
        tokens = embed_patches(self.image_encoder, self.pixels(image))
        tokens = tokens + along_depth(self.depth_embedding, tokens.shape[1])[:, None, None]
        encoded = encode(self.image_encoder, tokens, self.sites, self.taps, checkpointing=self.checkpointing)
        used = [side * self.scale / whole for side, whole in zip(image.shape[3:], self.encoder_size, strict=True)]
        prompts = self.generator(encoded.taps, encoded.neck, (used[0], used[1]))
        return prompts, self.head(encoded.neck, prompts)

    def _fit(self, logits: Tensor, shape: torch.Size) -> Tensor:
        return fit_to_patch(logits, shape, self.scale, self.encoder_size)
