"""What MaskSAM adds to SAM's blocks: bottlenecks that see depth, by convolution in the encoder and over the slices in the decoder.

Source: Xie et al., MaskSAM, ICCV 2025, from its equations. Depth is its own axis in every block, windowed ones too. Axes: B batch, D slices,
Q queries, h w token rows and columns, L = h*w, T tokens, C width; the decoder's batch is (B, D, Q) folded.
"""

from __future__ import annotations

from segment_anything.modeling.image_encoder import Attention
from torch import Tensor, nn

from samunet.models.bottleneck import Bottleneck, DepthConvolution, DepthOfTokens
from samunet.sam.decoder import IMAGE_TO_TOKEN, SELF, TOKEN_TO_IMAGE, DecoderSites
from samunet.sam.encoder import Sites

SCALE = 0.5  # of the adapters beside an MLP


class MaskSites(Sites):
    """One encoder block's two adapters with a 3x3x3 convolution in the middle: on the attention's output, and half of one beside the MLP."""

    def __init__(self, width: int, hidden: int, *, start_at_zero: bool) -> None:
        super().__init__()
        self.space, self.mlp = (
            Bottleneck(width, hidden, middle=DepthConvolution(hidden), start_at_zero=start_at_zero) for _ in range(2)
        )

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
        depth: see `DepthOfTokens`.
        start_at_zero: see `Bottleneck`.
    """

    def __init__(
        self, width: int, hidden: int, attentions: tuple[str, ...], *, depth: int | None, start_at_zero: bool
    ) -> None:
        super().__init__()

        def adapter(middle: nn.Module) -> Bottleneck:
            return Bottleneck(width, hidden, middle=middle, start_at_zero=start_at_zero)

        self.attentions = nn.ModuleDict(
            {
                name: adapter(DepthConvolution(hidden) if name == IMAGE_TO_TOKEN else DepthOfTokens(hidden, depth))
                for name in attentions
            }
        )
        self.mlp = adapter(DepthOfTokens(hidden, depth)) if IMAGE_TO_TOKEN in attentions else None


def mask_decoder_adapters(
    layers: int, width: int, hidden: int, *, depth: int | None, start_at_zero: bool
) -> nn.ModuleList:
    """Return the adapters of every layer and of the attention after them."""
    whole, last = (SELF, TOKEN_TO_IMAGE, IMAGE_TO_TOKEN), (TOKEN_TO_IMAGE,)
    settings = {"depth": depth, "start_at_zero": start_at_zero}
    return nn.ModuleList(MaskDecoderAdapters(width, hidden, names, **settings) for names in (*[whole] * layers, last))


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
            added = self.adapters.attentions[attention](volumes).unflatten(0, (self.slab[0], self.slab[2]))
            return added.movedim(1, 2).flatten(3, 4).flatten(0, 2)
        return self._along_depth(self.adapters.attentions[attention], attended)

    def beside_mlp(self, tokens: Tensor) -> Tensor | None:
        return None if self.adapters.mlp is None else SCALE * self._along_depth(self.adapters.mlp, tokens)

    def _along_depth(self, adapter: nn.Module, tokens: Tensor) -> Tensor:
        """(B*D*Q, T, C), with depth next to the channels for the adapter."""
        return adapter(tokens.unflatten(0, self.slab).movedim(1, 3)).movedim(3, 1).flatten(0, 2)
