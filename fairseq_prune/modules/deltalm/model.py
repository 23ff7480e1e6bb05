"""DeltaLM's encoder and decoder (Ma et al. 2021, arXiv 2106.13736), on top of fairseq's Transformer.

The encoder is a plain Transformer encoder. A decoder layer interleaves two feed-forward blocks with the
attentions (section 2.1): self-attention, feed-forward, cross-attention, feed-forward.
Module names are those of the authors' fairseq code: `fc3`, `fc4`, `ffn_layer_norm` make the first
feed-forward block, `fc1`, `fc2`, `final_layer_norm` the last.
"""

import zlib
from functools import partial

import torch
import torch.nn as nn
from fairseq.distributed import fsdp_wrap
from fairseq.models.transformer import Embedding, TransformerDecoderBase, TransformerEncoderBase
from fairseq.modules import LayerNorm, MultiheadAttention
from fairseq.modules.checkpoint_activations import checkpoint_wrapper
from fairseq.modules.transformer_layer import TransformerDecoderLayerBase, TransformerEncoderLayerBase

from fairseq_prune.modules import onednn
from fairseq_prune.modules.deltalm.generation import prepare_for_generation_
from fairseq_prune.modules.deltalm.settings import transformer_config


def vocabulary_checksum(dictionary):
    """CRC-32 of the symbols of a fairseq Dictionary, in their order."""
    return zlib.crc32("\n".join(dictionary.symbols).encode("utf-8"))


class VocabularyStamp:
    """Mixin: the state dict carries a checksum of the dictionary's symbols, and refuses those of another.

    Two dictionaries of one size would otherwise load into each other's model without a word.
    """

    def stamp_vocabulary(self):
        # fairseq's EMA averages every entry of the state dict that has not "version" in its name
        self.register_buffer("vocabulary_version", torch.tensor(vocabulary_checksum(self.dictionary)))

    def upgrade_state_dict_named(self, state_dict, name):
        """fairseq's hook before loading. Raises ValueError if the state is that of another dictionary."""
        super().upgrade_state_dict_named(state_dict, name)
        # a file that is not ours has no stamp, and gets this one
        found = state_dict.setdefault(f"{name}.vocabulary_version", self.vocabulary_version)
        if int(found) != int(self.vocabulary_version):
            raise ValueError(
                f"{name}: the checkpoint belongs to another dictionary than the one given here, "
                f"of {len(self.dictionary)} symbols"
            )
        return state_dict


class DeltaLMEncoderLayer(TransformerEncoderLayerBase):
    """fairseq's layer, without the second, fused copy of the weights that fairseq 0.12.2 has for a fast path.

    That copy would double the encoder in memory and in checkpoints, and the fast path wants the batch first.
    """

    def __init__(self, cfg):
        super().__init__(cfg)
        for name in ("in_proj", "out_proj", "fc1", "fc2"):
            self._parameters.pop(f"{name}_weight", None)
            self._parameters.pop(f"{name}_bias", None)

    # 0.12.2 fills the copy, and turns the fast path on, when it loads
    _load_from_state_dict = nn.Module._load_from_state_dict


class DeltaLMEncoder(VocabularyStamp, TransformerEncoderBase):
    """DeltaLM's encoder: token and learned position embeddings, layer norm, Transformer layers."""

    def __init__(self, cfg, dictionary, embed_tokens):
        super().__init__(cfg, dictionary, embed_tokens)
        self.stamp_vocabulary()
        self.layers_below = 0  # layers of the whole encoder that this one has not

    @classmethod
    def build(cls, settings, dictionary, embed_tokens=None):
        """From `DeltaLMSettings`; `embed_tokens` is a table to share, by default it gets its own."""
        if embed_tokens is None:
            embed_tokens = Embedding(len(dictionary), settings.embed_dim, dictionary.pad())
        return cls(transformer_config(settings), dictionary, embed_tokens)

    def build_encoder_layer(self, cfg):
        return _wrap(DeltaLMEncoderLayer(cfg), cfg)

    def keep_layers(self, first_layer):
        """Keep only the layers from `first_layer` on; what is left takes vectors (`forward_layers`)."""
        self.embed_tokens = self.embed_positions = self.layernorm_embedding = None
        del self.layers[:first_layer]
        self.layers_below = first_layer
        self.num_layers = len(self.layers)

    def forward_scriptable(
        self, src_tokens, src_lengths=None, return_all_hiddens=False, token_embeddings=None
    ):
        """As fairseq's `forward`, but the host waits for a GPU once and not in each layer: to ask for padding.

        Args:
            src_tokens: (batch, source).
            return_all_hiddens: of all layers too; this way fairseq's function runs.
            token_embeddings: (batch, source, dim) in the place of the table's rows.
        """
        if return_all_hiddens:
            return super().forward_scriptable(src_tokens, src_lengths, True, token_embeddings)
        padding = src_tokens.eq(self.padding_idx)
        x, embedding = self.forward_embedding(src_tokens, token_embeddings)
        x = x.masked_fill(padding.unsqueeze(-1), 0)
        x = self.forward_layers(x, padding if padding.any() else None)
        lengths = (~padding).sum(dim=1, keepdim=True, dtype=torch.int32)
        return {
            "encoder_out": [x.transpose(0, 1)],
            "encoder_padding_mask": [padding],
            "encoder_embedding": [embedding],
            "encoder_states": [],
            "fc_results": [],
            "src_tokens": [],
            "src_lengths": [lengths],
        }

    def forward_layers(self, x, padding_mask=None, first_layer=0):
        """Run the layers from `first_layer` on over given vectors, and the final norm of pre-norm models.

        Args:
            x: (batch, frames, dim), token embeddings or speech frames.
            padding_mask: (batch, frames), True on padding; None where nothing is padded, which is faster.
            first_layer: index of the first layer to run, 0 for all.

        Returns:
            (batch, frames, dim).
        """
        below = {id(self.layers[index]) for index in range(first_layer)}
        x = x.transpose(0, 1)  # (frames, batch, dim)
        for layer in self.layers:  # iterating is what draws the layers that LayerDrop skips
            if id(layer) not in below:
                x = layer(x, encoder_padding_mask=padding_mask)
        if self.layer_norm is not None:
            x = self.layer_norm(x)
        return x.transpose(0, 1)


class DeltaLMDecoderLayer(TransformerDecoderLayerBase):
    """Self-attention, feed-forward, cross-attention, feed-forward, each with residual and layer norm."""

    def __init__(self, cfg, no_encoder_attn=False):
        super().__init__(cfg, no_encoder_attn)
        noise = self.quant_noise, self.quant_noise_block_size
        self.fc3 = self.build_fc1(self.embed_dim, cfg.decoder.ffn_embed_dim, *noise)
        self.fc4 = self.build_fc2(cfg.decoder.ffn_embed_dim, self.embed_dim, *noise)
        self.ffn_layer_norm = LayerNorm(self.embed_dim, export=cfg.export)

    def forward(
        self,
        x,
        encoder_out=None,
        encoder_padding_mask=None,
        incremental_state=None,
        *,
        self_attn_mask=None,
        self_attn_padding_mask=None,
        need_attn=False,
        need_head_weights=False,
    ):
        """
        Args:
            x: (target, batch, dim).
            encoder_out: (frames, batch, dim), or None to leave cross-attention out.
            encoder_padding_mask: (batch, frames), True on padding, or None.
            incremental_state: fairseq's cache of keys and values while generating, or None.
            self_attn_mask: (target, target), -inf where a position must not look.
            self_attn_padding_mask: (batch, target), True on padding, or None.
            need_attn: return the cross-attention weights, averaged over heads.
            need_head_weights: return them of each head.

        Returns:
            x: (target, batch, dim); weights: ([heads,] batch, target, frames) or None; None (fairseq's slot).
        """

        weights = None

        def self_attention(x):
            masks = {"key_padding_mask": self_attn_padding_mask, "attn_mask": self_attn_mask}
            return self.self_attn(x, x, x, incremental_state=incremental_state, need_weights=False, **masks)[
                0
            ]

        def cross_attention(x):
            nonlocal weights
            x, weights = self.encoder_attn(
                x,
                encoder_out,
                encoder_out,
                key_padding_mask=encoder_padding_mask,
                incremental_state=incremental_state,
                static_kv=True,  # the encoder's keys and values are projected once a sentence
                need_weights=need_attn or need_head_weights,
                need_head_weights=need_head_weights,
            )
            return x

        attends = self.encoder_attn is not None and encoder_out is not None
        x = self.run(x, self_attention, cross_attention if attends else None)
        return x, weights, None

    def run(self, x, self_attention, cross_attention=None):
        """The blocks of the layer in their order, around functions of the normed states.

        Args:
            x: (..., dim), in whatever order of dimensions the functions take.
            self_attention, cross_attention: x -> what attention finds; without the second its block is left out.
        """
        x = self._residual_block(x, self.self_attn_layer_norm, self_attention)
        x = self._residual_block(x, self.ffn_layer_norm, partial(self._feed_forward, self.fc3, self.fc4))
        if cross_attention is not None:
            x = self._residual_block(x, self.encoder_attn_layer_norm, cross_attention)
        return self._residual_block(x, self.final_layer_norm, partial(self._feed_forward, self.fc1, self.fc2))

    def _feed_forward(self, inner, outer, x):
        x = onednn.linear(inner, x, self.activation_fn)
        return onednn.linear(outer, self.activation_dropout_module(x))

    def _residual_block(self, x, layer_norm, block):
        residual = x
        x = block(layer_norm(x) if self.normalize_before else x)
        x = self.residual_connection(self.dropout_module(x), residual)
        return x if self.normalize_before else layer_norm(x)


class DeltaLMDecoder(VocabularyStamp, TransformerDecoderBase):
    """DeltaLM's decoder; `encoder_out` is fairseq's dict, of a text or a speech encoder."""

    def __init__(self, cfg, dictionary, embed_tokens, no_encoder_attn=False, output_projection=None):
        super().__init__(cfg, dictionary, embed_tokens, no_encoder_attn, output_projection)
        self.stamp_vocabulary()

    @classmethod
    def build(cls, settings, dictionary):
        """From `DeltaLMSettings`, with an embedding table of its own."""
        embed_tokens = Embedding(len(dictionary), settings.embed_dim, dictionary.pad())
        return cls(transformer_config(settings), dictionary, embed_tokens)

    def make_generation_fast_(self, **kwargs):
        """Called by fairseq before generation, when the model is on its device and in its type."""
        prepare_for_generation_(self)

    def extract_features(
        self, prev_output_tokens, encoder_out=None, incremental_state=None, *args, **options
    ):
        """As fairseq's; while generating, the beams of a sentence share its cross-attention's keys and values."""
        sizes = (encoder_out or {}).get("beam_size") if incremental_state is not None else None
        for index in range(len(self.layers)):  # iterating would draw the layers that LayerDrop skips
            attention = self.layers[index].encoder_attn
            if isinstance(attention, MultiheadAttention):
                attention.set_beam_size(sizes[0] if sizes else 1)
        return super().extract_features(prev_output_tokens, encoder_out, incremental_state, *args, **options)

    def output_layer(self, features):
        """(batch, target, dim) -> logits (batch, target, symbols)."""
        return onednn.linear(self.output_projection, features)

    def build_decoder_layer(self, cfg, no_encoder_attn=False):
        return _wrap(DeltaLMDecoderLayer(cfg, no_encoder_attn), cfg)


def _wrap(layer, cfg):
    """What fairseq does to every layer it builds, for saving memory in training."""
    if cfg.checkpoint_activations:
        layer = checkpoint_wrapper(layer)
    return fsdp_wrap(layer, min_num_params=0 if cfg.checkpoint_activations else cfg.min_params_to_wrap)
