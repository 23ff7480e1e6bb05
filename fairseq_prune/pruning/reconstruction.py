"""Weights that make up for zeros and for layers that are gone: what each layer says is brought near to what it was.

Which weights are zero is given. Those that stay are fitted by least squares to what the layer hears in the sparse
model, layer after layer, so that each also makes up for the errors of those before it. Nothing is trained. The problem
is that of SparseGPT (Frantar and Alistarh 2023, arXiv 2301.00774, equation 1) for a given mask, with another target:
what the dense model's layer makes of the dense model's inputs. Where the output is added to a residual, the target is
the dense model's sum: the layer then makes up for all that the residual lacks, layers that were dropped among it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .least_squares import refit_masked
from .magnitude import Masks

Run = Callable[[nn.Module, Any], object]  # a model and an example


class Residuals(NamedTuple):
    """Where outputs are added to a residual, and where the dense model has the same sums.

    sums: by name of the weight of a layer that adds: the module that hears the sum.
    counterpart: gives a module's name in the dense model, where the sparse one has fewer layers.
    """

    sums: Mapping[str, str]
    counterpart: Callable[[str], str] = str


NO_RESIDUALS = Residuals({})


class Place(NamedTuple):
    """The input of a module, or its output."""

    module: str
    is_output: bool = False


@torch.no_grad()
def reconstruct(
    sparse: nn.Module,
    dense: nn.Module,
    masks: Masks,
    examples: Sequence[tuple[Any, Any]],
    run: Run,
    ridge: float = 1e-2,
    residuals: Residuals = NO_RESIDUALS,
    progress: Callable[[Sequence], Iterable] = iter,
) -> None:
    """Fit the weights of ``sparse`` that its masks keep, and the biases of their layers, in place.

    Args:
        sparse: a model whose weights are zero where the masks leave them out.
        dense: the model before it was pruned.
        masks: by name of the weight of a linear layer, "layers.0.fc1.weight".
        examples: what the sparse and the dense model hear at a time, without padding.
        run: a forward pass of a model with its part of an example.
        ridge: as of `refit_masked`.
        residuals: whose sums the layers that add to them are fitted to.
        progress: goes through a sequence and shows how far it is, such as tqdm.

    Raises:
        ValueError: a layer is not called.
    """
    modules = dict(sparse.named_modules())
    groups = input_groups(sparse, list(masks), examples[0][0], run)
    for group in progress(groups):
        moments, products = paired_moments(sparse, dense, group, examples, run, residuals)
        for name in group:
            layer = modules[_layer(name)]
            weight, bias = refit_masked(layer.weight, layer.bias, moments, products[name], masks[name], ridge)
            layer.weight.copy_(weight)
            if layer.bias is not None:
                layer.bias.copy_(bias)


def input_groups(model: nn.Module, names: Sequence[str], example: Any, run: Run) -> list[list[str]]:
    """Names of weights of linear layers, in the order in which the layers are called; those of one input together.

    Raises:
        ValueError: a layer is not called.
    """
    inputs: list[Tensor] = []  # they are kept, as another tensor could get the place of one that is gone
    groups: list[list[str]] = []
    weights = {Place(_layer(name)): name for name in names}

    def note(place: Place, tensor: Tensor) -> None:
        name = weights[place]
        if any(name in group for group in groups):
            return
        same = [i for i, known in enumerate(inputs) if known is tensor]
        if same:
            groups[same[0]].append(name)
        else:
            inputs.append(tensor)
            groups.append([name])

    with _hooks(model, list(weights), note):
        run(model, example)
    missing = sorted(set(names).difference(*groups))
    if missing:
        raise ValueError(f"{missing[0]}: its layer saw no input; it may be called in another way")
    return groups


def paired_moments(
    sparse: nn.Module,
    dense: nn.Module,
    names: Sequence[str],
    examples: Sequence[tuple[Any, Any]],
    run: Run,
    residuals: Residuals,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Means of products over the positions of all examples, of layers that hear the same input.

    Returns:
        of the inputs in the sparse model and a constant 1 after them (inputs + 1, inputs + 1), and by name of the
        targets with these inputs (outputs, inputs + 1); float64. A target is the output in the dense model, or the
        sum there less what is added to the output in the sparse model.
    """
    sums, counterpart = residuals
    adding = [name for name in names if name in sums]
    mine = [Place(_layer(names[0])), *(Place(sums[name]) for name in adding)]
    mine += [Place(_layer(name), is_output=True) for name in adding]
    others = [
        Place(counterpart(sums[name])) if name in sums else Place(counterpart(_layer(name)), is_output=True)
        for name in names
    ]
    moments, products, positions = 0, dict.fromkeys(names, 0), 0
    for example, other in examples:
        x, *rest = heard(sparse, mine, example, run)
        added = {name: rest[i] - rest[i + len(adding)] for i, name in enumerate(adding)}
        targets = heard(dense, others, other, run)
        x = torch.cat([x, x.new_ones(len(x), 1)], dim=1)
        moments = moments + (x.t() @ x).double()
        positions += len(x)
        for name, target in zip(names, targets):
            target = target - added[name] if name in added else target
            products[name] = products[name] + (target.t() @ x).double()
    return moments / positions, {name: product / positions for name, product in products.items()}


class _Enough(Exception):
    """All has been heard that was asked for: the rest of the forward pass is not needed."""


def heard(model: nn.Module, places: Sequence[Place], example: Any, run: Run) -> list[Tensor]:
    """What passes some places in a forward pass, which ends with the last of them.

    Returns:
        float32 (positions, inputs or outputs) for each place.
    """
    found: dict[Place, Tensor] = {}

    def keep(place: Place, tensor: Tensor) -> None:
        found[place] = tensor.flatten(0, -2).float()
        if len(found) == len(places):
            raise _Enough

    with _hooks(model, places, keep), suppress(_Enough):
        run(model, example)
    return [found[place] for place in places]


def _layer(name: str) -> str:
    return name.rpartition(".")[0]


@contextmanager
def _hooks(
    model: nn.Module, places: Sequence[Place], function: Callable[[Place, Tensor], None]
) -> Iterator[None]:
    """Within, the function is called with each place and what passes it."""
    modules = dict(model.named_modules())
    handles = []
    try:
        for place in places:
            module = modules[place.module]

            def hook(_module, inputs, output=None, place=place):
                function(place, output if place.is_output else inputs[0])

            register = module.register_forward_hook if place.is_output else module.register_forward_pre_hook
            handles.append(register(hook))
        yield
    finally:
        for handle in handles:
            handle.remove()
