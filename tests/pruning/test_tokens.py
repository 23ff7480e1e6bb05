"""Frame selection against plain loops."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq_prune.pruning import tokens

quick = settings(max_examples=40, deadline=None)
batches = st.lists(st.integers(1, 30), min_size=1, max_size=4)
ratios = st.floats(0.05, 1.0)


def reference_top(scores, lengths, counts):
    """For each utterance: sort its own frames by (score, earliness), keep the first, in temporal order."""
    chosen = []
    for row, length, count in zip(scores.tolist(), lengths, counts):
        best = sorted(range(length), key=lambda i: (-row[i], i))[:count]
        chosen.append(sorted(best))
    return chosen


@quick
@given(batches, ratios, st.integers(1, 5))
def test_counts_follow_each_own_length(lengths, ratio, minimum):
    counts = tokens.keep_counts(lengths, ratio, minimum)
    for length, count in zip(lengths, counts):
        assert min(minimum, length) <= count <= length
        assert count >= ratio * length - 1e-5
        assert count in (length, minimum) or count < ratio * length + 1


def test_a_count_does_not_grow_by_rounding():
    assert tokens.keep_counts([10, 30, 100], 0.1) == [1, 3, 10]
    assert tokens.keep_counts([10], 0.7) == [7]


@quick
@given(batches, ratios, st.integers(0, 10_000), st.booleans())
def test_top_frames_equal_a_loop(lengths, ratio, seed, tied):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(len(lengths), max(lengths) + 2, generator=generator)
    if tied:
        scores = (scores * 3).round()
    counts = tokens.keep_counts(lengths, ratio)
    indices, padding = tokens.top_frames(scores, lengths, counts)
    expected = reference_top(scores, lengths, counts)
    for i, count in enumerate(counts):
        assert indices[i, :count].tolist() == expected[i]
        if padding is not None:
            assert padding[i].tolist() == [j >= count for j in range(max(counts))]


@quick
@given(batches, ratios)
def test_uniform_frames_are_distinct_valid_and_even(lengths, ratio):
    counts = tokens.keep_counts(lengths, ratio)
    indices, _ = tokens.uniform_frames(lengths, counts, torch.device("cpu"))
    for row, length, count in zip(indices.tolist(), lengths, counts):
        kept = row[:count]
        steps = {b - a for a, b in zip(kept, kept[1:])}
        assert kept == sorted(set(kept)) and kept[-1] < length
        assert not steps or max(steps) - min(steps) <= 1


@quick
@given(batches, st.integers(0, 10_000), st.integers(1, 7))
def test_received_attention_equals_the_full_matrix(lengths, seed, block):
    generator = torch.Generator().manual_seed(seed)
    heads, dim, frames = 3, 4, max(lengths)
    q, k, v = torch.randn(3, len(lengths), heads, frames, dim, generator=generator)
    padding = tokens.padding_mask_of(lengths, frames, q.device)
    out, received = tokens.attention_and_received(q, k, v, padding, block=block)
    for i, n in enumerate(lengths):
        weights = (q[i, :, :n] @ k[i, :, :n].transpose(1, 2) / math.sqrt(dim)).softmax(-1)
        torch.testing.assert_close(received[i, :n], weights.mean(0).sum(0), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(out[i, :, :n], weights @ v[i, :, :n], rtol=1e-4, atol=1e-5)
        assert received[i, n:].eq(0).all()


def test_received_attention_sums_to_the_number_of_valid_queries():
    q = torch.randn(2, 4, 9, 8)
    padding = tokens.padding_mask_of([9, 5], 9, q.device)
    _, received = tokens.attention_and_received(q, q, padding_mask=padding)
    torch.testing.assert_close(received.sum(1), torch.tensor([9.0, 5.0]))


def test_received_attention_in_half_precision_keeps_nearly_the_same_frames(half_dtype):
    q, k, v = torch.randn(3, 1, 4, 200, 16)
    full = tokens.attention_and_received(q, k, v)[1]
    half = tokens.attention_and_received(q.to(half_dtype), k.to(half_dtype), v.to(half_dtype))[1]
    kept = set(tokens.top_frames(full, [200], [140])[0][0].tolist())
    kept_half = set(tokens.top_frames(half, [200], [140])[0][0].tolist())
    assert half.dtype == torch.float32 and len(kept & kept_half) >= 136


def test_autocast_changes_no_choice():
    q, k, v = torch.randn(3, 2, 4, 60, 16)
    x = torch.randn(2, 60, 8)
    expected = tokens.attention_and_received(q, k, v)
    merged = tokens.merge_frames(x, x, None, [60, 50], [40, 35])
    with torch.autocast("cpu", torch.bfloat16):
        for found, wanted in zip(tokens.attention_and_received(q, k, v), expected):
            assert found.dtype == wanted.dtype and torch.equal(found, wanted)
        for found, wanted in zip(tokens.merge_frames(x, x, None, [60, 50], [40, 35]), merged):
            assert found.dtype == wanted.dtype and torch.equal(found, wanted)


def test_what_lies_after_the_valid_frames_does_not_take_part_in_merging():
    x = torch.randn(2, 12, 5)
    far = x.clone()
    far[1, 7:] = 1e3
    for found, wanted in zip(
        tokens.merge_frames(x, x, None, [12, 7], [8, 4]), tokens.merge_frames(far, far, None, [12, 7], [8, 4])
    ):
        assert torch.equal(found, wanted)


def test_random_scores_do_not_depend_on_the_batch():
    alone = tokens.random_scores([7], 7, seed=3, device=torch.device("cpu"))
    batch = tokens.random_scores([9, 7], 9, seed=3, device=torch.device("cpu"))
    other = tokens.random_scores([7], 7, seed=4, device=torch.device("cpu"))
    assert torch.equal(alone[0], batch[1, :7]) and not torch.equal(alone, other)


def test_random_scores_choose_all_places_about_equally_often():
    hits = torch.zeros(50)
    for seed in range(400):
        scores = tokens.random_scores([50], 50, seed, torch.device("cpu"))
        hits[tokens.top_frames(scores, [50], [25])[0][0]] += 1
    assert hits.min() > 140 and hits.max() < 260


def test_gather_is_differentiable_and_zero_on_padding():
    x = torch.randn(2, 6, 3, requires_grad=True)
    indices, padding = tokens.top_frames(torch.rand(2, 6), [6, 4], [4, 2])
    kept = tokens.gather_frames(x, indices, padding)
    kept.sum().backward()
    assert kept[1, 2:].eq(0).all()
    assert x.grad.sum().item() == (4 + 2) * 3 and x.grad[1, 4:].eq(0).all()


def reference_merge(x, metric, sizes, count):
    """Bipartite soft matching of one utterance, frame by frame."""
    n = x.shape[0]
    unit = metric / metric.norm(dim=1, keepdim=True).clamp(min=1e-12)
    edges = []
    for a in range(0, n, 2):
        similarity = [(unit[a] @ unit[b]).item() for b in range(1, n, 2)]
        if similarity:
            best = max(range(len(similarity)), key=lambda j: similarity[j])
            edges.append((similarity[best], a, 2 * best + 1))
    edges.sort(key=lambda edge: (-edge[0], edge[1]))
    gone = {}
    for _, a, b in edges[: n - count]:
        gone[a] = b
    frames, new_sizes = [], []
    for i in range(n):
        if i in gone:
            continue
        group = [i] + [a for a, b in gone.items() if b == i]
        weights = sizes[group]
        frames.append((x[group] * weights[:, None]).sum(0) / weights.sum())
        new_sizes.append(weights.sum())
    return torch.stack(frames), torch.stack(new_sizes)


@quick
@given(batches, st.floats(0.5, 1.0), st.integers(0, 10_000))
def test_merging_equals_a_loop(lengths, ratio, seed):
    generator = torch.Generator().manual_seed(seed)
    frames = max(lengths)
    x = torch.randn(len(lengths), frames, 5, generator=generator)
    metric = torch.randn(len(lengths), frames, 4, generator=generator)
    sizes = torch.randint(1, 4, (len(lengths), frames), generator=generator).float()
    counts = tokens.keep_counts(lengths, ratio)
    merged, new_sizes, indices, _ = tokens.merge_frames(x, metric, sizes, lengths, counts)
    for i, (n, k) in enumerate(zip(lengths, counts)):
        expected, expected_sizes = reference_merge(x[i, :n], metric[i, :n], sizes[i, :n], k)
        torch.testing.assert_close(merged[i, :k], expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(new_sizes[i, :k], expected_sizes)
        assert indices[i, :k].tolist() == sorted(indices[i, :k].tolist())


def test_merging_below_half_is_refused():
    x = torch.randn(1, 10, 4)
    with pytest.raises(ValueError, match="at most halve"):
        tokens.merge_frames(x, x, None, [10], [4])
