"""An output in two looks, against numpy's singular vectors and the whole products."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fairseq_prune.pruning.output_preview import fill_candidates, misses, principal_directions


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_directions_are_numpys_singular_vectors_of_the_features():
    features = random(50, 12) * torch.linspace(1, 4, 12) + 1  # with a mean, which stays in
    directions = principal_directions(features, 5).numpy()
    _, _, vectors = np.linalg.svd(features.numpy(), full_matrices=False)
    np.testing.assert_allclose(directions @ directions.T, vectors[:5].T @ vectors[:5], atol=1e-5)
    np.testing.assert_allclose(np.abs(np.sum(directions * vectors[:5].T, axis=0)), 1, atol=1e-5)


@pytest.mark.parametrize("size", [0, 13])
def test_as_many_directions_as_there_are_dimensions_at_most(size):
    with pytest.raises(ValueError, match=f"directions: found {size}, expected 1 to 12"):
        principal_directions(random(50, 12), size)


@given(st.integers(1, 4), st.integers(1, 30), st.integers(1, 40), st.integers(0, 1000))
def test_the_largest_get_their_whole_products_and_the_others_stay(rows, tokens, candidates, seed):
    preview, features = random(rows, tokens, seed=seed), random(rows, 6, seed=seed + 1)
    weight = random(tokens, 6, seed=seed + 2)
    filled = fill_candidates(preview.clone(), features, weight, candidates)
    for row in range(rows):
        order = preview[row].argsort(descending=True)
        largest, others = order[:candidates], order[candidates:]
        torch.testing.assert_close(filled[row, largest], weight[largest] @ features[row])
        assert torch.equal(filled[row, others], preview[row, others])


def test_misses_are_counted_against_all_weights():
    weight, features = random(9, 4, seed=1), random(20, 4)
    assert misses(features, weight, lambda rows: rows @ weight.T) == (0, 0)
    found = misses(features, weight, lambda rows: -rows @ weight.T, rows=3)
    whole = features @ weight.T
    difference = ((-whole).logsumexp(1) - whole.logsumexp(1)).abs().mean()
    assert found.likeliest == 1 and found.normalizer == pytest.approx(float(difference), rel=1e-5)


def test_a_token_as_likely_as_the_likeliest_is_no_miss():
    weight = torch.eye(3)[[0, 0, 1]]
    features = torch.tensor([[1.0, 0.5, 0.0]])
    assert misses(features, weight, lambda rows: torch.tensor([[0.0, 1.0, 0.0]])).likeliest == 0
