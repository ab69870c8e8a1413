"""PerSAM's guided pass.

Against its authors' released code (commit a7e8724), with equal random weights of vit_nano and vit_tiny at 256 to 1024
pixels, all masks and qualities were bit-equal; that code is not part of the tests.
"""

from __future__ import annotations

import pytest
import torch
from segment_anything.modeling.transformer import Attention
from torch import Tensor

from samunet.fewshot.guided import LOG, RELEASED, guided_masks
from samunet.sam.backbones import backbone_named
from samunet.sam.build import build_sam

SIDE = 96
PLACES = (SIDE // 16) ** 2


@pytest.fixture(scope="module")
def inputs():
    torch.manual_seed(0)
    sam = build_sam(backbone_named("vit_nano"), (SIDE, SIDE)).eval().requires_grad_(False)
    points = (torch.tensor([[[20.0, 40.0], [80.0, 8.0]]]), torch.tensor([[1, 0]]))
    sparse, dense = sam.prompt_encoder(points=points, boxes=None, masks=None)
    return sam, torch.randn(1, 64, SIDE // 16, SIDE // 16), sparse, dense


def of_package(sam, embedding, sparse, dense):
    raw, quality = sam.mask_decoder.predict_masks(embedding, sam.prompt_encoder.get_dense_pe(), sparse, dense)
    return raw[0], quality[0]


def guided(inputs, guidance, semantic, form):
    sam, *rest = inputs
    return guided_masks(sam.mask_decoder, sam.prompt_encoder, *rest, guidance=guidance, semantic=semantic, form=form)


class SoftmaxTwice(Attention):
    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        heads = [
            self._separate_heads(layer(part), self.num_heads)
            for layer, part in ((self.q_proj, q), (self.k_proj, k), (self.v_proj, v))
        ]
        weights = (heads[0] @ heads[1].transpose(2, 3) / heads[0].shape[-1] ** 0.5).softmax(-1).softmax(-1)
        return self.out_proj(self._recombine_heads(weights @ heads[2]))


def test_the_log_form_without_guidance_is_sams_own_decoder(inputs):
    for found, expected in zip(
        guided(inputs, torch.ones(PLACES), torch.zeros(64), LOG), of_package(*inputs), strict=True
    ):
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)


def test_the_released_form_without_guidance_is_sams_decoder_but_for_the_second_softmax(inputs):
    sam = inputs[0]
    plain = guided(inputs, torch.zeros(PLACES), torch.zeros(64), RELEASED)
    layers = [layer.cross_attn_token_to_image for layer in sam.mask_decoder.transformer.layers]
    try:
        for layer in layers:
            layer.__class__ = SoftmaxTwice
        expected = of_package(*inputs)
    finally:
        for layer in layers:
            layer.__class__ = Attention
    for found, wanted in zip(plain, expected, strict=True):
        torch.testing.assert_close(found, wanted, atol=2e-5, rtol=0)


def test_guidance_is_sharper_in_the_log_form_and_the_semantic_vector_counts(inputs):
    place = torch.zeros(PLACES)
    place[7] = 1
    nothing, zeros = torch.full((PLACES,), 0.5), torch.zeros(64)
    moved = {
        form: float((guided(inputs, place, zeros, form)[0] - guided(inputs, nothing, zeros, form)[0]).abs().mean())
        for form in (RELEASED, LOG)
    }
    assert moved[LOG] > 3 * moved[RELEASED] > 0
    told = guided(inputs, nothing, torch.ones(64), RELEASED)[0]
    assert not torch.allclose(told, guided(inputs, nothing, zeros, RELEASED)[0])
