"""Merging of similar frames against plain loops."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq_prune.pruning.merging import merge_frames
from fairseq_prune.pruning.tokens import keep_counts

quick = settings(max_examples=40, deadline=None)
batches = st.lists(st.integers(1, 30), min_size=1, max_size=4)


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
    counts = keep_counts(lengths, ratio)
    merged, new_sizes, indices, _ = merge_frames(x, metric, sizes, lengths, counts)
    for i, (n, k) in enumerate(zip(lengths, counts)):
        expected, expected_sizes = reference_merge(x[i, :n], metric[i, :n], sizes[i, :n], k)
        torch.testing.assert_close(merged[i, :k], expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(new_sizes[i, :k], expected_sizes)
        assert indices[i, :k].tolist() == sorted(indices[i, :k].tolist())


def test_merging_below_half_is_refused():
    x = torch.randn(1, 10, 4)
    with pytest.raises(ValueError, match="at most halve"):
        merge_frames(x, x, None, [10], [4])


def test_what_lies_after_the_valid_frames_does_not_take_part_in_merging():
    x = torch.randn(2, 12, 5)
    far = x.clone()
    far[1, 7:] = 1e3
    for found, wanted in zip(
        merge_frames(x, x, None, [12, 7], [8, 4]), merge_frames(far, far, None, [12, 7], [8, 4])
    ):
        assert torch.equal(found, wanted)


def test_autocast_changes_no_merge():
    x = torch.randn(2, 60, 8)
    merged = merge_frames(x, x, None, [60, 50], [40, 35])
    with torch.autocast("cpu", torch.bfloat16):
        for found, wanted in zip(merge_frames(x, x, None, [60, 50], [40, 35]), merged):
            assert found.dtype == wanted.dtype and torch.equal(found, wanted)
