"""The network of Medical SAM Adapter's authors where it differs from the paper, so that their weights can be read.

It has no relative positions, GELU in the adapters, none in the decoder, the decoder of EfficientSAM (Xiong et al., CVPR
2024), and until 2025 x and y of prompts in each other's place. Written from what the code computes. Tokens are (B, D,
h, w, E).
"""

from __future__ import annotations

from segment_anything.modeling import Sam
from segment_anything.modeling.image_encoder import Attention, Block, window_partition, window_unpartition
from segment_anything.modeling.transformer import TwoWayAttentionBlock
from torch import Tensor

from samunet.models.bottleneck import BottleneckStyle
from samunet.models.prompt_tokens import PromptTokens
from samunet.models.prompted import PromptedMasks
from samunet.models.rules import narrowed
from samunet.models.spec import NetworkSpec
from samunet.sam.decoder import Attend, DecoderSites
from samunet.sam.encoder import Sites, attend_along_depth, pad_to_windows
from samunet.variants.med_sa import AdapterConfig
from samunet.variants.med_sa.adapters import MedicalSites

STYLE = BottleneckStyle(activation="gelu", start_at_zero=False)


class ReleasedSites(MedicalSites):
    """One encoder block's adapters as the authors' code has them.

    Windows are cut before the norm, so that padding enters as the norm's bias; and in windowed blocks D neighboring
    windows, row by row and slice by slice, stand for the D slices of a place.

    Args:
        block: that they belong to.
        width, hidden, depth, scale: of `MedicalSites`.
    """

    def __init__(self, block: Block, width: int, hidden: int, *, depth: bool, scale: float) -> None:
        super().__init__(width, hidden, STYLE, depth=depth, scale=scale)
        self.block = (block,)  # in a tuple: the encoder's own, not a part of this

    def padding(self, tokens: Tensor) -> Tensor:
        return self.block[0].norm1.bias.unsqueeze(0)

    def beside_attention(self, attention: Attention, qkv: Tensor, attended: Tensor) -> Tensor:
        window, (batch, depth, *plane) = self.block[0].window_size, qkv.shape[:4]
        if window == 0 or self.depth is None or depth == 1:
            return super().beside_attention(attention, qkv, attended)
        padded = pad_to_windows(qkv.flatten(0, 1), attention.qkv(self.padding(qkv)), window)
        windows, sides = window_partition(padded, window)
        along = attend_along_depth(attention, windows.unflatten(0, (-1, depth))).flatten(0, 1)
        branch: Tensor = self.depth(window_unpartition(along, window, sides, plane).unflatten(0, (batch, depth)))
        return self.space(attended) + branch


class EfficientSites(DecoderSites):
    """A decoder layer whose tokens attend to themselves as in EfficientSAM.

    There is a residual in every layer, and from the second layer on the positions join the tokens for good.
    """

    def among_tokens(self, layer: TwoWayAttentionBlock, queries: Tensor, tokens: Tensor, attend: Attend) -> Tensor:
        queries = queries if layer.skip_first_layer_pe else queries + tokens
        return queries + attend(queries, queries, queries)


class ReleasedMasks(PromptedMasks):
    """SAM's prompt encoder and decoder as the authors' code runs them.

    Args:
        sam: gives both.
        row_first: take a prompt's row for x, as their code did until 2025.
    """

    def __init__(self, sam: Sam, *, row_first: bool) -> None:
        layers = len(sam.mask_decoder.transformer.layers)
        super().__init__(sam, sam.mask_decoder, [EfficientSites() for _ in range(layers + 1)])
        self.row_first = row_first

    def embed(self, prompts: PromptTokens) -> Tensor:
        places = prompts.places.flip(-1) if self.row_first else prompts.places
        return super().embed(prompts._replace(places=places))


def released_adapters(sam: Sam, spec: NetworkSpec, config: AdapterConfig) -> list[Sites]:
    """Return the encoder's adapters, set SAM's relative positions to zero, and keep its absolute ones in checkpoints.

    The authors resize the absolute ones another way than SAM's weights are read here.
    """
    width, depth = sam.image_encoder.pos_embed.shape[-1], config.depth_attention and spec.patch_size[0] > 1
    sites: list[Sites] = [
        ReleasedSites(block, width, narrowed(width, config.ratio), depth=depth, scale=config.scale)
        for block in sam.image_encoder.blocks
    ]
    for block in sam.image_encoder.blocks:
        block.attn.rel_pos_h.data.zero_()
        block.attn.rel_pos_w.data.zero_()
    table = sam.image_encoder.pos_embed.detach()
    del sam.image_encoder.pos_embed
    sam.image_encoder.register_buffer("pos_embed", table)
    return sites
