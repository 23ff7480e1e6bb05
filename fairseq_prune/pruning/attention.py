"""Softmax attention that says how much of it each frame receives, without a whole attention matrix in memory."""

import math
from typing import Optional

import torch
from torch import Tensor
from torch.nn import functional as F

from .tokens import is_exported

# rows of the softmax that are held at once when attention is scored, on the CPU: they stay in its cache
QUERY_BLOCK = 128
# bytes of them on other devices, which want few large products
BLOCK_BYTES = 256 * 2**20


def query_block(query: Tensor) -> int:
    """Queries that are scored at a time, of (batch, heads, frames, head_dim): memory grows linearly with the frames."""
    if query.device.type == "cpu":
        return QUERY_BLOCK
    batch, heads, frames, _ = query.shape
    return max(QUERY_BLOCK, BLOCK_BYTES // (4 * batch * heads * frames))


def attention_bias(
    padding_mask: Optional[Tensor], sizes: Optional[Tensor], dtype: torch.dtype
) -> Optional[Tensor]:
    """Added to attention logits, (batch, 1, 1, frames) or None: -inf on padding, log size on merged frames.

    A frame that stands for n frames attracts the attention of n (ToMe, arXiv 2210.09461, equation 1).
    """
    if padding_mask is None and sizes is None:
        return None
    if sizes is not None:
        bias = sizes.float().clamp(min=1e-9).log()
    else:
        bias = torch.zeros(padding_mask.shape, device=padding_mask.device)
    if padding_mask is not None:
        bias = bias.masked_fill(padding_mask, -math.inf)
    return bias.to(dtype)[:, None, None]


def attention_and_received(
    query: Tensor,
    key: Tensor,
    value: Optional[Tensor] = None,
    padding_mask: Optional[Tensor] = None,
    block: Optional[int] = None,
    bias: Optional[Tensor] = None,
    sizes: Optional[Tensor] = None,
) -> tuple[Optional[Tensor], Tensor]:
    """Softmax attention in blocks of queries, and how much of it each frame receives.

    Args:
        query, key, value: (batch, heads, frames, head_dim), not scaled. Without a value only the scores are
            computed.
        padding_mask: (batch, frames), True on padding.
        block: queries at a time (default: `query_block`); memory is batch * heads * block * frames.
        bias: (batch, heads, frames, frames), added to the logits.
        sizes: (batch, frames), how many frames each stands for, as key and as query; None is one each.

    Returns:
        attention output (batch, heads, frames, head_dim), None without a value; and the attention received
        (batch, frames), float32: averaged over heads, summed over the valid queries, 0 on padding.
    """
    # autocast would take the sums below in half precision
    with torch.autocast(query.device.type, enabled=False):
        return _attention_and_received(
            query, key, value, padding_mask, block or query_block(query), bias, sizes
        )


def _attention_and_received(
    query: Tensor,
    key: Tensor,
    value: Optional[Tensor],
    padding_mask: Optional[Tensor],
    block: int,
    logit_bias: Optional[Tensor],
    sizes: Optional[Tensor],
) -> tuple[Optional[Tensor], Tensor]:
    batch, heads, frames, head_dim = query.shape
    # scaled once here, not in every block
    query = query * head_dim**-0.5
    key = key.transpose(2, 3)
    bias = attention_bias(padding_mask, sizes, query.dtype)
    weight = torch.ones(batch, frames, device=query.device) if sizes is None else sizes.float()
    if padding_mask is not None:
        weight = weight.masked_fill(padding_mask, 0)
    weight = weight / heads
    received = torch.zeros(batch, frames, device=query.device)
    outputs = []
    exported = is_exported()  # a graph for other lengths, too, which holds no loop over blocks
    block = frames if exported else block
    for start in [0] if exported else range(0, frames, block):
        logits = query[:, :, start : start + block] @ key
        if bias is not None:
            logits += bias
        if logit_bias is not None:
            logits += logit_bias[:, :, start : start + block]
        # in float32 also under fp16 and bf16, whose few digits would make importances tie
        attention = logits.softmax(-1, dtype=torch.float32)
        # summed over queries: the published snippet sums over keys, which gives 1 for every frame
        rows = weight[:, None, start : start + block].repeat(1, 1, heads)
        received += torch.bmm(rows, attention.flatten(1, 2)).squeeze(1).float()
        if value is not None:
            outputs.append(attention.to(value.dtype) @ value)
    return torch.cat(outputs, dim=2) if outputs else None, received


def scored_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    padding_mask: Optional[Tensor] = None,
    sizes: Optional[Tensor] = None,
    scored: bool = False,
    bias: Optional[Tensor] = None,
    dropout: float = 0.0,
) -> tuple[Tensor, Optional[Tensor]]:
    """Softmax attention, without an attention matrix where none is needed, and the attention received if ``scored``.

    Gradients do not flow through the scores.

    Args:
        query, key, value: (batch, heads, frames, head_dim), not scaled.
        padding_mask: (batch, frames), True on padding, or None.
        sizes: (batch, frames), how many frames each merged one stands for, or None.
        bias: (batch, heads, frames, frames), added to the logits.
        dropout: of the attention weights; 0 in evaluation.

    Returns:
        (batch, heads, frames, head_dim); (batch, frames) as of `attention_and_received`, or None.
    """
    if scored and not dropout and not (torch.is_grad_enabled() and query.requires_grad):
        return attention_and_received(query, key, value, padding_mask, bias=bias, sizes=sizes)
    mask = attention_bias(padding_mask, sizes, query.dtype)
    if bias is not None:
        mask = bias if mask is None else bias + mask
    out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
    received = None
    if scored:
        with torch.no_grad():
            _, received = attention_and_received(
                query, key, padding_mask=padding_mask, bias=bias, sizes=sizes
            )
    return out, received
