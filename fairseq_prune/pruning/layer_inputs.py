"""Statistics of the inputs of linear layers, gathered by hooks while a model runs.

with InputNorms(model, names) as norms:
    for batch in batches:
        norms.padding_mask = batch.padding_mask
        model(batch.inputs)
norms.values()
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Optional

import torch
from torch import Tensor, nn


class LayerInputs(ABC):
    """What all statistics share: sums over positions, in double precision over forward passes.

    Args:
        model: the layers are modules of it, and called as modules.
        names: of the layers' weights, "encoder.layers.0.fc1.weight".

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

    @abstractmethod
    def sum_over(self, x: Tensor) -> Tensor:
        """Of float32 inputs (positions, inputs)."""

    def __enter__(self):
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
        self._sums[name] = self._sums.get(name, 0) + self.sum_over(x.float()).double()
        self._positions[name] += len(x)

    def means(self) -> dict[str, Tensor]:
        """The sums over the number of positions, float64, by name.

        Raises:
            ValueError: a layer saw no input.
        """
        unseen = [name for name, count in self._positions.items() if not count]
        if unseen:
            raise ValueError(f"{unseen[0]}: its layer saw no input; it may be called in another way")
        return {name: self._sums[name] / count for name, count in self._positions.items()}


class InputNorms(LayerInputs):
    """Root mean squares of inputs.

    Times the root of the number of positions, this is Wanda's L2 norm (arXiv 2306.11695). That factor changes nothing
    within a matrix, and without it matrices compete that see different numbers of positions.
    """

    def sum_over(self, x: Tensor) -> Tensor:
        return x.square().sum(0)

    def values(self) -> dict[str, Tensor]:
        """float32 (inputs,) for each name; raises as `means`."""
        return {name: mean.sqrt().float() for name, mean in self.means().items()}


class InputMoments(LayerInputs):
    """Second moments of inputs and of a constant 1 after them: what least squares need, the bias included."""

    def sum_over(self, x: Tensor) -> Tensor:
        x = torch.cat([x, x.new_ones(len(x), 1)], dim=1)
        return x.t() @ x

    def values(self) -> dict[str, Tensor]:
        """float64 (inputs + 1, inputs + 1) for each name; raises as `means`."""
        return self.means()
