"""Whisper (Radford et al. 2022, arXiv 2212.04356) as encoder and decoder of fairseq.

Module names are those of fairseq's Transformer. Nothing is derived from the size of the vocabulary: what a token
means, the tokenizer says.
"""

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Optional

import torch
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.models import FairseqEncoder, FairseqIncrementalDecoder
from torch import Tensor, nn
from torch.nn import functional as F

from fairseq_prune.modules.whisper.layers import WhisperDecoderLayer, WhisperEncoderLayer

SILENCE_BELOW_MAXIMUM = 2.0  # of features: a clip's floor, 80 dB below its maximum
LOWEST_FEATURE = -1.5  # of digital silence


@dataclass
class WhisperSettings(FairseqDataclass):
    """Everything that describes a Whisper; the defaults are the tiny ones."""

    embed_dim: int = field(default=384, metadata={"help": "width of encoder, decoder and embeddings"})
    ffn_embed_dim: int = field(default=1536, metadata={"help": "inner width of the feed-forward blocks"})
    attention_heads: int = field(default=6, metadata={"help": "attention heads of a layer"})
    head_dim: int = field(
        default=0, metadata={"help": "dimensions of a head; 0: width / heads, as long as no head was cut out"}
    )
    encoder_layers: int = field(default=4, metadata={"help": "encoder layers"})
    decoder_layers: int = field(default=4, metadata={"help": "decoder layers"})
    mel_bins: int = field(default=80, metadata={"help": "mel bins of the input (128 in Whisper large-v3)"})
    max_source_positions: int = field(
        default=1500, metadata={"help": "encoder positions, of 20 ms each: 1500 are 30 s"}
    )
    max_target_positions: int = field(default=448, metadata={"help": "decoder positions, prefix included"})
    audio_context: ChoiceEnum(["30s", "clip"]) = field(
        default="30s",
        metadata={
            "help": "what the encoder sees: every clip filled up with silence to 30 s, as published; "
            "clip: only the clip, in batches with padding masked out, which is several times as fast"
        },
    )
    dropout: float = field(default=0.0, metadata={"help": "dropout probability"})
    attention_dropout: float = field(default=0.0, metadata={"help": "dropout of attention weights"})
    activation_dropout: float = field(default=0.0, metadata={"help": "dropout in the feed-forward blocks"})


class Cache(NamedTuple):
    """What a decoder keeps between steps; lists have an entry a layer."""

    memory: list  # KeysValues of the encoder's output, one entry a sentence
    mask: Optional[Tensor]  # of these, (sentences, 1, 1, frames)
    past: list  # KeysValues of the tokens so far, one entry a beam; None before the first

    @property
    def length(self) -> int:
        """Tokens so far."""
        return 0 if self.past[0] is None else self.past[0].keys.size(2)


def sinusoids(positions: int, dim: int) -> Tensor:
    """The encoder's positions (positions, dim): sines, then cosines, of wavelengths 2 pi to 20,000 pi."""
    scales = torch.exp(-math.log(10_000) / (dim // 2 - 1) * torch.arange(dim // 2))
    angles = torch.arange(positions)[:, None] * scales
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def valid_positions(lengths: Tensor, positions: int) -> Tensor:
    """(batch,) -> (batch, positions), True on the first ``lengths``."""
    return torch.arange(positions, device=lengths.device) < lengths[:, None]


def with_silence(features: Tensor, lengths: Tensor, frames: int) -> Tensor:
    """Log-mel features with silence after them, as if the audio had been filled up with zeros.

    Args:
        features: (batch, frames, mel bins), anything after the valid frames.
        lengths: (batch,) valid frames.
        frames: how many there shall be.

    Returns:
        (batch, frames, mel bins).
    """
    padding = ~valid_positions(lengths, frames)[..., None]
    features = F.pad(features, (0, 0, 0, frames - features.size(1)))
    loudest = features.masked_fill(padding, -math.inf).amax((1, 2), keepdim=True)
    return torch.where(padding, (loudest - SILENCE_BELOW_MAXIMUM).clamp(min=LOWEST_FEATURE), features)


class WhisperEncoder(FairseqEncoder):
    """Two convolutions, which halve the frames, fixed positions, Transformer layers."""

    def __init__(self, settings: WhisperSettings):
        super().__init__(None)
        dim = settings.embed_dim
        self.audio_context = str(settings.audio_context)
        self.dropout = settings.dropout
        self.conv1 = nn.Conv1d(settings.mel_bins, dim, 3, padding=1)
        self.conv2 = nn.Conv1d(dim, dim, 3, stride=2, padding=1)
        self.embed_positions = nn.Embedding(settings.max_source_positions, dim).requires_grad_(False)
        self.embed_positions.weight.data = sinusoids(settings.max_source_positions, dim)
        self.layers = nn.ModuleList(
            WhisperEncoderLayer(*_layer_shape(settings)) for _ in range(settings.encoder_layers)
        )
        self.layer_norm = nn.LayerNorm(dim)

    def forward(self, src_tokens: Tensor, src_lengths: Tensor, **unused) -> dict[str, list[Any]]:
        """Encode a batch of log-mel features (`data.log_mel`), each of a clip's own length.

        Args:
            src_tokens: (batch, mel frames, mel bins).
            src_lengths: (batch,) valid mel frames.

        Returns:
            "encoder_out": [(batch, frames, dim)], a frame every 20 ms; "encoder_padding_mask": [(batch, frames)],
            True on padding, or [] where nothing is; "rows": [], see `reorder_encoder_out`.

        Raises:
            ValueError: a clip is longer than the positions.
        """
        x, mel_frames, limit = src_tokens, src_tokens.size(1), self.max_positions()
        if mel_frames > limit:
            raise ValueError(
                f"found a clip of {mel_frames / 100:.2f} s, expected at most the {limit / 100:.2f} s of the encoder"
            )
        padding = None
        if self.audio_context == "30s":
            x = with_silence(x, src_lengths, limit)
        elif src_lengths.is_cuda or int(src_lengths.min()) < mel_frames:  # a look would wait for the device
            padding = ~valid_positions(src_lengths, mel_frames)
            x = x.masked_fill(padding[..., None], 0)
        return {
            "encoder_out": [self.encode(x, padding)],
            "encoder_padding_mask": [] if padding is None else [padding[:, ::2]],
            "rows": [],
        }

    def encode(self, features: Tensor, padding: Optional[Tensor] = None) -> Tensor:
        """(batch, mel frames, mel bins), padding (batch, mel frames) or None -> (batch, frames, dim)."""
        mask = None
        x = F.gelu(self.conv1(features.transpose(1, 2).to(self.conv1.weight.dtype)))
        if padding is not None:  # where a clip alone ends, the second convolution sees zeros
            x = x.masked_fill(padding[:, None], 0)
            mask = ~padding[:, None, None, ::2]
        x = F.gelu(self.conv2(x)).transpose(1, 2)
        x = F.dropout(x + self.embed_positions.weight[: x.size(1)], self.dropout, self.training)
        for layer in self.layers:
            x = layer(x, mask)
        return self.layer_norm(x)

    def reorder_encoder_out(
        self, encoder_out: dict[str, list[Any]], new_order: Tensor
    ) -> dict[str, list[Any]]:
        """Note in "rows" (rows,) which entry of the batch a row of the decoder looks at; nothing is copied.

        fairseq's generator calls this in every step; the beams of a sentence share what was encoded once.
        """
        rows = [rows.index_select(0, new_order) for rows in encoder_out["rows"]] or [new_order]
        return {**encoder_out, "rows": rows}

    def max_positions(self) -> int:
        """Mel frames."""
        return 2 * self.embed_positions.num_embeddings


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
            WhisperDecoderLayer(*_layer_shape(settings)) for _ in range(settings.decoder_layers)
        )
        self.layer_norm = nn.LayerNorm(dim)

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
        return F.linear(features, self.embed_tokens.weight)

    def _new_cache(self, encoder_out: dict[str, list[Any]]) -> Cache:
        x, padding = encoder_out["encoder_out"][0], encoder_out["encoder_padding_mask"]
        mask = ~padding[0][:, None, None] if padding else None
        for rows in encoder_out["rows"]:
            beams = len(rows) // len(x)
            grouped = torch.arange(len(x), device=rows.device).repeat_interleave(beams)
            if not torch.equal(rows, grouped):
                x = x.index_select(0, rows)
                mask = mask if mask is None else mask.index_select(0, rows)
        memory = [layer.encoder_attn.keys_values(x) for layer in self.layers]
        return Cache(memory, mask, [None] * len(self.layers))

    def reorder_incremental_state_scripting(
        self, incremental_state: dict[str, Any], new_order: Tensor
    ) -> None:
        """Bring the cache into another order of rows; the encoder's part only where sentences have gone."""
        if "cache" not in incremental_state:
            return
        memory, mask, past = incremental_state["cache"]
        sentences = new_order
        beams = past[0].keys.size(0) // memory[0].keys.size(0)
        if beams > 1:
            sentences = new_order.view(-1, beams)[:, 0] // beams
        if not torch.equal(sentences, torch.arange(memory[0].keys.size(0), device=sentences.device)):
            memory = [layer.select(sentences) for layer in memory]
            mask = mask if mask is None else mask.index_select(0, sentences)
        incremental_state["cache"] = Cache(memory, mask, [layer.select(new_order) for layer in past])

    def max_positions(self) -> int:
        """Tokens, the forced prefix included."""
        return self.embed_positions.num_embeddings


def _layer_shape(settings: WhisperSettings) -> tuple:
    """Arguments of a layer."""
    return (
        settings.embed_dim,
        settings.ffn_embed_dim,
        settings.attention_heads,
        settings.head_dim,
        settings.dropout,
        settings.attention_dropout,
        settings.activation_dropout,
    )
