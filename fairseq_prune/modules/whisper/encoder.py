"""The encoder of Whisper (Radford et al. 2022, arXiv 2212.04356), as one of fairseq."""

import math
from typing import Any, Optional

import torch
from fairseq.models import FairseqEncoder
from torch import Tensor, nn
from torch.nn import functional as F

from fairseq_prune.modules.whisper.context import valid_positions, with_silence
from fairseq_prune.modules.whisper.layers import WhisperEncoderLayer
from fairseq_prune.modules.whisper.settings import WhisperSettings, layer_shape


def sinusoids(positions: int, dim: int) -> Tensor:
    """The encoder's positions (positions, dim): sines, then cosines, of wavelengths 2 pi to 20,000 pi."""
    scales = torch.exp(-math.log(10_000) / (dim // 2 - 1) * torch.arange(dim // 2))
    angles = torch.arange(positions)[:, None] * scales
    return torch.cat([angles.sin(), angles.cos()], dim=1)


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
            WhisperEncoderLayer(*layer_shape(settings)) for _ in range(settings.encoder_layers)
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
