"""Layers of Whisper (Radford et al. 2022, arXiv 2212.04356): pre-norm Transformer layers, batch first."""

from typing import Optional

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fairseq_prune.modules import onednn
from fairseq_prune.modules.keys_values import KeysValues
from fairseq_prune.modules.output_bias import OutputBias
from fairseq_prune.modules.self_attention import self_attention


class WhisperAttention(nn.Module):
    """Multi-head attention; the projection of keys has no bias, which softmax would cancel.

    Without heads, which pruning may have taken, it gives its output bias everywhere.
    """

    def __init__(self, dim: int, heads: int, head_dim: int = 0, dropout: float = 0.0):
        super().__init__()
        if not head_dim and dim % heads:
            raise ValueError(f"--embed-dim must be a multiple of --attention-heads, found {dim} and {heads}")
        self.num_heads, self.head_dim, self.dropout = heads, head_dim or dim // heads, dropout
        self.in_proj: Optional[nn.Module] = None  # of `packing`: queries, keys and values in one product
        if not heads:
            self.out_proj = OutputBias(dim)
            return
        inner = self.num_heads * self.head_dim
        self.q_proj = nn.Linear(dim, inner)
        self.k_proj = nn.Linear(dim, inner, bias=False)
        self.v_proj = nn.Linear(dim, inner)
        self.out_proj = nn.Linear(inner, dim)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)

    def keys_values(self, x: Tensor) -> KeysValues:
        """Of (batch, positions, dim)."""
        if not self.num_heads:
            nothing = x.new_empty(len(x), 0, x.size(1), self.head_dim)
            return KeysValues(nothing, nothing)
        return KeysValues(*(self._split(onednn.linear(part, x)) for part in (self.k_proj, self.v_proj)))

    def queries(self, x: Tensor) -> Tensor:
        """(batch, positions, dim) -> (batch, positions, heads * head dim)."""
        return onednn.linear(self.q_proj, x) if self.num_heads else x

    def project(self, x: Tensor) -> tuple[Tensor, KeysValues]:
        """`queries` and `keys_values` of the same (batch, positions, dim)."""
        if self.in_proj is None:
            states = self.keys_values(x)
            return self.queries(x), states
        queries, keys, values = self.in_proj(x).chunk(3, dim=-1)
        return queries, KeysValues(self._split(keys), self._split(values))

    def forward(
        self, x: Tensor, memory: KeysValues, mask: Optional[Tensor] = None, causal: bool = False
    ) -> Tensor:
        """What ``x`` (rows, queries, dim) finds in ``memory``; arguments as of `find`."""
        return self.find(self.queries(x), memory, mask, causal)

    def find(
        self, x: Tensor, memory: KeysValues, mask: Optional[Tensor] = None, causal: bool = False
    ) -> Tensor:
        """What queries find in ``memory``.

        Args:
            x: (rows, queries, heads * head dim). Rows may be a multiple of the memory's batch: so many successive
                ones, the beams of a sentence, then look at one entry of it.
            mask: (batch, 1, 1, positions), True where one may look, or added to the logits; or None.
            causal: query i looks at positions up to i.

        Returns:
            (rows, queries, dim).
        """
        rows, queries, _ = x.shape
        if not self.num_heads:
            return self.out_proj().expand(rows, queries, -1)
        x = x.reshape(len(memory.keys), -1, x.size(-1))  # the beams of a sentence side by side
        x = F.scaled_dot_product_attention(
            self._split(x), *memory, mask, self.dropout if self.training else 0.0, is_causal=causal
        )
        return onednn.linear(self.out_proj, x.transpose(1, 2).reshape(rows, queries, -1))


def norm_of(dim: int, size: int) -> Optional[nn.LayerNorm]:
    """Before a block of so many heads or units."""
    return nn.LayerNorm(dim) if size else None


class WhisperLayer(nn.Module):
    """What encoder and decoder layers share: self-attention and a feed-forward block.

    A block without heads or units adds its output bias, and has no layer norm.
    """

    def __init__(
        self,
        dim: int,
        ffn_dim: int,
        heads: int,
        head_dim: int = 0,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        activation_dropout: float = 0.0,
    ):
        super().__init__()
        self.dropout, self.activation_dropout, self.units = dropout, activation_dropout, ffn_dim
        self.self_attn = WhisperAttention(dim, heads, head_dim, attention_dropout)
        self.self_attn_layer_norm = norm_of(dim, heads)
        self.fc1 = nn.Linear(dim, ffn_dim) if ffn_dim else None
        self.fc2 = nn.Linear(ffn_dim, dim) if ffn_dim else OutputBias(dim)
        self.final_layer_norm = norm_of(dim, ffn_dim)

    def add(self, residual: Tensor, x: Tensor) -> Tensor:
        """The residual connection, with dropout."""
        return residual + F.dropout(x, self.dropout, self.training)

    def feed_forward(self, x: Tensor) -> Tensor:
        """(batch, positions, dim) -> the same shape."""
        if self.fc1 is None:
            return self.add(x, self.fc2())
        inner = onednn.linear(self.fc1, self.final_layer_norm(x), F.gelu)
        return self.add(x, onednn.linear(self.fc2, F.dropout(inner, self.activation_dropout, self.training)))


class WhisperEncoderLayer(WhisperLayer):
    """Self-attention, feed-forward."""

    def forward(self, x: Tensor) -> Tensor:
        """(batch, frames, dim) -> the same shape."""
        return self.feed_forward(self.attend(x)[0])

    def attend(
        self,
        x: Tensor,
        padding_mask: Optional[Tensor] = None,
        sizes: Optional[Tensor] = None,
        scored: bool = False,
    ) -> tuple[Tensor, Optional[Tensor], Optional[Tensor]]:
        """The layer up to its feed-forward block; arguments and what else is returned as of `self_attention`.

        Without heads, nothing else is returned.
        """
        attention = self.self_attn
        if not attention.num_heads:
            return self.add(x, attention.out_proj()), None, None
        dropout = attention.dropout if self.training else 0.0
        attended, received, keys = self_attention(
            attention, self.self_attn_layer_norm(x), padding_mask, sizes, scored, dropout=dropout
        )
        return self.add(x, attended), received, keys


class WhisperDecoderLayer(WhisperLayer):
    """Self-attention, cross-attention, feed-forward."""

    def __init__(self, dim: int, ffn_dim: int, heads: int, cross_heads: int, **others):
        super().__init__(dim, ffn_dim, heads, **others)
        own = self.self_attn
        self.encoder_attn = WhisperAttention(dim, cross_heads, own.head_dim, own.dropout)
        self.encoder_attn_layer_norm = norm_of(dim, cross_heads)

    def forward(
        self, x: Tensor, memory: KeysValues, mask: Optional[Tensor] = None, past: Optional[KeysValues] = None
    ) -> tuple[Tensor, KeysValues]:
        """
        Args:
            x: (rows, tokens, dim), the tokens after those of ``past``.
            memory: keys and values of the encoder's output, as of ``encoder_attn.keys_values``.
            mask: (batch, 1, 1, frames), True where one may look, or None.
            past: keys and values of the tokens before, or None.

        Returns:
            (rows, tokens, dim), and the keys and values of all tokens so far.
        """
        normed = self.self_attn_layer_norm(x) if self.self_attn_layer_norm is not None else x
        queries, own = self.self_attn.project(normed)
        tokens, before = x.size(1), 0 if past is None else past.keys.size(2)
        if past is not None:
            own = past.append(own)
        continued = None
        if before and tokens > 1:  # where torch's causal mask would begin at the first key
            continued = x.new_ones(tokens, before + tokens, dtype=torch.bool).tril(before)
        x = self.add(x, self.self_attn.find(queries, own, continued, causal=not before and tokens > 1))
        normed = self.encoder_attn_layer_norm(x) if self.encoder_attn_layer_norm is not None else x
        x = self.add(x, self.encoder_attn(normed, memory, mask))
        return self.feed_forward(x), own
