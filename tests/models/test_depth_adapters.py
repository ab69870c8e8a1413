"""MA-SAM's adapters: their equation, what starts at zero, and low-rank updates that can be folded into weights."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from samunet.models.depth_adapters import DepthAdapter, MASAMSites, SharedFactors
from samunet.sam.backbones import backbone_named
from samunet.sam.build import build_sam


@torch.no_grad()
def test_a_depth_adapter_is_its_equation():
    """up(GELU(conv(down(LN(x))))), the convolution over three slices, each place of the plane by itself."""
    torch.manual_seed(0)
    adapter = DepthAdapter(6, 3, start_at_zero=False)
    tokens = torch.randn(2, 4, 2, 3, 6)
    squeezed = F.pad(F.layer_norm(tokens, (6,), eps=1e-6) @ adapter.down.weight.T, (0, 0, 0, 0, 0, 0, 1, 1))
    kernel = adapter.depth.weight[..., 0, 0]  # (out, in, 3)
    mixed = sum(squeezed[:, place : place + 4] @ kernel[:, :, place].T for place in range(3)) + adapter.depth.bias
    assert torch.allclose(adapter(tokens), F.gelu(mixed) @ adapter.up.weight.T, atol=1e-6)


def test_adapters_and_factors_start_at_zero_unless_told_otherwise():
    tokens = torch.randn(1, 2, 2, 2, 8)
    sites = MASAMSites(8, 4, SharedFactors(8, 2))
    assert not sites.before_attention(tokens).any() and not sites.after_attention(tokens).any()
    assert not sites.qkv_update(tokens).any()
    assert MASAMSites(8, 4, None, start_at_zero=False).before_attention(tokens).any()


def test_what_is_left_out_adds_nothing():
    tokens = torch.randn(1, 2, 2, 2, 8)
    sites = MASAMSites(8, 0, None)
    assert sites.before_attention(tokens) is sites.after_attention(tokens) is sites.qkv_update(tokens) is None


@torch.no_grad()
def test_merged_updates_give_the_same_q_k_and_v():
    torch.manual_seed(0)
    attention = build_sam(backbone_named("vit_nano"), (64, 64)).image_encoder.blocks[0].attn
    width = attention.qkv.in_features
    factors = SharedFactors(width, 4)
    factors.up.weight.normal_()
    sites, tokens = MASAMSites(width, 0, factors).eval(), torch.randn(5, width)
    expected = attention.qkv(tokens) + sites.qkv_update(tokens)
    assert not sites.qkv_update(tokens)[:, width : 2 * width].any()  # k stays
    sites.merge_into(attention)
    assert sites.qkv_update(tokens) is None and torch.allclose(attention.qkv(tokens), expected, atol=1e-4)
    sites.merge_into(attention)
    assert torch.allclose(attention.qkv(tokens), expected, atol=1e-4)  # once is enough
