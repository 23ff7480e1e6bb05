"""The output projection that computes the likeliest tokens alone in full."""

import pytest
import torch
from torch.nn import functional as F

from fairseq_prune.modules.previewed_output import MOST_ROWS, OutputPreview, PreviewedOutput
from fairseq_prune.pruning.output_preview import principal_directions

TOKENS, DIM, SIZE = 300, 16, 6


@pytest.fixture
def weight():
    return torch.randn(TOKENS, DIM, generator=torch.Generator().manual_seed(0))


def features_in(size, *shape):
    """Features that lie in so many directions, and these."""
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(200, size, generator=generator) @ torch.randn(size, DIM, generator=generator)
    rows = features[: torch.Size(shape).numel()].view(*shape, DIM)
    return rows, principal_directions(features, size)


@pytest.mark.parametrize("shape", [(1,), (3,), (2, 1), (2, 3)])
def test_candidates_are_exact_and_the_likeliest_is_among_them(weight, shape):
    features, directions = features_in(SIZE, *shape)
    logits = PreviewedOutput(weight, OutputPreview(directions, 20))(features)
    whole = F.linear(features, weight)
    assert logits.shape == (*shape, TOKENS)
    assert torch.equal(logits.argmax(-1), whole.argmax(-1))
    exact = (logits - whole).abs() < 1e-5 * whole.abs().max()
    assert exact.sum(-1).min() >= 20
    # the others are those of 8 bits
    assert (logits - whole).abs().max() < 0.05 * whole.abs().max()


def test_all_candidates_are_the_whole_output(weight):
    features, directions = features_in(SIZE, 4)
    logits = PreviewedOutput(weight, OutputPreview(directions, TOKENS + 1))(features)
    torch.testing.assert_close(logits, F.linear(features, weight))


def test_what_lies_in_no_direction_is_not_seen_by_the_first_look(weight):
    features, _ = features_in(DIM, 4)
    directions = torch.eye(DIM)[:, :1].contiguous()
    logits = PreviewedOutput(weight, OutputPreview(directions, 1))(features)
    assert not torch.equal(logits.argmax(-1), F.linear(features, weight).argmax(-1))


def test_many_rows_are_all_exact(weight):
    features, directions = features_in(DIM, MOST_ROWS + 1)
    output = PreviewedOutput(weight, OutputPreview(directions[:, :1].contiguous(), 1))
    torch.testing.assert_close(output(features), F.linear(features, weight))


def test_the_weights_are_not_copied(weight):
    _, directions = features_in(SIZE, 1)
    assert PreviewedOutput(weight, OutputPreview(directions, 1)).weight.data_ptr() == weight.data_ptr()
