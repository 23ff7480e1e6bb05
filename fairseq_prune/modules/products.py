"""oneDNN's products and convolutions on the CPU, in float32 also with gradients; `modules.onednn` says where.

torch's own gradients of a convolution keep channels apart in memory. Those of HuBERT base's extractor take 1.8 times as
long as these with AVX-512 and 1.4 times with AVX2, those of its positional convolution twice and 1.7 times.
"""

from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

# taps of a convolution with stride 1 whose weights get their gradients in one product
TAPS = 32


def product(x: Tensor, weight: Tensor, bias: Optional[Tensor] = None, with_gelu: bool = False) -> Tensor:
    """`F.linear` of (..., inputs) and (outputs, inputs), which may be transposed, and GELU after it in the same pass.

    A weight with gaps between its rows is slow: oneDNN has no good code for it.
    """
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, *_post_operation(with_gelu))


def convolution(
    x: Tensor, weight: Tensor, bias: Optional[Tensor], stride: int, padding: int, groups: int, with_gelu: bool
) -> Tensor:
    """(batch, time, channels) by a weight of `nn.Conv1d`, returned as such, and GELU after it in the same pass."""
    sizes = [0, padding], [1, stride], [1, 1], groups
    x = torch.ops.mkldnn._convolution_pointwise(
        _image(x), _image_weight(weight), bias, *sizes, *_post_operation(with_gelu)
    )
    return x.squeeze(2).transpose(1, 2)


def _post_operation(with_gelu: bool) -> tuple[str, list, str]:
    return ("gelu", [], "none") if with_gelu else ("none", [], "")  # "none": not approximated


def _image(x: Tensor) -> Tensor:
    """(batch, time, channels) -> (batch, channels, 1, time), channels side by side in memory."""
    return x.transpose(1, 2).unsqueeze(2)


def _image_weight(weight: Tensor) -> Tensor:
    return weight.unsqueeze(2).contiguous(memory_format=torch.channels_last)


class Product(torch.autograd.Function):
    """The three products of a linear map and its gradients. oneDNN takes transposed matrices as they lie."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Optional[Tensor]) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Optional[Tensor], ...]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        given, inputs = gradient.reshape(-1, gradient.shape[-1]), x.reshape(-1, x.shape[-1])
        weights = None
        if of_weight:
            # oneDNN copies the first matrix if it is transposed, and autograd a gradient that lies transposed
            if given.numel() <= inputs.numel() + weight.numel():
                weights = product(given.t(), inputs.t())
            else:
                weights = product(inputs.t(), given.t()).t()
        return (
            product(gradient, weight.t()) if of_x else None,
            weights,
            given.sum(0) if of_bias else None,
        )


class Convolution(torch.autograd.Function):
    """`convolution` and its gradients, of which that of the weight is some products."""

    @staticmethod
    def forward(
        ctx, x: Tensor, weight: Tensor, bias: Optional[Tensor], stride: int, padding: int, groups: int
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.sizes = stride, padding, groups
        return convolution(x, weight, bias, stride, padding, groups, False)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Optional[Tensor], ...]:
        x, weight = ctx.saved_tensors
        stride, padding, groups = ctx.sizes
        of_x, of_weight, of_bias = ctx.needs_input_grad[:3]
        gradient = gradient.contiguous()
        inner = None
        if of_x:
            sizes = [1, stride], [0, padding], [1, 1], False, [0, 0], groups, [True, False, False]
            inner = torch.ops.aten.convolution_backward(
                _image(gradient), _image(x), _image_weight(weight), None, *sizes
            )[0]
            inner = inner.squeeze(2).transpose(1, 2)
        return (
            inner,
            gradient_of_taps(x, gradient, weight.shape[2], stride, padding, groups) if of_weight else None,
            gradient.sum((0, 1)) if of_bias else None,
            *[None] * 3,
        )


def gradient_of_taps(
    x: Tensor, gradient: Tensor, kernel: int, stride: int = 1, padding: int = 0, groups: int = 1
) -> Tensor:
    """The gradient of the weight of a `convolution`, several taps in one product.

    Args:
        x: (batch, time, inputs), what was convolved.
        gradient: (batch, steps, outputs), of what it gave.

    Returns:
        (outputs, inputs / groups, kernel).
    """
    x = F.pad(x, (0, 0, padding, padding)) if padding else x
    batch, steps, outputs = gradient.shape
    block = stride if stride > 1 else min(TAPS, kernel)
    total = x.new_zeros(groups, outputs // groups, kernel, x.shape[2] // groups)
    for row in range(batch):
        for group, (inputs, given) in enumerate(zip(x[row].chunk(groups, 1), gradient[row].chunk(groups, 1))):
            given = given.t().contiguous()
            for start in range(0, kernel, block):
                taps = min(block, kernel - start)
                windows = inputs[start:].unfold(0, taps, stride)[:steps]  # (steps, inputs, taps)
                windows = windows.transpose(1, 2).reshape(steps, -1).contiguous()  # without gaps
                found = product(given, windows.t())
                total[group, :, start : start + taps] += found.view(len(given), taps, -1)
    return total.flatten(0, 1).transpose(1, 2)
