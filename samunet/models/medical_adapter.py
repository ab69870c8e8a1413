"""What Medical SAM Adapter adds to SAM's blocks: space, depth and MLP adapters in the encoder, prompted ones in the decoder.

Source: Wu et al., Medical SAM Adapter, Medical Image Analysis 2025, from its equations. Tokens are (B, D, h, w, E) in the encoder.
"""

from __future__ import annotations

from segment_anything.modeling.image_encoder import Attention, Block, window_partition, window_unpartition
from torch import Tensor, nn

from samunet.models.bottleneck import Bottleneck, PromptedBottleneck
from samunet.sam.decoder import IMAGE_TO_TOKEN, TOKEN_TO_IMAGE, DecoderSites
from samunet.sam.encoder import Sites, attend_along_depth, pad_to_windows


class MedicalSites(Sites):
    """One encoder block's adapters.

    With u the normalized tokens and a = Attention(u): the block gets a + A_space(a) + A_depth(Attention along depth(u)), and beside
    the MLP scale * A_mlp. The attention along depth has the block's own weights, and compares a place with itself in the other slices (SD-Trans).

    Args:
        width: E.
        hidden: of the bottlenecks.
        depth: with the branch along depth; it is left out where a slab has one slice.
        scale: of the adapter beside the MLP.
        adapter: settings of all `Bottleneck`s.
    """

    def __init__(self, width: int, hidden: int, *, depth: bool, scale: float, **adapter: object) -> None:
        super().__init__()
        self.scale = scale
        self.space, self.mlp = (Bottleneck(width, hidden, **adapter) for _ in range(2))
        self.depth = Bottleneck(width, hidden, **adapter) if depth else None

    def beside_attention(self, attention: Attention, qkv: Tensor, attended: Tensor) -> Tensor:
        joined = self.space(attended)
        if self.depth is not None and attended.shape[1] > 1:
            joined = joined + self.depth(attend_along_depth(attention, qkv))
        return joined

    def beside_mlp(self, tokens: Tensor) -> Tensor:
        return self.scale * self.mlp(tokens)


class ReleasedSites(MedicalSites):
    """One encoder block's adapters as the authors' code has them, to read their weights.

    Windows are cut before the norm, so that padding enters as the norm's bias; and in windowed blocks D neighboring windows, row by row
    and slice by slice, stand for the D slices of a place.

    Args:
        block: that they belong to.
        others: of `MedicalSites`.
    """

    def __init__(self, block: Block, *others: int, **settings: object) -> None:
        super().__init__(*others, **settings)
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
        return self.space(attended) + self.depth(
            window_unpartition(along, window, sides, plane).unflatten(0, (batch, depth))
        )


class MedicalDecoderSites(DecoderSites):
    """Adapters of one decoder layer: one that the prompt tokens steer, one beside the MLP, one of the image's places.

    Args:
        width: C.
        hidden: of the bottlenecks.
        scale: of the adapter beside the MLP.
        form, hyper_layers: of `PromptedBottleneck`.
        activation, start_at_zero: of `Bottleneck`.
    """

    def __init__(
        self,
        width: int,
        hidden: int,
        *,
        scale: float,
        form: str,
        hyper_layers: int,
        start_at_zero: bool,
        activation: str,
    ) -> None:
        super().__init__()
        self.scale = scale
        self.prompted = PromptedBottleneck(width, hidden, form=form, layers=hyper_layers, start_at_zero=start_at_zero)
        self.mlp, self.image = (
            Bottleneck(width, hidden, activation=activation, start_at_zero=start_at_zero) for _ in range(2)
        )

    def beside_attention(self, attention: str, attended: Tensor, prompts: Tensor) -> Tensor | None:
        if attention == TOKEN_TO_IMAGE:
            return self.prompted(attended, prompts)
        return self.image(attended) if attention == IMAGE_TO_TOKEN else None

    def beside_mlp(self, tokens: Tensor) -> Tensor:
        return self.scale * self.mlp(tokens)


def medical_decoder(layers: int, width: int, hidden: int, **settings: object) -> list[nn.Module]:
    """Return the decoder's sites: adapters in the first layer, as published, and nothing in the others and in the attention after them."""
    return [MedicalDecoderSites(width, hidden, **settings), *(DecoderSites() for _ in range(layers))]
