"""Scores of weights: how much each one matters. `magnitude.magnitude_masks` makes masks of them.

Weights are matrices (outputs, inputs) of linear layers, by parameter name. Scores have the weights' shapes and are not
negative. Magnitudes are scores that need nothing else; the others look at what a model does with some data, which
need no labels: `InputNorms` looks at the inputs of the layers, `taylor_scores` at gradients.
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
        norms: (inputs,) of each weight, as of `InputNorms`.
    """
    return {name: weight.detach().abs() * norms[name].to(weight) for name, weight in weights.items()}


def taylor_scores(
    weights: Mapping[str, nn.Parameter], losses: Iterable[Tensor], squared: bool = False
) -> Scores:
    """How much the loss would change without a weight, to first order, summed over utterances.

    ``sum |w * g|``, or ``sum (w * g)^2`` (Molchanov et al. 2019, arXiv 1906.10771), where g is the gradient of one
    utterance's loss. The mean square of g is the empirical Fisher information.

    Args:
        weights: parameters that the losses depend on; their ``grad`` stays as it is.
        losses: a loss () for each utterance, computed when its turn comes.
        squared: the sum of squares.
    """
    parameters = list(weights.values())
    scores = [torch.zeros_like(parameter, dtype=torch.float32) for parameter in parameters]
    for loss in losses:
        gradients = torch.autograd.grad(loss, parameters)
        for score, parameter, gradient in zip(scores, parameters, gradients):
            change = parameter.detach().float() * gradient.float()
            score += change.square() if squared else change.abs()
    return dict(zip(weights, scores))


class InputNorms:
    """Root mean squares of the inputs of linear layers, gathered by hooks while a model runs.

    Times the root of the number of positions, this is Wanda's L2 norm. That factor changes nothing within a matrix, and
    without it matrices compete that see different numbers of positions.

        with InputNorms(model, names) as norms:
            for batch in batches:
                norms.padding_mask = batch.padding_mask
                model(batch.inputs)
        scores = wanda_scores(weights, norms.values())

    Args:
        model: the layers are modules of it, and called as modules.
        names: of the weights, "encoder.layers.0.fc1.weight".

    Attributes:
        padding_mask: (batch, positions) of the next forward pass, True on padding, which is not counted; None: all
            positions count.
    """

    def __init__(self, model: nn.Module, names: Iterable[str]):
        modules = dict(model.named_modules())
        self.layers = {name: modules[name.rpartition(".")[0]] for name in names}
        self.padding_mask: Optional[Tensor] = None
        self._sums: dict[str, Tensor] = {}
        self._positions = dict.fromkeys(self.layers, 0)
        self._handles: list = []

    def __enter__(self) -> "InputNorms":
        for name, layer in self.layers.items():

            def hook(_layer, inputs, name=name):
                self._add(name, inputs[0])

            self._handles.append(layer.register_forward_pre_hook(hook))
        return self

    def __exit__(self, *error) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _add(self, name: str, x: Tensor) -> None:
        """Count inputs (batch, positions, inputs)."""
        x = x.detach() if self.padding_mask is None else x.detach()[~self.padding_mask]
        x = x.reshape(-1, x.size(-1))
        # a sum over float32 rows is pairwise; sums of passes are in double precision
        self._sums[name] = self._sums.get(name, 0) + x.float().square().sum(0).double()
        self._positions[name] += len(x)

    def values(self) -> dict[str, Tensor]:
        """(inputs,) for each name.

        Raises:
            ValueError: a layer saw no input.
        """
        unseen = [name for name, count in self._positions.items() if not count]
        if unseen:
            raise ValueError(f"{unseen[0]}: its layer saw no input; it may be called in another way")
        return {name: (self._sums[name] / count).sqrt().float() for name, count in self._positions.items()}
