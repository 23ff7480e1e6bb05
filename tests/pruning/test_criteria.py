"""Each criterion's scores: of an utterance alone as in any batch, and what they choose."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq_prune.pruning.criteria import CRITERIA, Evidence, criterion_named
from fairseq_prune.pruning.tokens import keep_counts, top_frames

quick = settings(max_examples=40, deadline=None)
batches = st.lists(st.integers(1, 30), min_size=1, max_size=4)
ratios = st.floats(0.05, 1.0)
SCORERS = [name for name, criterion in CRITERIA.items() if criterion.score is not None]


def evidence(lengths, ratio=0.5, seed=0):
    generator = torch.Generator().manual_seed(7)
    frames = max(lengths)
    received = torch.rand(len(lengths), frames, generator=generator)
    residual = torch.randn(len(lengths), frames, 4, generator=generator)
    return Evidence(residual, lengths, keep_counts(lengths, ratio), received, seed)


def part(seen, row):
    """The evidence of one utterance, alone."""
    length = seen.lengths[row]
    return Evidence(
        seen.residual[row : row + 1, :length],
        [length],
        [seen.counts[row]],
        seen.received[row : row + 1, :length],
        seen.seed,
    )


@pytest.mark.parametrize("name", SCORERS)
@quick
@given(batches, ratios, st.integers(0, 10_000))
def test_a_frame_scores_the_same_alone_and_in_any_batch(name, lengths, ratio, seed):
    seen, score = evidence(lengths, ratio, seed), CRITERIA[name].score
    together = score(seen)
    for row, length in enumerate(lengths):
        torch.testing.assert_close(together[row, :length], score(part(seen, row))[0])


@quick
@given(batches, ratios)
def test_uniform_frames_are_the_middles_of_equal_stretches(lengths, ratio):
    seen = evidence(lengths, ratio)
    scores = CRITERIA["uniform"].score(seen)
    for row, length, count in zip(scores.tolist(), lengths, seen.counts):
        middles = [(2 * stretch + 1) * length // (2 * count) for stretch in range(count)]
        assert [place for place in range(length) if row[place]] == middles


def test_random_scores_differ_by_seed():
    random = CRITERIA["random"].score
    assert not torch.equal(random(evidence([7], seed=3)), random(evidence([7], seed=4)))


def test_random_scores_choose_all_places_about_equally_often():
    hits = torch.zeros(50)
    for seed in range(400):
        scores = CRITERIA["random"].score(evidence([50], seed=seed))
        hits[top_frames(scores, [50], [25])[0][0]] += 1
    assert hits.min() > 140 and hits.max() < 260


def test_an_unknown_criterion_is_refused_in_one_line():
    with pytest.raises(ValueError) as error:
        criterion_named("loudest")
    assert str(error.value).startswith("pruning criterion: found 'loudest', expected one of received, ")
    assert "\n" not in str(error.value)
