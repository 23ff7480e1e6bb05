"""The decoder of Whisper (Radford et al. 2022, arXiv 2212.04356), as one of fairseq."""

from typing import Any, NamedTuple, Optional

import torch
from fairseq.models import FairseqIncrementalDecoder
from torch import Tensor, nn
from torch.nn import functional as F

from fairseq_prune.modules.keys_values import KeysValues
from fairseq_prune.modules.whisper.layers import WhisperDecoderLayer
from fairseq_prune.modules.whisper.packing import prepare_for_generation_
from fairseq_prune.modules.whisper.settings import WhisperSettings, layer_shapes
from fairseq_prune.pruning.attention import attention_bias


class Cache(NamedTuple):
    """What a decoder keeps between steps; lists have an entry a layer."""

    memory: list  # KeysValues of the encoder's output, one entry a sentence
    mask: Optional[Tensor]  # of these, (sentences, 1, 1, frames): added to the logits
    past: list  # KeysValues of the tokens so far, one entry a beam; None before the first

    @property
    def length(self) -> int:
        """Tokens so far."""
        return 0 if self.past[0] is None else self.past[0].keys.size(2)


class WhisperDecoder(FairseqIncrementalDecoder):
    """Token and learned position embeddings, Transformer layers; the output projection is the embedding."""

    def __init__(self, settings: WhisperSettings, dictionary):
        super().__init__(dictionary)
        dim = settings.embed_dim
        self.dropout = settings.dropout
        self.embed_tokens = nn.Embedding(len(dictionary), dim)
        self.embed_positions = nn.Embedding(settings.max_target_positions, dim)
        for embedding in (self.embed_tokens, self.embed_positions):
            nn.init.normal_(embedding.weight, std=0.02)
        self.layers = nn.ModuleList(
            WhisperDecoderLayer(**shape) for shape in layer_shapes(settings, "decoder")
        )
        self.layer_norm = nn.LayerNorm(dim)
        self.output_projection: Optional[nn.Module] = None  # of `packing`; else the embedding is

    def make_generation_fast_(self, **unused) -> None:
        """Called by fairseq before generation, when the model is on its device and in its type."""
        prepare_for_generation_(self)

    def forward(
        self,
        prev_output_tokens: Tensor,
        encoder_out: dict[str, list[Any]],
        incremental_state: Optional[dict[str, Any]] = None,
        features_only: bool = False,
        **unused,
    ) -> tuple[Tensor, dict[str, list[Any]]]:
        """Predict each next token.

        Args:
            prev_output_tokens: (rows, tokens), the forced prefix first, padding last.
            encoder_out: of the encoder, perhaps reordered.
            incremental_state: of fairseq's generator; what it holds is not computed again.
            features_only: return the last layer's output instead of logits.

        Returns:
            logits (rows, tokens, vocabulary), or (rows, tokens, dim): with an incremental state only of the tokens
            that are new to it; and a dict with "inner_states": [(rows, tokens, dim)], the embedded tokens and the
            output of each layer.
        """
        if prev_output_tokens.size(1) > self.max_positions():
            raise ValueError(
                f"found {prev_output_tokens.size(1)} tokens, the decoder has positions for {self.max_positions()}"
            )
        cache = (incremental_state or {}).get("cache") or self._new_cache(encoder_out)
        states, cache = self.decode(prev_output_tokens[:, cache.length :], cache)
        if incremental_state is not None:
            incremental_state["cache"] = cache
        x = self.layer_norm(states[-1])
        return x if features_only else self.output_layer(x), {"attn": [None], "inner_states": states}

    def decode(self, tokens: Tensor, cache: Cache) -> tuple[list[Tensor], Cache]:
        """Run the layers over tokens (rows, tokens) that follow those of the cache.

        Returns:
            the embedded tokens and the output of each layer, (rows, tokens, dim); the cache with these tokens.
        """
        x = (
            self.embed_tokens(tokens)
            + self.embed_positions.weight[cache.length : cache.length + tokens.size(1)]
        )
        states, past = [F.dropout(x, self.dropout, self.training)], []
        for layer, memory, before in zip(self.layers, cache.memory, cache.past):
            x, own = layer(states[-1], memory, cache.mask, before)
            states.append(x)
            past.append(own)
        return states, cache._replace(past=past)

    def output_layer(self, features: Tensor, **unused) -> Tensor:
        """(rows, tokens, dim) -> logits (rows, tokens, vocabulary)."""
        if self.output_projection is not None:
            return self.output_projection(features)
        return F.linear(features, self.embed_tokens.weight)

    def _new_cache(self, encoder_out: dict[str, list[Any]]) -> Cache:
        x, padding = encoder_out["encoder_out"][0], encoder_out["encoder_padding_mask"]
        sizes = encoder_out.get("sizes")
        mask = attention_bias(padding[0] if padding else None, sizes[0] if sizes else None, x.dtype)
        for rows in encoder_out["rows"]:
            beams = len(rows) // len(x)
            grouped = torch.arange(len(x), device=rows.device).repeat_interleave(beams)
            if not torch.equal(rows, grouped):
                x = x.index_select(0, rows)
                mask = mask if mask is None else mask.index_select(0, rows)
        # every step reads them, and faster side by side in memory
        states = (layer.encoder_attn.keys_values(x) for layer in self.layers)
        memory = [KeysValues(*(part.contiguous() for part in both)) for both in states]
        return Cache(memory, mask, [None] * len(self.layers))

    def reorder_incremental_state_scripting(
        self, incremental_state: dict[str, Any], new_order: Tensor
    ) -> None:
        """Bring the cache into another order of rows; the encoder's part only where sentences have gone.

        As fairseq's generator does it: sentences may leave, but those that stay keep their order.
        """
        if "cache" not in incremental_state:
            return
        memory, mask, past = incremental_state["cache"]
        beams = past[0].keys.size(0) // memory[0].keys.size(0)
        # as many as there are have stayed where they were: a look at their numbers would wait for the device
        if len(new_order) < past[0].keys.size(0):
            sentences = new_order.view(-1, beams)[:, 0] // beams
            memory = [layer.select(sentences) for layer in memory]
            mask = mask if mask is None else mask.index_select(0, sentences)
        incremental_state["cache"] = Cache(memory, mask, [layer.select(new_order) for layer in past])

    def max_positions(self) -> int:
        """Tokens, the forced prefix included."""
        return self.embed_positions.num_embeddings
