"""Attention received, in blocks, against the whole matrix."""

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq_prune.pruning import attention
from fairseq_prune.pruning.attention import attention_and_received
from fairseq_prune.pruning.tokens import padding_mask_of, top_frames

quick = settings(max_examples=40, deadline=None)
batches = st.lists(st.integers(1, 30), min_size=1, max_size=4)


@quick
@given(batches, st.integers(0, 10_000), st.integers(1, 7))
def test_received_attention_equals_the_full_matrix(lengths, seed, block):
    generator = torch.Generator().manual_seed(seed)
    heads, dim, frames = 3, 4, max(lengths)
    q, k, v = torch.randn(3, len(lengths), heads, frames, dim, generator=generator)
    padding = padding_mask_of(lengths, frames, q.device)
    out, received = attention_and_received(q, k, v, padding, block=block)
    for i, n in enumerate(lengths):
        weights = (q[i, :, :n] @ k[i, :, :n].transpose(1, 2) / math.sqrt(dim)).softmax(-1)
        torch.testing.assert_close(received[i, :n], weights.mean(0).sum(0), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(out[i, :, :n], weights @ v[i, :, :n], rtol=1e-4, atol=1e-5)
        assert received[i, n:].eq(0).all()


def test_received_attention_sums_to_the_number_of_valid_queries():
    q = torch.randn(2, 4, 9, 8)
    padding = padding_mask_of([9, 5], 9, q.device)
    _, received = attention_and_received(q, q, padding_mask=padding)
    torch.testing.assert_close(received.sum(1), torch.tensor([9.0, 5.0]))


def test_received_attention_in_half_precision_keeps_nearly_the_same_frames(half_dtype):
    q, k, v = torch.randn(3, 1, 4, 200, 16)
    full = attention_and_received(q, k, v)[1]
    half = attention_and_received(q.to(half_dtype), k.to(half_dtype), v.to(half_dtype))[1]
    kept = set(top_frames(full, [200], [140])[0][0].tolist())
    kept_half = set(top_frames(half, [200], [140])[0][0].tolist())
    assert half.dtype == torch.float32 and len(kept & kept_half) >= 136


def test_autocast_changes_no_choice():
    q, k, v = torch.randn(3, 2, 4, 60, 16)
    expected = attention_and_received(q, k, v)
    with torch.autocast("cpu", torch.bfloat16):
        for found, wanted in zip(attention_and_received(q, k, v), expected):
            assert found.dtype == wanted.dtype and torch.equal(found, wanted)


def test_blocks_follow_a_budget_of_memory_on_other_devices():
    on_cpu, on_device = (torch.empty(8, 12, 1500, 64, device=device) for device in ("cpu", "meta"))
    assert attention.query_block(on_cpu) == attention.QUERY_BLOCK
    block = attention.query_block(on_device)
    assert attention.BLOCK_BYTES / 2 < 8 * 12 * block * 1500 * 4 <= attention.BLOCK_BYTES
