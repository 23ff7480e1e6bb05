"""Inference on the CPU with oneDNN's products, which add the bias and apply GELU in the same pass.

torch's own float32 `linear` is MKL's, which on AMD's processors takes twice the time; and `conv1d` keeps channels
apart in memory, where oneDNN wants them side by side. Nothing is cached, so that weights may change at any time.
There are no gradients: where these are wanted, on other devices and on the legacy stack, the functions here call
torch's.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Optional

import torch
import torch.nn.functional as F
from fairseq.modules import gelu
from torch import Tensor, nn
from torch.nn.utils.weight_norm import WeightNorm

from fairseq_prune.compat import HAS_ONEDNN_PRODUCTS, cpu_autocast_is_on, is_traced, onednn_has_bfloat16

# from as many frames on, attention head by head is faster than all heads at once, and than torch's own
ATTENTION_FRAMES = 256
# rows of one head's softmax that are held at once: memory grows linearly with the frames
QUERY_BLOCK = 512

_enabled = True


@contextmanager
def torchs_own() -> Iterator[None]:
    """Within it everything goes through torch's own functions, for comparison."""
    global _enabled
    before, _enabled = _enabled, False
    try:
        yield
    finally:
        _enabled = before


def applies_to(x: Tensor) -> bool:
    """Whether products with ``x`` go to oneDNN: on the CPU, in float32 or bfloat16, without gradients."""
    if not _enabled or x.device.type != "cpu" or torch.is_grad_enabled() or not HAS_ONEDNN_PRODUCTS:
        return False
    if x.dtype == torch.bfloat16:
        if not onednn_has_bfloat16():
            return False
    elif x.dtype != torch.float32:
        return False
    return x.numel() > 0 and not cpu_autocast_is_on() and not is_traced()


def linear(layer: nn.Module, x: Tensor, activation: Optional[Callable[[Tensor], Tensor]] = None) -> Tensor:
    """``activation(layer(x))``; a layer that is no plain `nn.Linear`, or has hooks, is called as it is."""
    plain = type(layer) is nn.Linear and not layer._forward_hooks and not layer._forward_pre_hooks
    if not (plain and applies_to(x) and layer.weight.dtype == x.dtype):
        x = layer(x)
        return x if activation is None else activation(x)
    fused = activation in (gelu, F.gelu)
    x = product(x, layer.weight, layer.bias, fused)
    return x if fused or activation is None else activation(x)


def product(x: Tensor, weight: Tensor, bias: Optional[Tensor] = None, with_gelu: bool = False) -> Tensor:
    """`F.linear` of (..., inputs) and (outputs, inputs) where `applies_to`, and GELU after it."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, *_post_operation(with_gelu))


def convolution(
    x: Tensor,
    weight: Tensor,
    bias: Optional[Tensor] = None,
    stride: int = 1,
    padding: int = 0,
    groups: int = 1,
    with_gelu: bool = False,
) -> Tensor:
    """Convolution of (batch, time, channels) with a weight of `nn.Conv1d`, where `applies_to`, and GELU after it.

    Returns:
        (batch, time, channels).
    """
    x = x.transpose(1, 2).unsqueeze(2)  # (batch, channels, 1, time), channels side by side in memory
    weight = weight.unsqueeze(2).contiguous(memory_format=torch.channels_last)
    sizes = [0, padding], [1, stride], [1, 1], groups
    x = torch.ops.mkldnn._convolution_pointwise(x, weight, bias, *sizes, *_post_operation(with_gelu))
    return x.squeeze(2).transpose(1, 2)


def _post_operation(with_gelu: bool) -> tuple[str, list, str]:
    return ("gelu", [], "none") if with_gelu else ("none", [], "")  # "none": not approximated


def folded_weight(conv: nn.Conv1d) -> Optional[Tensor]:
    """The weight of a convolution with or without weight norm; None if it is no plain one, or has other hooks."""
    hooks = [*conv._forward_hooks.values(), *conv._forward_pre_hooks.values()]
    if type(conv) is not nn.Conv1d or not all(isinstance(hook, WeightNorm) for hook in hooks):
        return None
    for hook in hooks:
        return hook.compute_weight(conv)
    return conv.weight


def channels_last_(module: nn.Module) -> None:
    """Lay the weights of convolutions out as `convolution` wants them, which else copies them at every call."""
    for conv in module.modules():
        if isinstance(conv, nn.Conv1d) and not conv._forward_pre_hooks:
            weight = conv.weight.data.unsqueeze(2).contiguous(memory_format=torch.channels_last)
            conv.weight.data = weight.squeeze(2)


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    lengths: Sequence[int],
    sizes: Optional[Tensor] = None,
    scored: bool = False,
) -> tuple[Tensor, Optional[Tensor]]:
    """Softmax attention by utterance, where `applies_to`; padding costs nothing.

    Args:
        query, key, value: (batch, frames, heads, head_dim), not scaled.
        lengths: valid frames of each utterance.
        sizes: (batch, frames), how many frames each stands for, as key and as query; None is one each.
        scored: also compute the attention received.

    Long utterances are attended to head by head and in blocks of queries; no more of the matrix is held at once.

    Returns:
        output (batch, frames, heads * head_dim), 0 on padding; and the attention received (batch, frames),
        float32: averaged over heads, summed over the valid queries, 0 on padding; None unless ``scored``.
    """
    batch, frames, heads, head_dim = query.shape
    query = query * head_dim**-0.5
    out = torch.zeros_like(query) if min(lengths) < frames else torch.empty_like(query)
    received = torch.zeros(batch, frames) if scored else None
    for row, length in enumerate(lengths):
        valid = row, slice(length)
        states = (
            tensor[valid].transpose(0, 1) for tensor in (query, key, value, out)
        )  # (heads, frames, head_dim)
        attend = _attend_by_head if length >= ATTENTION_FRAMES else _attend_at_once
        attend(*states, None if sizes is None else sizes[valid].float(), received[valid] if scored else None)
    return out.flatten(2), received / heads if scored else None


def _attend_at_once(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    sizes: Optional[Tensor],
    received: Optional[Tensor],
) -> None:
    weights = _softmax(query @ key.transpose(1, 2), sizes)
    if received is not None:
        received += _summed_over_queries(weights.sum(0), sizes)
    out.copy_(weights.to(value.dtype) @ value)


def _attend_by_head(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    sizes: Optional[Tensor],
    received: Optional[Tensor],
) -> None:
    for head_query, head_key, head_value, head_out in zip(query, key, value, out):
        head_key, head_value = head_key.contiguous(), head_value.t().contiguous()
        for start in range(0, len(head_query), QUERY_BLOCK):
            rows = slice(start, start + QUERY_BLOCK)
            weights = _softmax(product(head_query[rows], head_key), sizes)
            if received is not None:
                received += _summed_over_queries(weights, None if sizes is None else sizes[rows])
            head_out[rows] = product(weights.to(head_value.dtype), head_value)


def _softmax(logits: Tensor, sizes: Optional[Tensor]) -> Tensor:
    """In float32 also of bfloat16, whose few digits would make importances tie."""
    return (logits if sizes is None else logits + sizes.log().to(logits.dtype)).softmax(
        -1, dtype=torch.float32
    )


def _summed_over_queries(weights: Tensor, sizes: Optional[Tensor]) -> Tensor:
    """(queries, keys) -> (keys,)."""
    return weights.sum(0) if sizes is None else sizes @ weights
