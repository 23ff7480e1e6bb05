"""What a linear layer can do with fewer inputs or weights: how much each adds, and what makes up for those that go.

``moments`` are means of products of a layer's inputs and a constant 1 after them (`layer_inputs.InputMoments`).
"""

from typing import Optional

import torch
from torch import Tensor


def block_energy(weight: Tensor, moments: Tensor, block: int = 1) -> Tensor:
    """The mean square of what each block of inputs adds to the output, summed over outputs.

    Args:
        weight: (outputs, inputs).
        moments: (inputs + 1, inputs + 1).
        block: successive inputs that stay or go together, such as those of a head.

    Returns:
        float64 (inputs / block,).
    """
    columns = weight.double().unflatten(1, (-1, block)).transpose(0, 1)  # (blocks, outputs, block)
    places = torch.arange(weight.size(1), device=weight.device).view(-1, block)
    within = moments.to(weight.device)[places[:, :, None], places[:, None, :]]  # (blocks, block, block)
    return torch.einsum("nob,nbc,noc->n", columns, within, columns)


def refit_masked(
    weight: Tensor,
    bias: Optional[Tensor],
    moments: Tensor,
    products: Tensor,
    mask: Tensor,
    ridge: float = 1e-2,
    steps: int = 100,
) -> tuple[Tensor, Optional[Tensor]]:
    """Weights under a mask, and a bias, whose output is nearest to a target, in mean squares.

    By conjugate gradients for all outputs at once, from the weights that there are: a factorization would be needed for
    each output, as each keeps other weights. Every step brings the output nearer, so that few are enough.

    Args:
        weight: (outputs, inputs).
        bias: (outputs,), or None for a layer without.
        moments: (inputs + 1, inputs + 1).
        products: (outputs, inputs + 1), means of products of the target with the inputs and a constant 1.
        mask: bool (outputs, inputs), False where a weight is to be zero.
        ridge: how much a change of the weights is held against it, relative to the mean square of the inputs.
        steps: at most so many.

    Returns:
        (outputs, inputs) and (outputs,), of the types of weight and bias.
    """
    free = torch.cat([mask, mask.new_full((len(mask), 1), bias is not None)], dim=1)
    offset = weight.new_zeros(len(weight)) if bias is None else bias
    solution = torch.cat([weight, offset[:, None]], dim=1).double() * free
    moments, products = moments.to(solution), products.to(solution)
    scale = moments.diagonal()[:-1].mean()
    penalty = ridge * scale * torch.ones_like(moments.diagonal())
    penalty[-1] = 0  # the bias may take any value
    quadratic = moments + penalty.diag()
    tiny = torch.finfo(torch.float64).tiny
    diagonal = quadratic.diagonal().clamp(min=tiny)
    residual = (products - solution @ moments) * free
    direction = residual / diagonal
    energy = (residual * direction).sum(1, keepdim=True)
    enough = 1e-10 * energy  # a residual of a hundred thousandth
    for _ in range(steps):
        if bool((energy <= enough).all()):
            break
        curved = (direction @ quadratic) * free
        length = energy / (direction * curved).sum(1, keepdim=True).clamp(min=tiny)
        solution += length * direction
        residual -= length * curved
        scaled = residual / diagonal
        before, energy = energy, (residual * scaled).sum(1, keepdim=True)
        direction = scaled + energy / before.clamp(min=tiny) * direction
    return solution[:, :-1].to(weight.dtype), None if bias is None else solution[:, -1].to(bias.dtype)
