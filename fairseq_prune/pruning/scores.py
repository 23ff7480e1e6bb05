"""Scores of weights: how much each one matters. `magnitude.magnitude_masks` makes masks of them.

Weights are matrices (outputs, inputs) of linear layers, by parameter name. Scores have the weights' shapes and are not
negative. Magnitudes are scores that need nothing else. The others look at what a model does with some data: at the
inputs of its layers (`layer_inputs.InputNorms`), or at gradients.
"""

from collections.abc import Iterable, Mapping
from typing import Optional

import torch
from torch import Tensor, nn

Scores = dict[str, Tensor]


def random_scores(weights: Mapping[str, Tensor], seed: int) -> Scores:
    """Scores by chance, on the CPU: the floor for all others."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(weight.shape, generator=generator) for name, weight in weights.items()}


def wanda_scores(weights: Mapping[str, Tensor], norms: Mapping[str, Tensor]) -> Scores:
    """``|W[i, j]| * norm[j]``: how much of an output a weight makes (Sun et al. 2023, arXiv 2306.11695, equation 1).

    Args:
        norms: (inputs,) of each weight, as of `layer_inputs.InputNorms`.
    """
    return {name: weight.detach().abs() * norms[name].to(weight) for name, weight in weights.items()}


def taylor_scores(
    weights: Mapping[str, nn.Parameter],
    losses: Iterable[Tensor],
    squared: bool = False,
    block: Optional[Mapping[str, int]] = None,
) -> Scores:
    """How much the loss would change without a weight, to first order, summed over utterances.

    ``sum |w * g|``, or ``sum (w * g)^2`` (Molchanov et al. 2019, arXiv 1906.10771), where g is the gradient of one
    utterance's loss. The mean square of g is the empirical Fisher information.

    Args:
        weights: parameters that the losses depend on; their ``grad`` stays as it is.
        losses: a loss () for each utterance, computed when its turn comes.
        squared: the sum of squares.
        block: for structure: by name, how many successive columns stay or go together. The change is then that without
            the columns, and scores are (inputs / block,).
    """
    parameters, scores = list(weights.values()), {}
    for loss in losses:
        gradients = torch.autograd.grad(loss, parameters)
        for name, parameter, gradient in zip(weights, parameters, gradients):
            change = parameter.detach().float() * gradient.float()
            if block is not None:
                change = change.sum(0).view(-1, block[name]).sum(1)
            scores[name] = scores.get(name, 0) + (change.square() if squared else change.abs())
    return scores
