"""A decoder's output in two looks (SVD-softmax): all tokens in some directions, then the likeliest ones in full.

A decoder's features fill few directions of their space. Their products with all tokens in these directions alone say
which tokens can be the likeliest; only for these the whole product is computed. The two steps are those of SVD-softmax
(Shim, Lee, Choi, Boo and Sung 2017, "SVD-Softmax: Fast Softmax Approximation on Large Vocabulary Neural Networks",
NIPS). There the directions are the singular vectors of the weights; here they are the principal directions of features
that were seen, which need fewer for the same tokens.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Misses(NamedTuple):
    """How far an output is from the whole one.

    likeliest: share of the features of which another token than the likeliest gets the largest logit. normalizer: mean
    absolute difference of the logarithm that normalises the probabilities, in nats.
    """

    likeliest: float
    normalizer: float


def principal_directions(features: Tensor, size: int) -> Tensor:
    """The directions in which features are largest: (dim, size), orthonormal, the largest first.

    They are the eigenvectors of the second moments; the mean stays in, as logits depend on it.

    Args:
        features: (steps, dim).
        size: directions, at most dim.

    Raises:
        ValueError: there are not as many directions.
    """
    if not 0 < size <= features.shape[1]:
        raise ValueError(f"directions: found {size}, expected 1 to {features.shape[1]}")
    x = features.double()
    _, vectors = torch.linalg.eigh(x.T @ x / len(x))
    return vectors.flip(1)[:, :size].to(features.dtype)


def fill_candidates(preview: Tensor, features: Tensor, weight: Tensor, candidates: int) -> Tensor:
    """Put the whole products in the place of the largest ones of a preview, in place.

    Args:
        preview: (rows, tokens), products in a few directions.
        features: (rows, dim).
        weight: (tokens, dim) of the output projection.
        candidates: tokens of each row.

    Returns:
        ``preview``.
    """
    likeliest = preview.topk(min(candidates, preview.shape[1]), sorted=False).indices
    rows = weight.index_select(0, likeliest.flatten()).unflatten(0, likeliest.shape)
    whole = torch.bmm(rows, features[:, :, None])[:, :, 0]
    return preview.scatter_(1, likeliest, whole)


@torch.no_grad()
def misses(
    features: Tensor,
    weight: Tensor,
    output: Callable[[Tensor], Tensor],
    rows: int = 8,
    tolerance: float = 1e-4,
) -> Misses:
    """How far an output is from that of all weights, on features (steps, dim).

    Args:
        weight: (tokens, dim).
        output: (rows, dim) -> logits (rows, tokens).
        rows: steps at a time.
        tolerance: share of the largest logit by which another one is as large.
    """
    missed, difference = 0, 0.0
    for part in features.split(rows):
        whole, logits = part @ weight.T, output(part)
        largest = whole.amax(1)
        chosen = whole.gather(1, logits.argmax(1, keepdim=True))[:, 0]
        missed += int((chosen < largest - tolerance * largest.abs()).sum())
        difference += float((logits.logsumexp(1) - whole.logsumexp(1)).abs().sum())
    return Misses(missed / len(features), difference / len(features))
