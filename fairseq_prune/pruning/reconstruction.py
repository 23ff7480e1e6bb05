"""Weights that make up for zeros: each layer's output is brought near to what it was before anything was pruned.

Which weights are zero is given. Those that stay are fitted by least squares to what the layer hears in the sparse
model, layer after layer, so that each also makes up for the errors of those before it. Nothing is trained. The problem
is that of SparseGPT (Frantar and Alistarh 2023, arXiv 2301.00774, equation 1) for a given mask, with another target:
what the dense model's layer makes of the dense model's inputs.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from .least_squares import refit_masked
from .magnitude import Masks

Run = Callable[[nn.Module, Any], object]  # a model and an example


@torch.no_grad()
def reconstruct(
    sparse: nn.Module,
    dense: nn.Module,
    masks: Masks,
    examples: Sequence[tuple[Any, Any]],
    run: Run,
    ridge: float = 1e-2,
    progress: Callable[[Sequence], Iterable] = iter,
) -> None:
    """Fit the weights of ``sparse`` that its masks keep, and the biases of their layers, in place.

    Args:
        sparse: a model whose weights are zero where the masks leave them out.
        dense: the same model before it was pruned.
        masks: by name of the weight of a linear layer, "layers.0.fc1.weight".
        examples: what the sparse and the dense model hear at a time, without padding.
        run: a forward pass of a model with its part of an example.
        ridge: as of `refit_masked`.
        progress: goes through a sequence and shows how far it is, such as tqdm.

    Raises:
        ValueError: a layer is not called.
    """
    modules = dict(sparse.named_modules())
    groups = input_groups(sparse, list(masks), examples[0][0], run)
    for group in progress(groups):
        moments, products = paired_moments(sparse, dense, group, examples, run)
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

    def note(name: str, _layer, heard) -> None:
        if any(name in group for group in groups):
            return
        places = [i for i, tensor in enumerate(inputs) if tensor is heard[0]]
        if places:
            groups[places[0]].append(name)
        else:
            inputs.append(heard[0])
            groups.append([name])

    with _hooks(model, names, note, "register_forward_pre_hook"):
        run(model, example)
    missing = sorted(set(names).difference(*groups))
    if missing:
        raise ValueError(f"{missing[0]}: its layer saw no input; it may be called in another way")
    return groups


def paired_moments(
    sparse: nn.Module, dense: nn.Module, names: Sequence[str], examples: Sequence[tuple[Any, Any]], run: Run
) -> tuple[Tensor, dict[str, Tensor]]:
    """Means of products over the positions of all examples, of layers that hear the same input.

    Returns:
        of the inputs in the sparse model and a constant 1 after them (inputs + 1, inputs + 1), and by name of the
        outputs in the dense model with these inputs (outputs, inputs + 1); float64.
    """
    moments, products, positions = 0, dict.fromkeys(names, 0), 0
    for mine, other in examples:
        [x] = heard(sparse, names[:1], mine, run)
        targets = heard(dense, names, other, run, outputs=True)
        x = torch.cat([x, x.new_ones(len(x), 1)], dim=1)
        moments = moments + (x.t() @ x).double()
        positions += len(x)
        for name, target in zip(names, targets):
            products[name] = products[name] + (target.t() @ x).double()
    return moments / positions, {name: product / positions for name, product in products.items()}


class _Enough(Exception):
    """All has been heard that was asked for: the rest of the forward pass is not needed."""


def heard(
    model: nn.Module, names: Sequence[str], example: Any, run: Run, outputs: bool = False
) -> list[Tensor]:
    """Inputs or outputs of layers in a forward pass, which ends with the last of them.

    Returns:
        float32 (positions, inputs or outputs) for each name.
    """
    found: dict[str, Tensor] = {}

    def keep(name: str, _layer, inputs, output=None) -> None:
        found[name] = (output if outputs else inputs[0]).flatten(0, -2).float()
        if len(found) == len(names):
            raise _Enough

    register = "register_forward_hook" if outputs else "register_forward_pre_hook"
    with _hooks(model, names, keep, register), suppress(_Enough):
        run(model, example)
    return [found[name] for name in names]


def _layer(name: str) -> str:
    return name.rpartition(".")[0]


@contextmanager
def _hooks(model: nn.Module, names: Sequence[str], function: Callable, register: str) -> Iterator[None]:
    """Within, the function is called with the name of a weight first whenever its layer is."""
    modules = dict(model.named_modules())
    handles = []
    try:
        for name in names:

            def hook(*arguments, name=name):
                function(name, *arguments)

            handles.append(getattr(modules[_layer(name)], register)(hook))
        yield
    finally:
        for handle in handles:
            handle.remove()
