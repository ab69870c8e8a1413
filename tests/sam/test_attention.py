"""The three forms of relative attention against the sum written out, in values and gradients."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from samunet.sam import attention
from samunet.sam.attention import FORMS, relative_attention


def inputs(count, heads, height, width, length, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    shapes = [
        (count, heads, height, width, length),
        *[(count, heads, height * width, length)] * 2,
        (height, height, length),
        (width, width, length),
    ]
    return [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes]


def written_out(query, key, value, rows, columns):
    """One output position at a time, straight from the definition."""
    count, heads, height, width, length = query.shape
    places = [(i, j) for i in range(height) for j in range(width)]
    outputs = []
    for n in range(count):
        for head in range(heads):
            for i, j in places:
                q = query[n, head, i, j]
                relative = [q @ rows[i, row] + q @ columns[j, column] for row, column in places]
                logits = torch.stack([q @ key[n, head, m] / length**0.5 + term for m, term in enumerate(relative)])
                outputs.append(logits.softmax(0) @ value[n, head])
    return torch.stack(outputs).view(count, heads, height * width, length)


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 2), st.integers(1, 2), st.integers(1, 4), st.integers(1, 5), st.sampled_from([2, 8]))
def test_every_form_equals_the_sum_written_out(count, heads, height, width, length):
    tensors = inputs(count, heads, height, width, length)
    expected = written_out(*tensors)
    weight = torch.randn(expected.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    slopes = torch.autograd.grad((expected * weight).sum(), tensors, retain_graph=True)
    for form in FORMS:
        given_ = relative_attention(*tensors, form=form)
        assert torch.allclose(given_, expected, atol=1e-10), form
        for a, b in zip(torch.autograd.grad((given_ * weight).sum(), tensors), slopes, strict=True):
            assert torch.allclose(a, b, atol=1e-9), form
    with torch.no_grad():
        assert torch.allclose(relative_attention(*tensors), expected, atol=1e-10)


def test_chunks_of_rows_join_to_the_whole(monkeypatch):
    tensors = inputs(2, 2, 7, 5, 8)
    whole = relative_attention(*tensors, form="bias")
    monkeypatch.setattr(attention, "CHUNK_LOGITS", 2 * 2 * 2 * 5 * 35)  # two rows at a time
    chunked = relative_attention(*tensors, form="chunked")
    assert torch.allclose(chunked, whole, atol=1e-12)
    slopes = [torch.autograd.grad(result.square().sum(), tensors, retain_graph=True) for result in (whole, chunked)]
    assert all(torch.allclose(a, b, atol=1e-10) for a, b in zip(*slopes, strict=True))


@pytest.mark.parametrize("grad", [False, True])
def test_the_folded_form_never_builds_the_whole_matrix(grad):
    # The fused kernel refuses q and k wider than v; then the math path would hold (L, L) for every head.
    query, key, value, rows, columns = inputs(1, 3, 16, 16, 64, dtype=torch.float32)
    with (
        torch.set_grad_enabled(grad),
        torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile,
    ):
        relative_attention(query, key, value, rows, columns, form="folded")
    names = {event.key for event in profile.key_averages()}
    assert any("scaled_dot_product_flash_attention" in name for name in names) and not any(
        "attention_math" in name for name in names
    )


@pytest.mark.parametrize("form", FORMS)
def test_it_runs_in_bf16(form):
    tensors = inputs(1, 2, 6, 6, 16, dtype=torch.float32)
    expected = relative_attention(*tensors, form=form)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = relative_attention(*[tensor.bfloat16() for tensor in tensors[:3]], *tensors[3:], form=form)
    assert result.dtype == torch.bfloat16
    assert (result.float() - expected).abs().max() < 0.1
