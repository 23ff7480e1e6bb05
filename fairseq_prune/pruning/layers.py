"""Layer pruning: how much each layer of a stack matters, which to keep or merge, and the state dict that is left."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Optional

import torch
from torch import Tensor, nn


class BlockInfluence:
    """Measures the block influence of layers while their model runs (Men et al. 2024, arXiv 2403.03853, equation 1).

    It is 1 - cosine similarity between what enters a layer and what leaves it, on average over positions: a layer
    that hardly changes its input can be spared. In the ``with`` block call the model, and `add` after each call.

    Args:
        layers: called in order with (..., dim) as first argument; they return the same shape, or a tuple with it first.
    """

    def __init__(self, layers: nn.ModuleList):
        self.layers = layers
        self._sums = torch.zeros(len(layers), dtype=torch.float64)
        self._positions = 0
        self._changes: list[Optional[Tensor]] = [None] * len(layers)

    def __enter__(self) -> "BlockInfluence":
        self._hooks = [layer.register_forward_hook(self._hook(i)) for i, layer in enumerate(self.layers)]
        return self

    def __exit__(self, *error) -> None:
        for hook in self._hooks:
            hook.remove()

    def _hook(self, index):
        def measure(layer, arguments, output):
            after = output[0] if isinstance(output, tuple) else output
            similarity = torch.cosine_similarity(arguments[0].float(), after.float(), dim=-1)
            self._changes[index] = 1 - similarity.detach()

        return measure

    def shape(self) -> torch.Size:
        """Of the positions of the last call, in the layers' order of dimensions."""
        return self._changes[0].shape

    def add(self, valid: Tensor) -> None:
        """Count the last call of the model.

        Args:
            valid: True where a position is no padding, in the layers' order of dimensions, without dim.
        """
        self._sums += torch.stack([change[valid].double().sum().cpu() for change in self._changes])
        self._positions += int(valid.sum())

    def values(self) -> list[float]:
        """Of each layer, over all that was added: 0 for a layer that does nothing, at most 2."""
        return (self._sums / max(1, self._positions)).tolist()


@contextmanager
def only_layers(layers: nn.ModuleList, kept: Sequence[int]) -> Iterator[None]:
    """Within the block the stack consists of the layers ``kept`` (counted from 0), in their order."""
    whole = dict(layers._modules)
    stack = list(layers)

    def fill(modules):
        layers._modules.clear()
        layers._modules.update(modules)

    fill({str(place): stack[index] for place, index in enumerate(kept)})
    try:
        yield
    finally:
        fill(whole)


def most_influential(influences: Sequence[float], keep: int) -> list[int]:
    """The ``keep`` layers of the highest influence, in their order; the later one of equals."""
    order = sorted(range(len(influences)), key=lambda index: (influences[index], index), reverse=True)
    return sorted(order[:keep])


def drop_by_loss(
    layers: nn.ModuleList, keep: int, loss: Callable[[], float]
) -> tuple[list[int], list[dict[int, float]]]:
    """Leave out one layer after the other, each time the one without which the loss is lowest.

    Args:
        layers: the stack that ``loss`` runs.
        keep: layers that remain.
        loss: of the model as it is when called.

    Returns:
        the layers kept, and for each step the loss without each layer that was still there.
    """
    kept, steps = list(range(len(layers))), []
    while len(kept) > keep:
        losses = {}
        for left_out in kept:
            with only_layers(layers, [index for index in kept if index != left_out]):
                losses[left_out] = loss()
        steps.append(losses)
        kept.remove(min(losses, key=losses.get))
    return kept, steps


def keep_layers(state_dict: Mapping[str, Tensor], prefix: str, kept: Sequence[int]) -> dict[str, Tensor]:
    """The state dict of a model that has only some of its layers.

    Args:
        prefix: of the layers' keys, which go on with the number from 0: ``decoder.layers.``
        kept: numbers of the layers, in the order that they shall have.

    Raises:
        ValueError: the state dict has no such layer.
    """
    place = {str(index): str(new) for new, index in enumerate(kept)}
    found, new = set(), {}
    for key, value in state_dict.items():
        if key.startswith(prefix):
            index, _, rest = key[len(prefix) :].partition(".")
            found.add(index)
            if index not in place:
                continue
            key = f"{prefix}{place[index]}.{rest}"
        new[key] = value
    missing = sorted(set(place) - found)
    if missing:
        raise ValueError(f"expected a layer {prefix}{missing[0]}, found {len(found)} layers")
    return new


def merge_layers(
    state_dict: Mapping[str, Tensor], prefix: str, groups: Sequence[Sequence[int]]
) -> dict[str, Tensor]:
    """The state dict of a model each of whose layers is the mean of a group of layers, parameter by parameter.

    BaldWhisper (arXiv 2510.08599) merges neighbours so, with weights that are equal here. A group of one is kept.

    Args:
        prefix: as of `keep_layers`.
        groups: numbers of the layers of each group, in the order that the new layers shall have.

    Raises:
        ValueError: the state dict has no such layer, or the layers of a group have different sizes.
    """
    new = keep_layers(state_dict, prefix, [group[0] for group in groups])
    for place, group in enumerate(groups):
        layers = [_layer(state_dict, f"{prefix}{index}.") for index in group]
        shapes = [{name: value.shape for name, value in layer.items()} for layer in layers]
        for index, found in zip(group, shapes):
            if found != shapes[0]:
                raise ValueError(
                    f"layers {prefix}{group[0]} and {prefix}{index} have different sizes, expected equal ones to merge"
                )
        for name, value in layers[0].items():
            if len(group) > 1:
                mean = torch.stack([layer[name].float() for layer in layers]).mean(0)
                new[f"{prefix}{place}.{name}"] = mean.to(value.dtype)
    return new


def _layer(state_dict: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The parameters of a layer, under their names within it.

    Raises:
        ValueError: there is none.
    """
    found = {key[len(prefix) :]: value for key, value in state_dict.items() if key.startswith(prefix)}
    if not found:
        raise ValueError(f"expected a layer {prefix.rstrip('.')}, found none")
    return found
