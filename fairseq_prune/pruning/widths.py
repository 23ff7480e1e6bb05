"""Narrower layers: a Transformer's feed-forward units and attention heads that matter least, cut out of a state dict.

Units are ranked by the norms of their weights, or by importances that are given. With second moments of the inputs of
the matrix after them, this matrix makes up for what is gone as well as it can (`least_squares.refit`). Importances and
moments are by the name of that matrix: ``fc2.weight`` of units, ``out_proj.weight`` of heads.
"""

import re
from collections.abc import Mapping
from typing import Optional

import torch
from torch import Tensor

from .least_squares import refit

_FEED_FORWARD = re.compile(r"((?:encoder|decoder)\.layers\.\d+\.)fc1\.weight")
_ATTENTION = re.compile(r"((?:encoder|decoder)\.layers\.\d+\.\w+_attn\.)q_proj\.weight")


def _largest(importance: Tensor, keep: int, what: str) -> Tensor:
    if not 0 < keep <= len(importance):
        raise ValueError(f"{what}: found {keep}, expected 1 to {len(importance)}")
    return importance.topk(keep).indices.sort().values


def fewer_units(
    weights: Mapping[str, Tensor],
    units: int,
    importances: Optional[Mapping[str, Tensor]] = None,
    moments: Optional[Mapping[str, Tensor]] = None,
) -> dict[str, Tensor]:
    """Keep as many feed-forward units in each layer: the most important ones.

    By default, the importance of a unit is the product of the L2 norms of its row in ``fc1`` and its column in ``fc2``,
    to which what it adds to the residual is proportional (for an activation such as ReLU).

    Args:
        weights: of a model with layers ``{encoder,decoder}.layers.N.{fc1,fc2}``.
        units: that each layer keeps, in their order.
        importances: (units,) of each layer.
        moments: (units + 1, units + 1) of each layer.

    Raises:
        ValueError: a layer has not so many, or there is none.
    """
    new = dict(weights)
    for prefix in _prefixes(weights, _FEED_FORWARD):
        first, second = weights[f"{prefix}fc1.weight"], weights[f"{prefix}fc2.weight"]
        if importances is None:
            importance = first.float().norm(dim=1) * second.float().norm(dim=0)
        else:
            importance = importances[f"{prefix}fc2.weight"]
        kept = _largest(importance, units, "feed-forward units")
        new[f"{prefix}fc1.weight"], new[f"{prefix}fc1.bias"] = first[kept], weights[f"{prefix}fc1.bias"][kept]
        _keep_inputs(new, f"{prefix}fc2", kept, moments)
    return new


def fewer_heads(
    weights: Mapping[str, Tensor],
    heads: int,
    head_dim: int,
    importances: Optional[Mapping[str, Tensor]] = None,
    moments: Optional[Mapping[str, Tensor]] = None,
) -> dict[str, Tensor]:
    """Keep as many heads in each attention block: the most important ones.

    By default, the importance of a head is the product of the L2 norms of what makes its values and of what carries
    them out.

    Args:
        weights: of a model with blocks ``{encoder,decoder}.layers.N.*_attn.{q,k,v,out}_proj``; keys need no bias.
        heads: that each block keeps, in their order.
        head_dim: rows of the projections that a head has.
        importances: (heads,) of each block.
        moments: (heads * head_dim + 1, heads * head_dim + 1) of each block.

    Raises:
        ValueError: a block has not so many, or there is none.
    """
    new = dict(weights)
    for prefix in _prefixes(weights, _ATTENTION):
        values, out = weights[f"{prefix}v_proj.weight"].float(), weights[f"{prefix}out_proj.weight"].float()
        if importances is None:
            carried_out = out.unflatten(1, (-1, head_dim)).norm(dim=(0, 2))
            importance = values.unflatten(0, (-1, head_dim)).norm(dim=(1, 2)) * carried_out
        else:
            importance = importances[f"{prefix}out_proj.weight"]
        kept = _largest(importance, heads, "attention heads")
        rows = (kept[:, None] * head_dim + torch.arange(head_dim)).flatten()
        for name in (
            "q_proj.weight",
            "q_proj.bias",
            "k_proj.weight",
            "k_proj.bias",
            "v_proj.weight",
            "v_proj.bias",
        ):
            if prefix + name in weights:
                new[prefix + name] = weights[prefix + name][rows]
        _keep_inputs(new, f"{prefix}out_proj", rows, moments)
    return new


def _keep_inputs(
    weights: dict[str, Tensor], layer: str, kept: Tensor, moments: Optional[Mapping[str, Tensor]]
) -> None:
    """Leave a linear layer some of its inputs."""
    name, bias = f"{layer}.weight", f"{layer}.bias"
    if moments is None:
        weights[name] = weights[name][:, kept]
    else:
        weights[name], weights[bias] = refit(weights[name], weights[bias], moments[name], kept)


def _prefixes(weights, pattern):
    found = [match.group(1) for match in map(pattern.fullmatch, weights) if match]
    if not found:
        raise ValueError(f"expected weights such as {pattern.pattern}, found none")
    return found
