"""The encoder of Whisper (Radford et al. 2022, arXiv 2212.04356), as one of fairseq, whose layers may drop frames."""

import math
from typing import Any, Optional

import torch
from fairseq.models import FairseqEncoder
from torch import Tensor, nn
from torch.nn import functional as F

from fairseq_prune.modules.frames import DropsFrames, Frames, TokenPruning
from fairseq_prune.modules.whisper.context import (
    Hearing,
    silence_of,
    thinned,
    valid_positions,
    with_silence,
)
from fairseq_prune.modules.whisper.layers import WhisperEncoderLayer
from fairseq_prune.modules.whisper.settings import WhisperSettings, layer_shapes
from fairseq_prune.pruning import tokens
from fairseq_prune.pruning.counting import whisper_encoder_macs
from fairseq_prune.pruning.tokens import Lengths


def sinusoids(positions: int, dim: int) -> Tensor:
    """The encoder's positions (positions, dim): sines, then cosines, of wavelengths 2 pi to 20,000 pi."""
    scales = torch.exp(-math.log(10_000) / (dim // 2 - 1) * torch.arange(dim // 2))
    angles = torch.arange(positions)[:, None] * scales
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class WhisperEncoder(DropsFrames, FairseqEncoder):
    """Two convolutions, which halve the frames, fixed positions, Transformer layers.

    After the attention of a layer with a keep ratio below 1, frames are dropped or merged, before the feed-forward
    block: see `modules.hubert.encoder`, which does the same.

    Args:
        settings: sizes, and what is heard (`modules.whisper.context`).
        pruning: keeps all frames by default.

    Raises:
        ValueError: an option is out of its range.
    """

    def __init__(self, settings: WhisperSettings, pruning: Optional[TokenPruning] = None):
        super().__init__(None)
        dim = settings.embed_dim
        self.audio_context = str(settings.audio_context)
        silence_of(self.audio_context)
        self.silence_stride = settings.silence_stride
        if self.silence_stride < 1:
            raise ValueError(f"--silence-stride: found {self.silence_stride}, expected 1 or more")
        self.keeps_silence = settings.token_keep_silence
        self.pruning = pruning or TokenPruning([1.0] * settings.encoder_layers)
        self.dropout = settings.dropout
        self.conv1 = nn.Conv1d(settings.mel_bins, dim, 3, padding=1)
        self.conv2 = nn.Conv1d(dim, dim, 3, stride=2, padding=1)
        self.embed_positions = nn.Embedding(settings.max_source_positions, dim).requires_grad_(False)
        self.embed_positions.weight.data = sinusoids(settings.max_source_positions, dim)
        self.layers = nn.ModuleList(
            WhisperEncoderLayer(**shape) for shape in layer_shapes(settings, "encoder")
        )
        self.layer_norm = nn.LayerNorm(dim)

    def forward(
        self,
        src_tokens: Tensor,
        src_lengths: Tensor,
        trace: bool = False,
        audio_context: Optional[str] = None,
        return_all_hiddens: bool = False,
        **unused,
    ) -> dict[str, list[Any]]:
        """Encode a batch of log-mel features (`data.log_mel`), each of a clip's own length.

        Args:
            src_tokens: (batch, mel frames, mel bins).
            src_lengths: (batch,) valid mel frames.
            audio_context: what is heard of this batch, other than the model's option says.
            trace: also return "trace": [(batch, frames)] for each layer, the positions that survive it.
            return_all_hiddens: also return "encoder_states": [(batch, frames, dim)], the output of each layer.

        Returns:
            "encoder_out": [(batch, frames, dim)]; "encoder_padding_mask": [(batch, frames)], True on padding, or []
            where nothing is; "positions": [(batch, frames)], the 20 ms of the clip that each frame was, 0 on padding;
            "sizes": [(batch, frames)], how many frames each stands for, or [] where each is one; "rows": [], see
            `reorder_encoder_out`.

        Raises:
            ValueError: a clip is longer than the positions.
        """
        limit = self.max_positions()
        if src_tokens.size(1) > limit:
            raise ValueError(
                f"found a clip of {src_tokens.size(1) / 100:.2f} s, expected at most the {limit / 100:.2f} s of the"
                " encoder"
            )
        frames = self._embed(src_tokens, src_lengths, audio_context)
        states, visited = self._encode(frames, return_all_hiddens, trace)
        return {
            "encoder_out": [frames.x],
            "encoder_padding_mask": [] if frames.padding_mask is None else [frames.padding_mask],
            "positions": [frames.positions],
            "sizes": [] if frames.sizes is None else [frames.sizes],
            "rows": [],
            **({"trace": visited} if trace else {}),
            **({"encoder_states": states} if return_all_hiddens else {}),
        }

    def embed_taken(
        self, features: Tensor, source: Optional[Tensor] = None, positions: Optional[Tensor] = None
    ) -> Tensor:
        """What enters the first layer, of clips of one length that are heard as they are; for exports.

        Args:
            features: (batch, mel frames, mel bins).
            source: (frames,), the convolutions' outputs to take; None: all.
            positions: (frames,), where these stand (20 ms), as of `context.thinned`.

        Returns:
            (batch, frames, dim).
        """
        x, table = self._convolve(features), self.embed_positions.weight
        if source is None:
            return x + table[: x.size(1)]
        return x.index_select(1, source) + table.index_select(0, positions)

    def _hearing(self, mel_frames: list[int], context: Optional[str] = None) -> Hearing:
        return Hearing.of(
            mel_frames, silence_of(context or self.audio_context), self.max_positions(), self.silence_stride
        )

    def _embed(self, features: Tensor, lengths: Tensor, context: Optional[str] = None) -> Frames:
        """What enters the first layer."""
        fills = silence_of(context or self.audio_context) is None
        mel_frames = [self.max_positions()] * len(lengths)
        if not fills or self.silence_stride > 1 or self.keeps_silence:
            mel_frames = lengths.tolist()  # the only wait for the device: all later lengths follow
        hearing = self._hearing(mel_frames, context)
        tail = hearing.taken_silence if self.keeps_silence else [0] * len(lengths)
        planned = self.planned_lengths(hearing.lengths, tail)
        *planned, tail, convolved, clip, silence = Lengths.send(
            [*planned, tail, hearing.convolved, hearing.clip, hearing.silence], features.device
        )
        width, sizes, table = max(convolved), None, self.embed_positions.weight
        features = features[:, :width]
        if fills or hearing.mel != mel_frames:
            features = with_silence(features, lengths, width)
        padding = None
        if min(convolved) < width:
            padding = ~valid_positions(convolved.on_device, width)
        x = self._convolve(features, padding)
        if hearing.is_thinned:
            source, positions, sizes = thinned(clip, silence, hearing.stride)
            x = tokens.gather_frames(x, source.clamp(max=x.size(1) - 1)) + table[positions]
            padding = tokens.padding_mask_of(planned[0], x.size(1), x.device)
        else:
            positions = torch.arange(x.size(1), device=x.device).expand(x.shape[:2])
            x = x + table[: x.size(1)]
            padding = None if padding is None else padding[:, ::2]
        if padding is not None:
            positions = positions.masked_fill(padding, 0)
        x = F.dropout(x, self.dropout, self.training)
        return Frames(
            x,
            planned[0],
            padding,
            positions,
            sizes,
            planned=planned[1:],
            tail=tail if self.keeps_silence else None,
        )

    def _convolve(self, features: Tensor, padding: Optional[Tensor] = None) -> Tensor:
        """(batch, mel frames, mel bins), padding (batch, mel frames) or None -> (batch, frames, dim)."""
        if padding is not None:
            features = features.masked_fill(padding[..., None], 0)
        x = F.gelu(self.conv1(features.transpose(1, 2).to(self.conv1.weight.dtype)))
        if padding is not None:  # where a clip alone ends, the second convolution sees zeros
            x = x.masked_fill(padding[:, None], 0)
        return F.gelu(self.conv2(x)).transpose(1, 2)

    def _encode(self, frames: Frames, hiddens: bool, trace: bool) -> tuple[list[Tensor], list[Tensor]]:
        """All layers; returns the output of each, and the positions that survive it, where asked for."""
        states, visited = [], []
        for index, layer in enumerate(self.layers):
            drops = self.prunes(index, frames)
            scored = drops and self.pruning.rule.reads_attention
            frames.x, received, keys = layer.attend(frames.x, frames.padding_mask, frames.sizes, scored)
            if drops:
                self.drop_frames(index, frames, received, keys, residual=frames.x)
            frames.x = layer.feed_forward(frames.x)
            if hiddens:
                states.append(frames.x)
            if trace:
                visited.append(frames.positions)
        frames.x = self.layer_norm(frames.x)
        return states, visited

    def keep_counts(self, index: int, lengths: list[int]) -> list[int]:
        """As of its class; a layer without attention drops none."""
        return super().keep_counts(index, lengths) if self.layers[index].self_attn.num_heads else lengths

    def frame_counts(self, mel_frames: int) -> list[int]:
        """Frames of a clip of so many mel frames: entering the first layer, and leaving each layer."""
        hearing = self._hearing([mel_frames])
        tail = hearing.taken_silence if self.keeps_silence else [0]
        return [row[0] for row in self.planned_lengths(hearing.lengths, tail)]

    def macs(self, mel_frames: int) -> dict[str, int]:
        """MACs by stage for one clip of so many mel frames (see `counting.whisper_encoder_macs`)."""
        frames = self.frame_counts(mel_frames)
        attentions = [layer.self_attn for layer in self.layers]
        return whisper_encoder_macs(
            self._hearing([mel_frames]).convolved[0],
            self.conv1.in_channels,
            self.conv1.out_channels,
            [attention.num_heads for attention in attentions],
            attentions[0].head_dim,
            [layer.units for layer in self.layers],
            frames,
            [self.pruning.rule.reads_attention and b < a for a, b in zip(frames, frames[1:])],
        )

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
