"""On the CPU: products, which in inference add the bias and apply GELU in the same pass, convolutions, attention.

torch's own float32 `linear` is MKL's, which on some processors takes twice oneDNN's time and on others less; and
`conv1d` keeps channels apart in memory, where products want them side by side. `Kernels` says which of them is
used; `modules.kernels` finds out which is fastest. Nothing is cached, so that weights may change at any time.
In training linear layers and convolutions and their gradients are oneDNN's (`modules.products`), whatever was measured;
attention is torch's. On other devices and on the legacy stack the functions here call torch's.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Optional

import torch
import torch.nn.functional as F
from fairseq.modules import gelu
from torch import Tensor, nn

from fairseq_prune.compat import HAS_ONEDNN_PRODUCTS, cpu_autocast_is_on, is_traced, onednn_has_bfloat16
from fairseq_prune.modules import products
from fairseq_prune.modules.packed_linear import PackedLinear, is_plain
from fairseq_prune.pruning.attention import scored_attention

# rows of one head's softmax that are held at once: memory grows linearly with the frames
QUERY_BLOCK = 512


@dataclass(frozen=True)
class Kernels:
    """Which of several ways of computing the same, up to rounding.

    products: "onednn", or "torch" (MKL).
    convolutions: "onednn", with channels side by side, or "torch".
    attention: (frames, way) in rising order: what is used from so many frames on. "torch" is
        `scaled_dot_product_attention`, "by_head" a head at a time in blocks of queries.
    scored: the same where the attention received is computed too: "at_once" is all heads at a time, "torch" all of
        them in blocks of queries.
    """

    products: str = "onednn"
    convolutions: str = "onednn"
    attention: tuple[tuple[int, str], ...] = ((0, "torch"), (256, "by_head"))
    scored: tuple[tuple[int, str], ...] = ((0, "at_once"), (256, "by_head"))

    def attention_for(self, frames: int, scored: bool) -> str:
        """The way for so many frames."""
        rows = self.scored if scored else self.attention
        return [way for start, way in rows if start <= frames][-1]


VARIABLE = "FAIRSEQ_PRUNE_KERNELS"  # see `modules.kernels`
_kernels: Optional[Kernels] = None if os.environ.get(VARIABLE) == "torch" else Kernels()


def use(kernels: Optional[Kernels]) -> Optional[Kernels]:
    """Use these from now on, and return those before; None: everything goes through torch's own functions."""
    global _kernels
    before, _kernels = _kernels, kernels
    return before


@contextmanager
def using(kernels: Optional[Kernels]) -> Iterator[None]:
    """`use` within a block."""
    before = use(kernels)
    try:
        yield
    finally:
        use(before)


def torchs_own():
    """Within it everything goes through torch's own functions, for comparison."""
    return using(None)


def applies_to(x: Tensor) -> bool:
    """Whether the functions here compute ``x``: on the CPU, in float32 or bfloat16, without gradients."""
    has_type = x.dtype == torch.float32 or (x.dtype == torch.bfloat16 and onednn_has_bfloat16())
    return has_type and not torch.is_grad_enabled() and _is_possible(x)


def trains(x: Tensor) -> bool:
    """Whether ``x`` is computed by oneDNN where gradients are wanted: on the CPU, in float32."""
    return x.dtype == torch.float32 and torch.is_grad_enabled() and x.dim() > 1 and _is_possible(x)


def _is_possible(x: Tensor) -> bool:
    return HAS_ONEDNN_PRODUCTS and x.numel() > 0 and is_chosen_for(x)


def is_chosen_for(x: Tensor) -> bool:
    """Whether other functions than torch's own may compute ``x``, in inference on the CPU."""
    on_cpu = x.device.type == "cpu" and not cpu_autocast_is_on()
    return _kernels is not None and on_cpu and not is_traced()


def packs(weight: Tensor) -> bool:
    """Whether `products.product` is to be used for a weight in its own layout (`modules.packed`)."""
    return applies_to(weight) and _kernels.products == "onednn"


def convolves(x: Tensor) -> bool:
    """Whether `convolution` is to be used for ``x``."""
    return trains(x) or (applies_to(x) and _kernels.convolutions == "onednn")


def linear(layer: nn.Module, x: Tensor, activation: Optional[Callable[[Tensor], Tensor]] = None) -> Tensor:
    """``activation(layer(x))``; a layer that is no plain `nn.Linear`, or has hooks, is called as it is."""
    fused = activation in (gelu, F.gelu)
    if is_plain(layer) and (applies_to(x) or trains(x)) and layer.weight.dtype == x.dtype:
        x = product(x, layer.weight, layer.bias, fused)
    elif type(layer) is PackedLinear:
        x = layer(x, fused)
    else:
        x, fused = layer(x), False
    return x if fused or activation is None else activation(x)


def affine(x: Tensor, weight: Tensor, bias: Optional[Tensor] = None) -> Tensor:
    """`F.linear` of (..., inputs) and (outputs, inputs), with oneDNN's products also where gradients are wanted."""
    if trains(x) and weight.dtype == x.dtype:
        return products.Product.apply(x, weight, bias)
    return F.linear(x, weight, bias)


def product(x: Tensor, weight: Tensor, bias: Optional[Tensor] = None, with_gelu: bool = False) -> Tensor:
    """`F.linear` of (..., inputs) and (outputs, inputs) where `applies_to` or `trains`, and GELU after it."""
    if torch.is_grad_enabled() or _kernels.products == "torch":
        x = affine(x, weight, bias)
        return F.gelu(x) if with_gelu else x
    return products.product(x, weight, bias, with_gelu)


def convolution(
    x: Tensor,
    weight: Tensor,
    bias: Optional[Tensor] = None,
    stride: int = 1,
    padding: int = 0,
    groups: int = 1,
    with_gelu: bool = False,
) -> Tensor:
    """Convolution of (batch, time, channels) with a weight of `nn.Conv1d`, where `convolves`, and GELU after it.

    Returns:
        (batch, time, channels).
    """
    if not torch.is_grad_enabled():
        return products.convolution(x, weight, bias, stride, padding, groups, with_gelu)
    x = products.Convolution.apply(x, weight, bias, stride, padding, groups)
    return F.gelu(x) if with_gelu else x


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

    Long utterances are attended to in blocks of queries; no more of the matrix is held at once.

    Returns:
        output (batch, frames, heads * head_dim), 0 on padding; and the attention received (batch, frames),
        float32: averaged over heads, summed over the valid queries, 0 on padding; None unless ``scored``.
    """
    batch, frames, heads, _ = query.shape
    padded = min(lengths) < frames
    out = torch.zeros_like(query) if padded else torch.empty_like(query)
    received = torch.zeros(batch, frames) if scored else None
    for row, length in enumerate(lengths):
        valid = row, slice(length)
        states = (
            tensor[valid].transpose(0, 1) for tensor in (query, key, value, out)
        )  # (heads, frames, head_dim)
        attend = _ATTEND[_kernels.attention_for(length, scored)]
        attend(*states, None if sizes is None else sizes[valid].float(), received[valid] if scored else None)
    return out.flatten(2), received / heads if scored else None


def _attend_by_torch(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    sizes: Optional[Tensor],
    received: Optional[Tensor],
) -> None:
    query, key, value = query.unsqueeze(0), key.unsqueeze(0), value.unsqueeze(0)
    sizes = None if sizes is None else sizes.unsqueeze(0)
    found, scores = scored_attention(query, key, value, sizes=sizes, scored=received is not None)
    out.copy_(found.squeeze(0))
    if received is not None:
        received += scores.squeeze(0) * len(out)  # a mean over heads, as sums


def _attend_at_once(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    sizes: Optional[Tensor],
    received: Optional[Tensor],
) -> None:
    weights = _softmax(query * query.shape[-1] ** -0.5 @ key.transpose(1, 2), sizes)
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
    for head_query, head_key, head_value, head_out in zip(query * query.shape[-1] ** -0.5, key, value, out):
        head_key, head_value = head_key.contiguous(), head_value.t().contiguous()
        for start in range(0, len(head_query), QUERY_BLOCK):
            rows = slice(start, start + QUERY_BLOCK)
            weights = _softmax(product(head_query[rows], head_key), sizes)
            if received is not None:
                received += _summed_over_queries(weights, None if sizes is None else sizes[rows])
            head_out[rows] = product(weights.to(head_value.dtype), head_value)


_ATTEND = {"torch": _attend_by_torch, "at_once": _attend_at_once, "by_head": _attend_by_head}


def _softmax(logits: Tensor, sizes: Optional[Tensor]) -> Tensor:
    """In float32 also of bfloat16, whose few digits would make importances tie."""
    return (logits if sizes is None else logits + sizes.log().to(logits.dtype)).softmax(
        -1, dtype=torch.float32
    )


def _summed_over_queries(weights: Tensor, sizes: Optional[Tensor]) -> Tensor:
    """(queries, keys) -> (keys,)."""
    return weights.sum(0) if sizes is None else sizes @ weights
