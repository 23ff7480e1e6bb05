"""Narrower layers: a Transformer's feed-forward units and attention heads that weigh least, cut out of a state dict."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

_FEED_FORWARD = re.compile(r"((?:encoder|decoder)\.layers\.\d+\.)fc1\.weight")
_ATTENTION = re.compile(r"((?:encoder|decoder)\.layers\.\d+\.\w+_attn\.)q_proj\.weight")


def _largest(importance: Tensor, keep: int, what: str) -> Tensor:
    if not 0 < keep <= len(importance):
        raise ValueError(f"{what}: found {keep}, expected 1 to {len(importance)}")
    return importance.topk(keep).indices.sort().values


def fewer_units(weights: Mapping[str, Tensor], units: int) -> dict[str, Tensor]:
    """Keep as many feed-forward units in each layer: those whose weights have the largest norms.

    The importance of a unit is the product of the L2 norms of its row in ``fc1`` and its column in ``fc2``, to which
    what it adds to the residual is proportional (for an activation such as ReLU).

    Args:
        weights: of a model with layers ``{encoder,decoder}.layers.N.{fc1,fc2}``.
        units: that each layer keeps, in their order.

    Raises:
        ValueError: a layer has not so many, or there is none.
    """
    new = dict(weights)
    for prefix in _prefixes(weights, _FEED_FORWARD):
        first, second = weights[f"{prefix}fc1.weight"], weights[f"{prefix}fc2.weight"]
        kept = _largest(first.float().norm(dim=1) * second.float().norm(dim=0), units, "feed-forward units")
        new[f"{prefix}fc1.weight"], new[f"{prefix}fc2.weight"] = first[kept], second[:, kept]
        new[f"{prefix}fc1.bias"] = weights[f"{prefix}fc1.bias"][kept]
    return new


def fewer_heads(weights: Mapping[str, Tensor], heads: int, head_dim: int) -> dict[str, Tensor]:
    """Keep as many heads in each attention block: those whose weights have the largest norms.

    The importance of a head is the product of the L2 norms of what makes its values and of what carries them out.

    Args:
        weights: of a model with blocks ``{encoder,decoder}.layers.N.*_attn.{q,k,v,out}_proj``; keys need no bias.
        heads: that each block keeps, in their order.
        head_dim: rows of the projections that a head has.

    Raises:
        ValueError: a block has not so many, or there is none.
    """
    new = dict(weights)
    for prefix in _prefixes(weights, _ATTENTION):
        values, out = weights[f"{prefix}v_proj.weight"].float(), weights[f"{prefix}out_proj.weight"].float()
        carried_out = out.unflatten(1, (-1, head_dim)).norm(dim=(0, 2))
        made = values.unflatten(0, (-1, head_dim)).norm(dim=(1, 2))
        kept = _largest(made * carried_out, heads, "attention heads")
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
        new[f"{prefix}out_proj.weight"] = weights[f"{prefix}out_proj.weight"][:, rows]
    return new


def _prefixes(weights, pattern):
    found = [match.group(1) for match in map(pattern.fullmatch, weights) if match]
    if not found:
        raise ValueError(f"expected weights such as {pattern.pattern}, found none")
    return found
