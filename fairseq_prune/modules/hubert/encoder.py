"""HuBERT with token pruning, around fairseq's `HubertModel`.

Over 300 lines: it is one class of fairseq's, and every method of it belongs to one forward pass.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Optional

import torch
import torch.nn.functional as F
from fairseq.models.hubert import HubertConfig, HubertModel
from fairseq.modules import GradMultiply
from torch import Tensor, nn

from fairseq_prune.constants import SAMPLE_RATE
from fairseq_prune.modules import onednn
from fairseq_prune.modules.constant_frames import rest_in_constant_frames
from fairseq_prune.modules.copying import copy_without_history
from fairseq_prune.modules.frames import DropsFrames, Frames, TokenPruning
from fairseq_prune.modules.hubert.convolution import (
    chunked_frame_lengths,
    conv_output_length,
    extract_conv_features,
    normalize_waveform,
    positional_features,
    samples_of_a_frame,
)
from fairseq_prune.modules.hubert.relative_position import GatedRelativePosition
from fairseq_prune.modules.hubert.shapes import HubertShapes, apply_shapes, without_units
from fairseq_prune.modules.masking import seeded_generator, span_mask
from fairseq_prune.modules.packed import pack_
from fairseq_prune.modules.recomputing import recompute, run
from fairseq_prune.modules.self_attention import self_attention
from fairseq_prune.modules.taking_part import take_part
from fairseq_prune.pruning import tokens
from fairseq_prune.pruning.counting import LayerSize, Size, hubert_macs


class TokenPrunedHubert(DropsFrames, HubertModel):
    """fairseq's HuBERT, whose layers drop the frames that receive least attention.

    Parameters and their names are fairseq's, so its checkpoints load unchanged. Modifications:
    - `forward` takes lengths in samples and returns `Frames`; features only, no pretraining loss;
    - the extractor's statistics leave out padding (``pad_invariant``), lengths follow the convolutions;
    - attention is `scaled_dot_product_attention`, batch first, without padding to a multiple of 2;
    - masking and layer drop follow fairseq's seed; a layer that layer drop leaves out drops no frames;
    - layers may differ in heads and widths, or lack a block (``shapes``);
    - after the attention of a layer with a keep ratio below 1, frames are dropped or merged. Feed-forward and
      norms work on each frame alone, so that dropping before them gives what dropping after the layer gives,
      for less work.

    Args:
        cfg: fairseq's.
        pruning: keeps all frames by default.
        normalize: waveforms are normalised to zero mean and unit variance (HuBERT large).
        pad_invariant: an utterance's output is the same alone and in any batch; False is fairseq's behaviour.
        shapes: of the layers, where they are not those of ``cfg``. A layer without attention drops no frames.
    """

    def __init__(
        self,
        cfg: HubertConfig,
        pruning: Optional[TokenPruning] = None,
        normalize: bool = False,
        pad_invariant: bool = True,
        shapes: Optional[HubertShapes] = None,
    ):
        uniform = cfg if shapes is None else without_units(cfg)
        super().__init__(uniform, SimpleNamespace(sample_rate=SAMPLE_RATE), [None])
        self.remove_pretraining_modules()
        self.cfg = cfg
        self.shapes = shapes or HubertShapes.uniform(cfg, self.post_extract_proj is not None)
        apply_shapes(self, self.shapes)
        self.relative_position = None
        if self.shapes.relative_buckets:
            self.relative_position = GatedRelativePosition(self.shapes, self.encoder.embedding_dim)
        self.kernels_strides = [(conv[0].kernel_size[0], conv[0].stride[0]) for conv in self._convs]
        self.pruning = pruning or TokenPruning([1.0] * len(self.encoder.layers))
        self.normalize = normalize
        self.pad_invariant = pad_invariant
        self.checkpoint_activations = False  # compute activations again in the backward pass
        rest_in_constant_frames(self)

    __deepcopy__ = copy_without_history

    @property
    def _convs(self):
        return self.feature_extractor.conv_layers

    def make_generation_fast_(self, **kwargs) -> None:
        """Called by fairseq before generation, when weight norm is folded; also folds it in an encoder alone."""
        if not kwargs:
            super().make_generation_fast_()
        onednn.channels_last_(self)
        pack_(self.encoder.layers)

    def forward_features(self, source: Tensor, lengths: Optional[Sequence[int]] = None) -> Tensor:
        """(batch, samples) -> (batch, channels, frames)."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.feature_grad_mult > 0):
            features = extract_conv_features(self._convs, source, lengths, self._runner())
        if features.requires_grad and self.feature_grad_mult != 1.0:
            features = GradMultiply.apply(features, self.feature_grad_mult)
        return features

    def forward(
        self, source: Tensor, lengths: Sequence[int], mask: bool = False, trace: bool = False
    ) -> Frames:
        """Encode waveforms.

        Args:
            source: (batch, samples) at 16 kHz, zero padded.
            lengths: valid samples of each utterance.
            mask: mask spans of frames and channels (`masking.span_mask`), of cfg's probabilities and lengths.
            trace: also record the frame positions that survive each layer.

        An utterance that is too short for a frame is filled up with zeros to one.
        """
        frames = self._embed(source, lengths, mask)
        if trace:
            self._encode(frames, lambda: frames.trace.append(frames.positions))
            del frames.trace[0]  # all of them enter the first layer
        else:
            self._encode(frames)
        return frames

    def layer_outputs(
        self,
        source: Tensor,
        lengths: Sequence[int],
        before_positions: bool = False,
        masked: Optional[Tensor] = None,
    ) -> tuple[list[Tensor], Optional[Tensor]]:
        """The hidden states of all layers, as distillation and feature extraction want them.

        Args:
            source: (batch, samples) at 16 kHz, zero padded.
            lengths: valid samples of each utterance.
            before_positions: the state 0 is the input of the positional convolution, as in the published DPHuBERT
                code (and torchaudio); by default it is what enters the first layer, as in transformers.
            masked: (batch, frames), True where the mask embedding is to stand for a frame; None: nowhere.

        Returns:
            (batch, frames, dim) for each: the state 0, then what leaves each layer, before the last norm of pre-norm
            models; and the padding mask (batch, frames), None when nothing is padded.

        Raises:
            ValueError: layers drop frames.
        """
        if not self.pruning.keeps_all:
            raise ValueError(f"outputs of all layers: they drop frames, found {self.pruning.keep_ratios}")
        frames, states = self._embed(source, lengths), []
        if masked is not None:
            frames.x = self._mask_frames(frames.x, masked)
        embedded = frames.x
        self._encode(frames, lambda: states.append(frames.x))
        if before_positions:
            states[0] = embedded
        return states, frames.padding_mask

    def _embed(self, source: Tensor, lengths: Sequence[int], mask: bool = False) -> Frames:
        """Waveforms to the frames that the positional convolution works on."""
        shortest = samples_of_a_frame(self.kernels_strides)
        lengths = [max(n, shortest) for n in lengths]
        source = F.pad(source, (0, max(0, shortest - source.shape[1]))).to(self.mask_emb.dtype)
        if self.normalize:
            source = normalize_waveform(source, lengths)
        features = self.forward_features(source, lengths if self.pad_invariant else None)
        x = self.project(features)
        if self.pad_invariant:
            frame_lengths = [conv_output_length(n, self.kernels_strides) for n in lengths]
        else:
            frame_lengths = chunked_frame_lengths(lengths, source.shape[1], x.shape[1])
        padding_mask = tokens.padding_mask_of(frame_lengths, x.shape[1], x.device)
        if mask:
            x = self._mask(x, frame_lengths)
        positions = torch.arange(x.shape[1], device=x.device).expand(x.shape[:2])
        return Frames(x, frame_lengths, padding_mask, positions)

    def project(self, features: Tensor) -> Tensor:
        """Features of the extractor (batch, channels, frames) -> frames (batch, frames, dim)."""
        x = self.layer_norm(features.transpose(1, 2))
        if self.post_extract_proj is not None:
            x = onednn.linear(self.post_extract_proj, x)
        return self.dropout_input(x)

    def frame_counts(self, samples: int) -> list[int]:
        """Frames of an utterance of ``samples``: entering the first layer, and leaving each layer.

        All 0 of what is too short for a frame, though `forward` makes one of it.
        """
        counts = [conv_output_length(samples, self.kernels_strides)]
        for index in range(len(self.encoder.layers)):
            counts.extend(self.keep_counts(index, counts[-1:]))
        return counts

    def macs(self, samples: int) -> dict[str, int]:
        """MACs by stage for one utterance of ``samples`` (see `counting.hubert_macs`)."""
        samples = max(samples, samples_of_a_frame(self.kernels_strides))
        return self._macs(samples, [conv[0].out_channels for conv in self._convs], self.shapes.layer_sizes())

    def _macs(self, samples: int, channels: Sequence[Size], layers: Sequence[LayerSize]) -> dict[str, Size]:
        frames = self.frame_counts(samples)
        scored = self.pruning.rule.reads_attention
        pos_conv = next(module for module in self.encoder.pos_conv if isinstance(module, nn.Conv1d))
        return hubert_macs(
            samples,
            [(size, *kernel_stride) for size, kernel_stride in zip(channels, self.kernels_strides)],
            self.shapes.projection,
            self.encoder.embedding_dim,
            self.shapes.head_dim,
            layers,
            pos_conv.kernel_size[0],
            pos_conv.groups,
            frames,
            [scored and after < before for before, after in zip(frames, frames[1:])],
            self.shapes.gate_units,
        )

    def _mask(self, x: Tensor, lengths: list[int]) -> Tensor:
        batch, frames, dim = x.shape
        generator = seeded_generator(lengths)
        if self.mask_prob > 0:
            mask = span_mask(lengths, frames, self.mask_prob, self.mask_length, generator)
            x = self._mask_frames(x, tokens.to_device(mask, x.device))
        if self.mask_channel_prob > 0:
            prob, span = self.mask_channel_prob, self.mask_channel_length
            mask = span_mask([dim] * batch, dim, prob, span, generator)
            x = x.masked_fill(tokens.to_device(mask, x.device).unsqueeze(1), 0)
        return x

    def _mask_frames(self, x: Tensor, mask: Tensor) -> Tensor:
        return torch.where(mask.unsqueeze(2), self.mask_emb.to(x.dtype), x)

    def _encode(self, frames: Frames, visit: Callable[[], None] = lambda: None) -> None:
        """Positions and layers; ``visit`` is called before the first layer and after each."""
        encoder = self.encoder
        self.add_positions(frames)
        skipped = [False] * len(encoder.layers)
        if self.training and encoder.layerdrop > 0:
            skipped = (torch.rand(len(encoder.layers)) < encoder.layerdrop).tolist()
        planned = self.planned_lengths(frames.lengths, skipped=skipped)
        if planned[-1] != frames.lengths:  # all of them in one copy
            planned = tokens.Lengths.send(planned, frames.x.device)
        frames.lengths, *frames.planned = planned
        visit()
        for index in range(len(encoder.layers)):
            if skipped[index]:
                frames.x = take_part(frames.x, self._parameters_of_layer(index))
            elif self.checkpoint_activations:
                after = self._runner()(partial(self._after_layer, index, replace(frames)), frames.x)
                vars(frames).update(vars(after))
            else:
                self.run_layer(index, frames)
            visit()
        if encoder.layer_norm_first:
            frames.x = encoder.layer_norm(frames.x)

    def add_positions(self, frames: Frames) -> None:
        """What is done before the first layer."""
        encoder, x = self.encoder, frames.x
        if frames.padding_mask is not None:
            x = x.masked_fill(frames.padding_mask.unsqueeze(-1), 0)
        x = x + positional_features(encoder.pos_conv, x, frames.padding_mask if self.pad_invariant else None)
        if not encoder.layer_norm_first:
            x = encoder.layer_norm(x)
        frames.x = F.dropout(x, p=encoder.dropout, training=self.training)

    def _runner(self) -> Callable:
        """How layers and blocks of the extractor are run."""
        return recompute if self.checkpoint_activations else run

    def _after_layer(self, index: int, frames: Frames, x: Tensor) -> Frames:
        """What a layer makes of ``frames`` with the states ``x``; ``frames`` itself stays, for a second pass."""
        frames = replace(frames, x=x)
        self.run_layer(index, frames)
        return frames

    def _parameters_of_layer(self, index: int) -> list[nn.Parameter]:
        modules = [self.encoder.layers[index]]
        if self.relative_position is not None and self.shapes.heads[index]:
            modules += [self.relative_position.layers[str(index)], self.relative_position.table]
        return [parameter for module in modules for parameter in module.parameters()]

    def run_layer(self, index: int, frames: Frames) -> None:
        """A layer, which drops frames if that is planned."""
        layer = self.encoder.layers[index]
        if self.shapes.heads[index]:
            self._attend(index, frames)
        else:
            frames.x = frames.x + layer.self_attn.out_proj()
            if not layer.layer_norm_first:
                frames.x = layer.self_attn_layer_norm(frames.x)
        self.feed_forward(index, frames)

    def feed_forward(self, index: int, frames: Frames) -> None:
        """The feed-forward block of a layer, and the norms around it."""
        layer, x = self.encoder.layers[index], frames.x
        if self.shapes.units[index]:
            x = layer.final_layer_norm(x) if layer.layer_norm_first else x
            x = onednn.linear(layer.fc2, layer.dropout2(onednn.linear(layer.fc1, x, layer.activation_fn)))
            x = frames.x + layer.dropout3(x)
        else:
            x = x + layer.fc2()
        frames.x = x if layer.layer_norm_first else layer.final_layer_norm(x)

    def _attend(self, index: int, frames: Frames) -> None:
        prunes = self.prunes(index, frames)
        residual, received, keys = self.attend(index, frames, prunes and self.pruning.rule.reads_attention)
        if prunes:
            self.drop_frames(index, frames, received, keys, residual)

    def attend(
        self, index: int, frames: Frames, scored: bool = False
    ) -> tuple[Tensor, Optional[Tensor], Tensor]:
        """The attention of a layer, and the norms around it.

        Returns:
            the residual stream (batch, frames, dim); what else `modules.self_attention` returns.
        """
        layer = self.encoder.layers[index]
        x = layer.self_attn_layer_norm(frames.x) if layer.layer_norm_first else frames.x
        x, received, keys = self._self_attention(index, x, frames, scored)
        x = frames.x + layer.dropout1(x)
        frames.x = x if layer.layer_norm_first else layer.self_attn_layer_norm(x)
        return x, received, keys

    def _self_attention(
        self, index: int, x: Tensor, frames: Frames, scored: bool
    ) -> tuple[Tensor, Optional[Tensor], Tensor]:
        """`modules.self_attention` of a layer."""
        attention, bias = self.encoder.layers[index].self_attn, None
        if self.relative_position is not None:
            bias = self.relative_position(index, x, frames)
        dropout = attention.dropout_module.p if attention.training else 0.0
        return self_attention(attention, x, frames.padding_mask, frames.sizes, scored, bias, dropout)

    def keep_counts(self, index: int, lengths: list[int]) -> list[int]:
        """As of its class; a layer without attention drops none."""
        return super().keep_counts(index, lengths) if self.shapes.heads[index] else lengths
