"""Narrower layers: a Transformer's feed-forward units and attention heads that matter least, cut out of a state dict.

Units are ranked by the norms of their weights, or by importances that are given, by the name of the matrix after them:
``fc2.weight`` of units, ``out_proj.weight`` of heads.
"""

import re
from collections.abc import Mapping
from typing import Optional

import torch
from torch import Tensor

from .magnitude import Masks

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
) -> dict[str, Tensor]:
    """Keep as many feed-forward units in each layer: the most important ones.

    Args:
        weights: of a model with layers ``{encoder,decoder}.layers.N.{fc1,fc2}``.
        units: that each layer keeps, in their order.
        importances: (units,) of each layer; None: `unit_norms`.

    Raises:
        ValueError: a layer has not so many, or there is none.
    """
    new, importances = dict(weights), importances or unit_norms(weights)
    for prefix in _prefixes(weights, _FEED_FORWARD):
        kept = _kept_units(prefix, units, importances)
        for name in ("fc1.weight", "fc1.bias"):
            new[prefix + name] = weights[prefix + name][kept]
        new[f"{prefix}fc2.weight"] = weights[f"{prefix}fc2.weight"][:, kept]
    return new


def fewer_heads(
    weights: Mapping[str, Tensor],
    heads: int,
    head_dim: int,
    importances: Optional[Mapping[str, Tensor]] = None,
) -> dict[str, Tensor]:
    """Keep as many heads in each attention block: the most important ones.

    Args:
        weights: of a model with blocks ``{encoder,decoder}.layers.N.*_attn.{q,k,v,out}_proj``; keys need no bias.
        heads: that each block keeps, in their order.
        head_dim: rows of the projections that a head has.
        importances: (heads,) of each block; None: `head_norms`.

    Raises:
        ValueError: a block has not so many, or there is none.
    """
    new, importances = dict(weights), importances or head_norms(weights, head_dim)
    for prefix in _prefixes(weights, _ATTENTION):
        rows = _kept_rows(prefix, heads, head_dim, importances)
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


def unit_norms(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The product of the L2 norms of each unit's row in ``fc1`` and its column in ``fc2``, (units,) of each layer.

    What a unit adds to the residual is proportional to it (for an activation such as ReLU).
    """
    found = {}
    for prefix in _prefixes(weights, _FEED_FORWARD):
        first, second = weights[f"{prefix}fc1.weight"].float(), weights[f"{prefix}fc2.weight"].float()
        found[f"{prefix}fc2.weight"] = first.norm(dim=1) * second.norm(dim=0)
    return found


def head_norms(weights: Mapping[str, Tensor], head_dim: int) -> dict[str, Tensor]:
    """The product of the L2 norms of what makes a head's values and what carries them out, (heads,) of each block."""
    found = {}
    for prefix in _prefixes(weights, _ATTENTION):
        values, out = weights[f"{prefix}v_proj.weight"].float(), weights[f"{prefix}out_proj.weight"].float()
        carried_out = out.unflatten(1, (-1, head_dim)).norm(dim=(0, 2))
        found[f"{prefix}out_proj.weight"] = values.unflatten(0, (-1, head_dim)).norm(dim=(1, 2)) * carried_out
    return found


def masks_of_inputs(
    weights: Mapping[str, Tensor],
    units: Optional[int],
    heads: Optional[int],
    head_dim: int,
    importances: Mapping[str, Tensor],
) -> Masks:
    """What `fewer_units` and `fewer_heads` leave of the inputs of the matrices after units and heads, as masks.

    Args:
        units, heads: that stay; None: all.
        importances: of units and heads.

    Returns:
        bool (outputs, inputs), by name of the matrix.
    """
    kept = {}
    for prefix in _prefixes(weights, _FEED_FORWARD) if units is not None else ():
        kept[f"{prefix}fc2.weight"] = _kept_units(prefix, units, importances)
    for prefix in _prefixes(weights, _ATTENTION) if heads is not None else ():
        kept[f"{prefix}out_proj.weight"] = _kept_rows(prefix, heads, head_dim, importances)
    masks = {name: torch.zeros(weights[name].shape, dtype=torch.bool) for name in kept}
    for name, columns in kept.items():
        masks[name][:, columns] = True
    return masks


def _kept_units(prefix: str, units: int, importances: Mapping[str, Tensor]) -> Tensor:
    """The units of a layer that stay."""
    return _largest(importances[f"{prefix}fc2.weight"], units, "feed-forward units")


def _kept_rows(prefix: str, heads: int, head_dim: int, importances: Mapping[str, Tensor]) -> Tensor:
    """The rows of a block's projections that belong to heads that stay."""
    kept = _largest(importances[f"{prefix}out_proj.weight"], heads, "attention heads")
    return (kept[:, None] * head_dim + torch.arange(head_dim)).flatten()


def _prefixes(weights, pattern):
    found = [match.group(1) for match in map(pattern.fullmatch, weights) if match]
    if not found:
        raise ValueError(f"expected weights such as {pattern.pattern}, found none")
    return found
