"""Frames of digital silence, which layer norms turn into gradients without bounds.

A frame whose channels are all equal has no variance: a layer norm divides its gradient by sqrt(1e-5) = 1/316, and the
layers below do the same with what arrives. With weights as they are initialised, biases of 0, that is 316 to the power
of the number of norms: infinity or NaN.
"""

import torch
from torch import Tensor, nn

from fairseq_prune import compat


def rest_in_constant_frames(module: nn.Module) -> None:
    """Let the layer norms within ``module`` send no gradient into frames whose channels are all equal.

    Their direction means nothing: the norm gives the same for each constant. Values and other gradients stay.
    """
    for norm in module.modules():
        if isinstance(norm, nn.LayerNorm) and _stop_gradient not in norm._forward_pre_hooks.values():
            norm.register_forward_pre_hook(_stop_gradient)


def _stop_gradient(norm: nn.Module, inputs: tuple[Tensor]):
    """(..., channels) -> the same values, for the norm alone: a residual connection keeps its gradient."""
    x = inputs[0]
    if not (torch.is_grad_enabled() and x.requires_grad) or compat.is_traced():
        return None
    constant = x.detach()
    x = x.view_as(x)
    x.register_hook(
        lambda gradient: gradient.masked_fill((constant == constant[..., :1]).all(-1, keepdim=True), 0)
    )
    return (x, *inputs[1:])
