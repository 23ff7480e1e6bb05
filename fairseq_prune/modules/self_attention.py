"""Self-attention of HuBERT and Whisper, which can say how much attention each frame receives."""

from typing import Optional

from torch import Tensor, nn

from fairseq_prune.modules import onednn
from fairseq_prune.pruning.attention import scored_attention


def self_attention(
    attention: nn.Module,
    x: Tensor,
    padding_mask: Optional[Tensor] = None,
    sizes: Optional[Tensor] = None,
    scored: bool = False,
    position_bias: Optional[Tensor] = None,
    dropout: float = 0.0,
) -> tuple[Tensor, Optional[Tensor], Tensor]:
    """What ``attention(x, x, x)`` computes, batch first and without an attention matrix where none is needed.

    Args:
        attention: with `num_heads` and the projections `q_proj`, `k_proj`, `v_proj` and `out_proj`, such as fairseq's.
        x: (batch, frames, dim).
        padding_mask: (batch, frames), True on padding, or None.
        sizes: (batch, frames), how many original frames each merged frame stands for, or None.
        scored: also compute the attention received (gradients do not flow through it).
        position_bias: (batch, heads, frames, frames), added to the logits.
        dropout: of the attention weights; 0 in evaluation.

    Returns:
        output (batch, frames, dim); attention received (batch, frames) or None; keys (batch, heads, frames,
        head_dim).
    """
    batch, frames, _ = x.shape
    heads = attention.num_heads
    query, key, value = (
        onednn.linear(projection, x).view(batch, frames, heads, -1).transpose(1, 2)
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    if position_bias is None and not dropout and onednn.applies_to(x):
        lengths = [frames] * batch if padding_mask is None else (~padding_mask).sum(1).tolist()
        by_frame = (states.transpose(1, 2) for states in (query, key, value))
        out, received = onednn.attention(*by_frame, lengths, sizes, scored)
        return onednn.linear(attention.out_proj, out), received, key
    out, received = scored_attention(query, key, value, padding_mask, sizes, scored, position_bias, dropout)
    out = onednn.linear(attention.out_proj, out.transpose(1, 2).reshape(batch, frames, -1))
    return out, received, key
