"""Deep copies of modules that keep a tensor with a history."""

import copy

from torch import Tensor, nn


def copy_without_history(module: nn.Module, memo: dict) -> nn.Module:
    """What ``module.__deepcopy__(memo)`` returns; to be used by classes with weight norm in them.

    Weight norm keeps its product as a plain attribute and makes it anew in every forward pass. That tensor has a
    history, which `copy.deepcopy` refuses. fairseq copies the model for its moving average (--store-ema).
    """
    for part in module.modules():
        for value in vars(part).values():
            if isinstance(value, Tensor) and value.grad_fn is not None:
                memo[id(value)] = value.detach().clone()
    memo[id(module)] = copied = module.__class__.__new__(module.__class__)
    copied.__dict__.update(copy.deepcopy(module.__dict__, memo))
    return copied
