"""Frame selection against plain loops."""

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


def test_gather_is_differentiable_and_zero_on_padding():
    x = torch.randn(2, 6, 3, requires_grad=True)
    indices, padding = tokens.top_frames(torch.rand(2, 6), [6, 4], [4, 2])
    kept = tokens.gather_frames(x, indices, padding)
    kept.sum().backward()
    assert kept[1, 2:].eq(0).all()
    assert x.grad.sum().item() == (4 + 2) * 3 and x.grad[1, 4:].eq(0).all()


def test_lengths_of_all_stages_go_to_the_device_in_one_copy(monkeypatch):
    sent = []
    monkeypatch.setattr(
        tokens, "to_device", lambda values, device: sent.append(values) or torch.tensor(values)
    )
    first, last = tokens.Lengths.send([[9, 5], [4, 3]], torch.device("cpu"))
    monkeypatch.undo()
    assert len(sent) == 1 and first == [9, 5] and last == [4, 3]
    fewer = tokens.shortened(first, last)
    assert fewer == [5, 2] and tokens.to_device(fewer, torch.device("cpu")).tolist() == [5, 2]
