"""DeltaLM's decoder made ready for generation: fewer and faster products, the same attention as fairseq's."""

from typing import Any, NamedTuple, Optional

import torch
from fairseq.modules import MultiheadAttention
from torch import Tensor, nn
from torch.nn import functional as F

from fairseq_prune.modules.keys_values import KeysValues
from fairseq_prune.modules.packed import packed, require_cpu
from fairseq_prune.modules.packed_linear import is_plain
from fairseq_prune.modules.previewed_output import OutputPreview, PreviewedOutput
from fairseq_prune.pruning.attention import attention_bias

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "out_proj")
FEED_FORWARD = ("fc1", "fc2", "fc3", "fc4")


class Own(NamedTuple):
    """What self-attention keeps: of the tokens so far, (rows, heads, tokens, head dim), and their padding if any."""

    states: KeysValues
    padding: Optional[Tensor]  # (rows, tokens), True on padding


class Memory(NamedTuple):
    """What cross-attention keeps: (sentences, heads, frames, head dim), and how many hypotheses a sentence has."""

    states: KeysValues
    beams: int


class GenerationAttention(nn.Module):
    """What fairseq's attention computes, with its arguments (time first); a step's state lies under the module itself.

    Args:
        attention: of fairseq, whose projections are `packed.is_plain`.
        int8: as of `packed.packed`.
    """

    def __init__(self, attention: MultiheadAttention, int8: bool):
        super().__init__()
        self.num_heads = attention.num_heads
        self.out_proj = packed(attention.out_proj, int8=int8)

    def _split(self, x: Tensor) -> Tensor:
        """(positions, rows, dim) -> (rows, heads, positions, head dim)."""
        return x.unflatten(-1, (self.num_heads, -1)).permute(1, 2, 0, 3)


class GenerationSelfAttention(GenerationAttention):
    """Query, key and value are one product."""

    def __init__(self, attention: MultiheadAttention, int8: bool):
        super().__init__(attention, int8)
        self.in_proj = packed(attention.q_proj, attention.k_proj, attention.v_proj, int8=int8)

    def forward(
        self,
        x: Tensor,
        key: Optional[Tensor] = None,
        value: Optional[Tensor] = None,
        key_padding_mask: Optional[Tensor] = None,
        incremental_state: Optional[dict[Any, Any]] = None,
        attn_mask: Optional[Tensor] = None,
        **unused,
    ) -> tuple[Tensor, None]:
        """x (tokens, rows, dim), after those of the state -> the same shape."""
        query, *states = map(self._split, self.in_proj(x).chunk(3, dim=-1))
        own = KeysValues(*states)
        past = None if incremental_state is None else incremental_state.get(self)
        padding = key_padding_mask
        if past is not None:
            own, padding = past.states.append(own), _appended(past, padding, x.size(0))
        if incremental_state is not None:
            incremental_state[self] = Own(own, padding)
        mask = attention_bias(padding, None, x.dtype)
        if attn_mask is not None:
            mask = attn_mask if mask is None else mask + attn_mask
        found = F.scaled_dot_product_attention(query, *own, mask)
        return self.out_proj(found.permute(2, 0, 1, 3).flatten(2)), None

    def reorder_incremental_state(self, incremental_state: dict[Any, Any], new_order: Tensor) -> None:
        """Called by fairseq when hypotheses change places."""
        own = incremental_state.get(self)
        if own is None:
            return
        rows = own.states.keys.size(0)
        if len(new_order) == rows and torch.equal(new_order, torch.arange(rows, device=new_order.device)):
            return
        padding = None if own.padding is None else own.padding.index_select(0, new_order)
        incremental_state[self] = Own(own.states.select(new_order), padding)


class GenerationCrossAttention(GenerationAttention):
    """Keys and values of the memory are computed once a sentence, whose beams share them."""

    def __init__(self, attention: MultiheadAttention, int8: bool):
        super().__init__(attention, int8)
        self.q_proj = packed(attention.q_proj, int8=int8)
        self.kv_proj = packed(attention.k_proj, attention.v_proj)

    def forward(
        self,
        x: Tensor,
        memory: Tensor,
        value: Optional[Tensor] = None,
        key_padding_mask: Optional[Tensor] = None,
        incremental_state: Optional[dict[Any, Any]] = None,
        need_weights: bool = True,
        need_head_weights: bool = False,
        **unused,
    ) -> tuple[Tensor, Optional[Tensor]]:
        """
        Args:
            x: (tokens, rows, dim).
            memory: (frames, sentences, dim); successive rows, the beams of a sentence, look at one of them.
            key_padding_mask: (sentences, frames), True on padding.

        Returns:
            (tokens, rows, dim); and if needed the weights ([heads,] rows, tokens, frames), else None.
        """
        kept = None if incremental_state is None else incremental_state.get(self)
        if kept is None:
            # every step reads them, and faster side by side in memory
            states = KeysValues(*(self._split(x).contiguous() for x in self.kv_proj(memory).chunk(2, dim=-1)))
            kept = Memory(states, x.size(1) // memory.size(1))
            if incremental_state is not None:
                incremental_state[self] = kept
        states, (tokens, rows, _) = kept.states, x.shape
        query = self.q_proj(x).transpose(0, 1).reshape(states.keys.size(0), -1, x.size(-1))
        # (sentences, heads, beams * tokens, head dim)
        query = query.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        mask = attention_bias(key_padding_mask, None, x.dtype)
        found = F.scaled_dot_product_attention(query, *states, mask)
        found = found.transpose(1, 2).reshape(rows, tokens, -1).transpose(0, 1)
        weights = None
        if need_weights or need_head_weights:
            logits = query * query.shape[-1] ** -0.5 @ states.keys.transpose(2, 3)
            weights = (logits if mask is None else logits + mask).softmax(-1)
            weights = weights.transpose(0, 1).reshape(self.num_heads, rows, tokens, -1)
            weights = weights if need_head_weights else weights.mean(0)
        return self.out_proj(found), weights

    def reorder_incremental_state(self, incremental_state: dict[Any, Any], new_order: Tensor) -> None:
        """Called by fairseq, whose beams change places within their sentences; sentences may leave."""
        memory = incremental_state.get(self)
        if memory is None:
            return
        states, beams = memory
        # as many as there are have stayed where they were: a look at their numbers would wait for the device
        if len(new_order) < states.keys.size(0) * beams:
            sentences = new_order.view(-1, beams)[:, 0] // beams
            incremental_state[self] = Memory(states.select(sentences), beams)


def prepare_for_generation_(
    decoder: nn.Module, int8: bool = False, preview: Optional[OutputPreview] = None
) -> None:
    """Replace a DeltaLM decoder's linear layers by what is fast for few rows, in place; it cannot be trained then.

    Layers that are not plain any more (quantised, or with hooks) stay as they are.

    Args:
        int8: weights of 8 bits, on the CPU, but for the keys and values of the memory, which are computed once a
            sentence, and the embedding of input tokens.
        preview: how the output projection finds the likeliest pieces, on the CPU; None: all pieces in full.

    Raises:
        ValueError: int8 on another device.
    """
    if int8:
        require_cpu(decoder.embed_tokens.weight.device)
    for index in range(len(decoder.layers)):  # iterating would draw the layers that LayerDrop skips
        layer = decoder.layers[index]
        if _is_plain(layer.self_attn):
            layer.self_attn = GenerationSelfAttention(layer.self_attn, int8)
        if _is_plain(layer.encoder_attn):
            layer.encoder_attn = GenerationCrossAttention(layer.encoder_attn, int8)
        for name in FEED_FORWARD:
            if is_plain(getattr(layer, name)):
                setattr(layer, name, packed(getattr(layer, name), int8=int8))
    projection = decoder.output_projection
    if is_plain(projection):
        if preview is not None and projection.weight.device.type == "cpu":
            decoder.output_projection = PreviewedOutput(projection, preview, int8)
        else:
            decoder.output_projection = packed(projection, int8=int8)


def _is_plain(attention: Optional[nn.Module]) -> bool:
    return isinstance(attention, MultiheadAttention) and all(
        is_plain(getattr(attention, p)) for p in PROJECTIONS
    )


def _appended(past: Own, padding: Optional[Tensor], tokens: int) -> Optional[Tensor]:
    """The padding (rows, tokens) of all tokens so far, when some follow."""
    if past.padding is None and padding is None:
        return None
    rows, _, before, _ = past.states.keys.shape
    both = (past.padding, before), (padding, tokens)
    device = past.states.keys.device
    parts = [torch.zeros(rows, n, dtype=torch.bool, device=device) if p is None else p for p, n in both]
    return torch.cat(parts, dim=1)
