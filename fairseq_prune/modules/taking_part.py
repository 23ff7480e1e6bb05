"""Parameters that a forward pass leaves out, and that shall get a gradient all the same."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def take_part(x: Tensor, parameters: Iterable[nn.Parameter]) -> Tensor:
    """``x`` as it is; its backward pass gives each of the ``parameters`` that are trained a gradient of zeros.

    Layer drop and freezing leave parameters out. torch's DistributedDataParallel, fairseq's default --ddp-backend,
    waits for the gradient of each parameter and would stop. One process does the same as several.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    return _TakePart.apply(x, *trained) if trained and torch.is_grad_enabled() else x


class _TakePart(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, *parameters):
        ctx.parameters = [(parameter.shape, parameter.dtype, parameter.device) for parameter in parameters]
        return x.clone()  # a view of its own could not be written to

    @staticmethod
    def backward(ctx, gradient):
        zeros = {}
        for _, dtype, device in ctx.parameters:
            if (dtype, device) not in zeros:
                zeros[dtype, device] = torch.zeros((), dtype=dtype, device=device)
        # a single number, which the engine spreads out when it writes the gradient
        return gradient, *(zeros[dtype, device].expand(shape) for shape, dtype, device in ctx.parameters)
