"""Cutting channels, heads and units out of modules: the same function on what is left, in smaller matrices.

Everywhere, ``outputs``, ``inputs``, ``channels``, ``heads`` and ``units`` are tensors of the indices that stay, in
order; None keeps all. ``scale`` are factors of the inputs that stay, such as the values of their gates; they are
multiplied into the weights.
"""

from typing import Optional

import torch
from torch import Tensor, nn


def cut_weight(
    weight: Tensor, outputs: Optional[Tensor], inputs: Optional[Tensor], scale: Optional[Tensor] = None
) -> Tensor:
    """(outputs, inputs, ...) -> the same with fewer of both."""
    if outputs is not None:
        weight = weight.index_select(0, outputs)
    if inputs is not None:
        weight = weight.index_select(1, inputs)
    if scale is not None:
        weight = weight * scale.to(weight.dtype).view(-1, *[1] * (weight.dim() - 2))
    return weight


@torch.no_grad()
def cut_linear(
    linear: nn.Linear,
    outputs: Optional[Tensor] = None,
    inputs: Optional[Tensor] = None,
    scale: Optional[Tensor] = None,
) -> nn.Linear:
    """A linear map of fewer inputs or outputs."""
    weight = cut_weight(linear.weight, outputs, inputs, scale)
    bias = linear.bias if outputs is None or linear.bias is None else linear.bias[outputs]
    small = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    return _with_parameters(small, weight, bias)


@torch.no_grad()
def cut_conv1d(
    conv: nn.Conv1d,
    outputs: Optional[Tensor] = None,
    inputs: Optional[Tensor] = None,
    scale: Optional[Tensor] = None,
) -> nn.Conv1d:
    """A convolution of fewer channels.

    Raises:
        ValueError: it has groups.
    """
    if conv.groups != 1:
        raise ValueError(f"cutting a convolution: found {conv.groups} groups, expected 1")
    weight = cut_weight(conv.weight, outputs, inputs, scale)
    bias = conv.bias if outputs is None or conv.bias is None else conv.bias[outputs]
    small = nn.Conv1d(
        weight.shape[1],
        weight.shape[0],
        conv.kernel_size,
        conv.stride,
        conv.padding,
        conv.dilation,
        bias=bias is not None,
        padding_mode=conv.padding_mode,
        device="meta",
    )
    return _with_parameters(small, weight, bias)


@torch.no_grad()
def cut_heads(
    query: nn.Linear,
    key: nn.Linear,
    value: nn.Linear,
    out: nn.Linear,
    heads: Tensor,
    head_dim: int,
    scale: Tensor,
) -> tuple[nn.Linear, nn.Linear, nn.Linear, nn.Linear]:
    """The four projections of an attention, of fewer heads of ``head_dim``; ``scale``: (heads,)."""
    rows = (heads.unsqueeze(1) * head_dim + torch.arange(head_dim, device=heads.device)).flatten()
    projections = (cut_linear(projection, outputs=rows) for projection in (query, key, value))
    return (*projections, cut_linear(out, inputs=rows, scale=scale.repeat_interleave(head_dim)))


@torch.no_grad()
def cut_units(
    first: nn.Linear, second: nn.Linear, units: Tensor, scale: Tensor
) -> tuple[nn.Linear, nn.Linear]:
    """The two linear maps of a feed-forward block, with fewer units between; ``scale``: (units,)."""
    return cut_linear(first, outputs=units), cut_linear(second, inputs=units, scale=scale)


def _with_parameters(module: nn.Module, weight: Tensor, bias: Optional[Tensor]) -> nn.Module:
    module.weight = nn.Parameter(weight.detach().clone())
    if bias is not None:
        module.bias = nn.Parameter(bias.detach().clone())
    return module
