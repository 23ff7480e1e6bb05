"""Encoder layers of transformers that drop frames between their attention and their feed-forward block.

Each class is one of the library's with another `forward`; parameters and their names stay. A layer takes the class on
and off in place (`tokens.prune_tokens`).
"""

from functools import cache
from importlib import import_module
from typing import Any, Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairseq_prune.adapters.transformers.pruner import Pruner
from fairseq_prune.modules.frames import Frames
from fairseq_prune.pruning.attention import scored_attention

WAVLM_GATES = (
    2,
    4,
)  # update and reset gate of a head, each the sum of as many outputs (arXiv 2110.13900, eq. 5)


class _Layer:
    """A layer that follows a `Pruner`; the host's class comes after it.

    Modifications: the mask is that of the frames that are left; a layer that drops frames, or attends to merged ones,
    computes its attention here.
    """

    pruner: Pruner
    index: int
    attention_name = "attention"

    def forward(self, hidden_states: Tensor, attention_mask: Optional[Tensor] = None, **kwargs) -> Any:
        """(batch, frames, dim) -> (batch, frames that are left, dim)."""
        frames = self.pruner.enter(self.index, hidden_states)
        prunes = self.pruner.prunes(self.index, frames)
        if not prunes and frames.sizes is None:
            attention_mask = self.pruner.mask(frames, attention_mask, hidden_states.dtype)
            return super().forward(hidden_states, attention_mask=attention_mask, **kwargs)
        attention = getattr(self, self.attention_name)
        x = self._before_attention(hidden_states)
        scored = prunes and self.pruner.pruning.rule.reads_attention
        x, received, keys = self._attend(attention, x, frames, scored, **kwargs)
        residual = hidden_states + self._dropout(x)
        frames.x = self._after_attention(residual)
        if prunes:
            self.pruner.training = self.training
            self.pruner.drop_frames(self.index, frames, received, keys, residual)
            self.pruner.leave(self.index, frames)
        return self._output(self._feed(frames.x), frames, prunes, **kwargs)

    def _before_attention(self, x: Tensor) -> Tensor:
        return x

    def _after_attention(self, x: Tensor) -> Tensor:
        return x

    def _dropout(self, x: Tensor) -> Tensor:
        return self.dropout(x)

    def _attend(self, attention, x: Tensor, frames: Frames, scored: bool, bias=None, **unused):
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        query, key, value = (
            projection(x).unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
            for projection in projections
        )
        dropout = attention.dropout if attention.training else 0.0
        x, received = scored_attention(
            query, key, value, frames.padding_mask, frames.sizes, scored, bias, dropout
        )
        return attention.out_proj(x.transpose(1, 2).flatten(2)), received, key

    def _output(self, x: Tensor, frames: Frames, dropped: bool, **unused) -> Any:
        return x


class PostNorm(_Layer):
    """HuBERT base and its relatives: a norm after each block."""

    def _after_attention(self, x):
        return self.layer_norm(x)

    def _feed(self, x):
        return self.final_layer_norm(x + self.feed_forward(x))


class PreNorm(_Layer):
    """HuBERT large and its relatives: a norm before each block."""

    def _before_attention(self, x):
        return self.layer_norm(x)

    def _feed(self, x):
        x = x + self.feed_forward(self.final_layer_norm(x))
        adapter = getattr(self, "adapter_layer", None)
        return x if adapter is None else x + adapter(x)


class RelativePosition(_Layer):
    """WavLM: gated relative positions, which layers hand on, of the places that the frames had."""

    def _attend(self, attention, x, frames, scored, position_bias=None, **unused):
        heads = attention.num_heads
        if position_bias is None:
            position_bias = self._position_bias(frames)
        gates = attention.gru_rel_pos_linear(x.unflatten(-1, (heads, -1)).transpose(1, 2))
        update, reset = gates.unflatten(-1, WAVLM_GATES).sum(-1).sigmoid().unbind(-1)
        gate = update * (reset * attention.gru_rel_pos_const.squeeze(-1) - 1) + 2
        bias = gate.unsqueeze(-1) * position_bias.unflatten(0, (-1, heads))
        return super()._attend(attention, x, frames, scored, bias=bias.to(x.dtype))

    def _output(self, x, frames, dropped, position_bias=None, **unused):
        return x, self._position_bias(frames) if dropped or position_bias is None else position_bias

    def _position_bias(self, frames: Frames) -> Tensor:
        """(batch * heads, frames, frames), as transformers has it."""
        first = self.pruner.first.attention
        offsets = frames.positions.unsqueeze(1) - frames.positions.unsqueeze(2)
        bias = first.rel_attn_embed(first._relative_positions_bucket(offsets))
        return bias.permute(0, 3, 1, 2).flatten(0, 1)


class Whisper(_Layer):
    """Whisper's: a norm before each block, the feed-forward block's parts beside each other."""

    attention_name = "self_attn"

    def _before_attention(self, x):
        return self.self_attn_layer_norm(x)

    def _dropout(self, x, p: Optional[float] = None):
        return F.dropout(x, self.dropout if p is None else p, self.training)

    def _feed(self, x):
        inner = self._dropout(self.activation_fn(self.fc1(self.final_layer_norm(x))), self.activation_dropout)
        x = x + self._dropout(self.fc2(inner))
        if x.dtype == torch.float16:  # as the library does
            limit = torch.finfo(x.dtype).max - 1000
            x = x.clamp(-limit, limit)
        return x


# {class of the library: what comes before it}
HOSTS = {
    "hubert.modeling_hubert.HubertEncoderLayer": (PostNorm,),
    "hubert.modeling_hubert.HubertEncoderLayerStableLayerNorm": (PreNorm,),
    "wav2vec2.modeling_wav2vec2.Wav2Vec2EncoderLayer": (PostNorm,),
    "wav2vec2.modeling_wav2vec2.Wav2Vec2EncoderLayerStableLayerNorm": (PreNorm,),
    "wavlm.modeling_wavlm.WavLMEncoderLayer": (RelativePosition, PostNorm),
    "wavlm.modeling_wavlm.WavLMEncoderLayerStableLayerNorm": (RelativePosition, PreNorm),
    "whisper.modeling_whisper.WhisperEncoderLayer": (Whisper,),
}


@cache
def pruned_class(name: str) -> type:
    """The class that drops frames, of a class named in `HOSTS`."""
    module, _, host = name.rpartition(".")
    host = getattr(import_module(f"transformers.models.{module}"), host)
    new = f"Pruned{host.__name__}"
    members = {"__module__": __name__, "__doc__": f"{host.__name__} that drops frames."}
    globals()[new] = type(new, (*HOSTS[name], host), members)  # under its name, so that it can be pickled
    return globals()[new]


def host_name(layer: nn.Module) -> Optional[str]:
    """The name in `HOSTS` of a layer's class, were it pruned; None where transformers' class is not known here."""
    for cls in type(layer).__mro__:
        name = f"{cls.__module__}.{cls.__qualname__}".removeprefix("transformers.models.")
        if name in HOSTS:
            return name
    return None


def take_on(layer: nn.Module, pruner: Pruner, index: int) -> None:
    """Make a layer drop frames, in place."""
    layer.__class__ = pruned_class(host_name(layer))
    layer.pruner, layer.index = pruner, index


def take_off(layer: nn.Module) -> None:
    """Give a layer the library's class back."""
    if isinstance(layer, _Layer):
        layer.__class__ = next(cls for cls in type(layer).__mro__ if cls.__module__ != __name__)
        del layer.pruner, layer.index
