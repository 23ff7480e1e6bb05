"""The output projection that computes the likeliest tokens alone in full."""

import pytest
import torch
from torch import nn

from fairseq_prune.modules.previewed_output import MOST_ROWS, OutputPreview, PreviewedOutput
from fairseq_prune.pruning.output_preview import principal_directions

TOKENS, DIM, SIZE = 300, 16, 6


@pytest.fixture
def layer():
    layer = nn.Linear(DIM, TOKENS, bias=False).requires_grad_(False)
    layer.weight.copy_(torch.randn(TOKENS, DIM, generator=torch.Generator().manual_seed(0)))
    return layer


def features_in(size, *shape):
    """Features that lie in so many directions, and these."""
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(200, size, generator=generator) @ torch.randn(size, DIM, generator=generator)
    rows = features[: torch.Size(shape).numel()].view(*shape, DIM)
    return rows, principal_directions(features, size)


@pytest.mark.parametrize("shape", [(1,), (3,), (2, 1), (2, 3)])
def test_candidates_are_exact_and_the_likeliest_is_among_them(layer, shape):
    features, directions = features_in(SIZE, *shape)
    logits = PreviewedOutput(layer, OutputPreview(directions, 20))(features)
    whole = layer(features)
    assert logits.shape == (*shape, TOKENS)
    assert torch.equal(logits.argmax(-1), whole.argmax(-1))
    exact = (logits - whole).abs() < 1e-5 * whole.abs().max()
    assert exact.sum(-1).min() >= 20
    # the others are those of 8 bits
    assert (logits - whole).abs().max() < 0.05 * whole.abs().max()


def test_all_candidates_are_the_whole_output(layer):
    features, directions = features_in(SIZE, 4)
    logits = PreviewedOutput(layer, OutputPreview(directions, TOKENS + 1))(features)
    torch.testing.assert_close(logits, layer(features))


def test_what_lies_in_no_direction_is_not_seen_by_the_first_look(layer):
    features, _ = features_in(DIM, 4)
    directions = torch.eye(DIM)[:, :1].contiguous()
    logits = PreviewedOutput(layer, OutputPreview(directions, 1))(features)
    assert not torch.equal(logits.argmax(-1), layer(features).argmax(-1))


@pytest.mark.parametrize("int8", [False, True])
def test_many_rows_are_all_in_full(layer, int8):
    features, directions = features_in(DIM, MOST_ROWS + 1)
    output = PreviewedOutput(layer, OutputPreview(directions[:, :1].contiguous(), 1), int8)
    whole = layer(features)
    torch.testing.assert_close(
        output(features), whole, rtol=0, atol=(0.02 if int8 else 1e-5) * float(whole.abs().max())
    )
