"""What MaskSAM adds to SAM's blocks: bottlenecks that see depth, in the encoder and in the decoder.

Source: Xie et al., MaskSAM, ICCV 2025, from its equations. Depth is its own axis in every block, windowed ones too.
Axes: B batch, D slices, Q queries, h w token rows and columns, L = h*w, T tokens, C width; the decoder's batch is
(B, D, Q) folded.
"""

from __future__ import annotations

from segment_anything.modeling.image_encoder import Attention
from torch import Tensor, nn

from samunet.models.bottleneck import Bottleneck, BottleneckStyle
from samunet.models.convolution import Convolution
from samunet.sam.backbones import LAYER_NORM_EPS
from samunet.sam.decoder import IMAGE_TO_TOKEN, SELF, TOKEN_TO_IMAGE, DecoderSites
from samunet.sam.encoder import Sites

SCALE = 0.5  # of the adapters beside an MLP


class DepthConvolution(nn.Module):
    """The middle in the encoder: g + GELU(LN(conv(g))), a 3x3x3 convolution of each channel by itself."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.convolution = Convolution(hidden, hidden, 3, padding=1, groups=hidden)
        self.norm = nn.LayerNorm(hidden, eps=LAYER_NORM_EPS)
        self.activation = nn.GELU()

    def forward(self, squeezed: Tensor) -> Tensor:
        """(B, D, h, w, C) to the same shape."""
        mixed = self.convolution(squeezed.movedim(-1, 1)).movedim(1, -1)
        return squeezed + self.activation(self.norm(mixed))


class DepthOfTokens(nn.Module):
    """The middle in the decoder: g + v, v what the slices say of one channel of one token; on (..., D, C).

    Args:
        hidden: C.
        depth: slices of a slab; v is a perceptron over them, D to 4D to D with GELU between. None takes a convolution
            of three slices, each channel by itself, whose weights fit any depth.
    """

    def __init__(self, hidden: int, depth: int | None) -> None:
        super().__init__()
        self.mix: nn.Module = nn.Conv1d(hidden, hidden, 3, padding=1, groups=hidden)
        if depth is not None:
            self.mix = nn.Sequential(nn.Linear(depth, 4 * depth), nn.GELU(), nn.Linear(4 * depth, depth))

    def forward(self, squeezed: Tensor) -> Tensor:
        along = squeezed.transpose(-1, -2)
        mixed: Tensor = self.mix(along.flatten(0, -3)).unflatten(0, along.shape[:-2])
        return squeezed + mixed.transpose(-1, -2)


class MaskSites(Sites):
    """One encoder block's two adapters, with a 3x3x3 convolution in the middle.

    One is on the attention's output, and half of one beside the MLP.
    """

    def __init__(self, width: int, hidden: int, style: BottleneckStyle) -> None:
        super().__init__()
        self.space, self.mlp = (Bottleneck(width, hidden, style, DepthConvolution(hidden)) for _ in range(2))

    def beside_attention(self, attention: Attention, qkv: Tensor, attended: Tensor) -> Tensor:
        return self.space(attended)

    def beside_mlp(self, tokens: Tensor) -> Tensor:
        return SCALE * self.mlp(tokens)


class MaskDecoderAdapters(nn.Module):
    """The adapters of one decoder layer, or of the attention after the layers.

    Args:
        width: C.
        hidden: of the bottlenecks.
        attentions: names of the attentions that get one.
        style: of the bottlenecks.
        depth: see `DepthOfTokens`.
    """

    def __init__(
        self, width: int, hidden: int, attentions: tuple[str, ...], style: BottleneckStyle, *, depth: int | None
    ) -> None:
        super().__init__()

        def adapter(middle: nn.Module) -> Bottleneck:
            return Bottleneck(width, hidden, style, middle)

        self.attentions = nn.ModuleDict(
            {
                name: adapter(DepthConvolution(hidden) if name == IMAGE_TO_TOKEN else DepthOfTokens(hidden, depth))
                for name in attentions
            }
        )
        self.mlp = adapter(DepthOfTokens(hidden, depth)) if IMAGE_TO_TOKEN in attentions else None


def mask_decoder_adapters(
    layers: int, width: int, hidden: int, style: BottleneckStyle, *, depth: int | None
) -> list[MaskDecoderAdapters]:
    """Return the adapters of every layer and of the attention after them."""
    whole, last = (SELF, TOKEN_TO_IMAGE, IMAGE_TO_TOKEN), (TOKEN_TO_IMAGE,)
    return [MaskDecoderAdapters(width, hidden, names, style, depth=depth) for names in (*[whole] * layers, last)]


class SlabOfQueries(DecoderSites):
    """Attach adapters to a decoder that runs on folded slabs.

    Args:
        adapters: of the layer.
        slab: (B, D, Q) that the decoder's batch folds.
        plane: (h, w) of the image's places.
    """

    def __init__(self, adapters: MaskDecoderAdapters, slab: tuple[int, int, int], plane: tuple[int, int]) -> None:
        super().__init__()
        self.adapters, self.slab, self.plane = adapters, slab, plane

    def beside_attention(self, attention: str, attended: Tensor, prompts: Tensor) -> Tensor | None:
        if attention == IMAGE_TO_TOKEN:
            places = attended.unflatten(0, self.slab).unflatten(3, self.plane)  # (B, D, Q, h, w, C)
            volumes = places.movedim(2, 1).flatten(0, 1)
            added: Tensor = self.adapters.attentions[attention](volumes)
            return added.unflatten(0, (self.slab[0], self.slab[2])).movedim(1, 2).flatten(3, 4).flatten(0, 2)
        return self._along_depth(self.adapters.attentions[attention], attended)

    def beside_mlp(self, tokens: Tensor) -> Tensor | None:
        return None if self.adapters.mlp is None else SCALE * self._along_depth(self.adapters.mlp, tokens)

    def _along_depth(self, adapter: nn.Module, tokens: Tensor) -> Tensor:
        """(B*D*Q, T, C), with depth next to the channels for the adapter."""
        return adapter(tokens.unflatten(0, self.slab).movedim(1, 3)).movedim(3, 1).flatten(0, 2)
