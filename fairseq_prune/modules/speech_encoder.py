"""The speech side of a translation model: token-pruned HuBERT, an adaptor, and layers of a text encoder."""

from contextlib import nullcontext
from typing import Optional

import torch
from fairseq.models import FairseqEncoder
from fairseq.modules import LayerNorm, SinusoidalPositionalEmbedding
from torch import Tensor, nn

from fairseq_prune.modules.constant_frames import rest_in_constant_frames
from fairseq_prune.modules.deltalm.model import DeltaLMEncoder
from fairseq_prune.modules.hubert.convolution import ConvAdaptor, conv_output_length
from fairseq_prune.modules.hubert.encoder import TokenPrunedHubert
from fairseq_prune.modules.taking_part import take_part
from fairseq_prune.pruning.tokens import padding_mask_of, to_device


class SpeechEncoder(FairseqEncoder):
    """Waveforms to the memory that the decoder attends to.

    Args:
        hubert: encoder of waveforms.
        adaptor: shortens its frames to the width of the decoder.
        text_encoder: DeltaLM's encoder, of which the layers from ``first_text_layer`` on continue; or None.
        memory_positions: add sinusoidal positions of the frames that survived, in their original places, so
            that the decoder knows where they came from.
        ctc_classes: size of the CTC vocabulary of a linear head on HuBERT's last layer, before the adaptor;
            0 = no head.
        freeze_updates: HuBERT gets no gradients before this training update.
    """

    def __init__(
        self,
        hubert: TokenPrunedHubert,
        adaptor: ConvAdaptor,
        text_encoder: Optional[DeltaLMEncoder] = None,
        first_text_layer: int = 0,
        memory_positions: bool = False,
        ctc_classes: int = 0,
        freeze_updates: int = 0,
    ):
        super().__init__(None)
        self.hubert = hubert
        self.adaptor = adaptor
        self.norm = LayerNorm(adaptor.out_dim)
        self.text_encoder = text_encoder
        self.first_text_layer = first_text_layer
        self.memory_positions = memory_positions
        self.ctc_head = nn.Linear(hubert.encoder.embedding_dim, ctc_classes) if ctc_classes else None
        self.freeze_updates = freeze_updates
        self.num_updates = 0
        self.register_buffer("_position_table", torch.empty(0), persistent=False)
        rest_in_constant_frames(self)

    def set_num_updates(self, num_updates: int) -> None:
        """Called by fairseq's trainer; ends the freezing of HuBERT."""
        self.num_updates = num_updates

    def hubert_is_frozen(self) -> bool:
        """Whether the update in progress leaves HuBERT as it is."""
        return self.num_updates < self.freeze_updates

    def text_layer_parameters(self) -> list[nn.Parameter]:
        """Of the text encoder, those that speech goes through."""
        layers = [
            self.text_encoder.layers[i] for i in range(self.first_text_layer, self.text_encoder.num_layers)
        ]
        modules = [*layers, self.text_encoder.layer_norm]
        return [parameter for module in modules if module is not None for parameter in module.parameters()]

    def max_positions(self) -> int:
        """Samples; the task's options limit the length, not the model."""
        return 10**8

    def forward(self, src_tokens: Tensor, src_lengths: Tensor) -> dict[str, list[Tensor]]:
        """Encode waveforms (batch, samples) with ``src_lengths`` (batch,) valid samples.

        Returns:
            fairseq's encoder output: ``encoder_out`` [(frames, batch, dim)], ``encoder_padding_mask``
            [(batch, frames)] or []; ``positions`` [(batch, frames)], what frame each was before pruning; with a
            CTC head, what `ctc_logits` needs, and ``ctc_lengths`` [(batch,)] after pruning.
        """
        hubert = self.hubert
        lengths = src_lengths.tolist()  # the only wait for the device: all later lengths follow from these
        masked = self.training and (hubert.mask_prob > 0 or hubert.mask_channel_prob > 0)
        frozen = self.training and self.hubert_is_frozen()
        with torch.no_grad() if frozen else nullcontext():
            frames = hubert(src_tokens, lengths, mask=masked)
        if frozen:
            frames.x = take_part(frames.x, hubert.parameters())
        x, lengths, positions = self.adaptor(frames.x, frames.lengths, frames.positions)
        x = self.norm(x)
        if self.memory_positions:
            before_pruning = max(1, conv_output_length(src_tokens.shape[1], hubert.kernels_strides))
            x = x + self._position_embedding(positions, before_pruning).to(x.dtype)
        padding_mask = padding_mask_of(lengths, x.shape[1], x.device)
        if self.text_encoder is not None:
            x = self.text_encoder.forward_layers(x, padding_mask, self.first_text_layer)
        out = {
            "encoder_out": [x.transpose(0, 1)],
            "encoder_padding_mask": [] if padding_mask is None else [padding_mask],
            "encoder_embedding": [],
            "encoder_states": [],
            "src_tokens": [],
            "src_lengths": [],
            "positions": [positions],
        }
        if self.ctc_head is not None:
            if self.training:  # here, since DistributedDataParallel overlooks parameters used after `forward`
                out["ctc_logits"] = [self.ctc_head(frames.x).transpose(0, 1)]
            else:
                out["ctc_frames"] = [frames.x.transpose(0, 1)]
            out["ctc_lengths"] = [to_device(frames.lengths, x.device)]
        return out

    def ctc_logits(self, encoder_out: dict[str, list[Tensor]]) -> Tensor:
        """(frames, batch, classes) after pruning; computed on demand, since generation does without.

        Raises:
            ValueError: there is no CTC head.
        """
        if self.ctc_head is None:
            raise ValueError("a CTC loss (--ctc-weight) needs --ctc-text source or target")
        if "ctc_logits" in encoder_out:
            return encoder_out["ctc_logits"][0]
        return self.ctc_head(encoder_out["ctc_frames"][0])

    def _position_embedding(self, positions: Tensor, frames: int) -> Tensor:
        """(batch, kept) original frame numbers, below ``frames`` -> (batch, kept, dim)."""
        if self._position_table.shape[0] < frames:
            size = max(1024, 2 * frames)
            table = SinusoidalPositionalEmbedding.get_embedding(size, self.norm.normalized_shape[0])
            self._position_table = to_device(table, positions.device)
        return self._position_table[positions]

    def reorder_encoder_out(self, encoder_out: dict[str, list[Tensor]], new_order: Tensor):
        """The sentences of ``encoder_out`` in ``new_order`` (batch * beam,), as beam search wants them; without CTC's.

        Where beam search repeats each sentence for its beams, nothing is repeated: attention sees fewer sentences than
        rows, and takes successive rows for the beams of one. ``beam_size`` [int] says how many these are.
        """
        encoder_out = {name: value for name, value in encoder_out.items() if not name.startswith("ctc_")}
        sentences = encoder_out["encoder_out"][0].shape[1]
        beam = encoder_out.get("beam_size", [0])[0]
        if not beam:
            beam = len(new_order) // sentences
            repeats = torch.arange(sentences, device=new_order.device).repeat_interleave(beam)
            if beam > 1 and torch.equal(new_order, repeats):
                return {**encoder_out, "beam_size": [beam]}
            beam = 1
        elif len(new_order) == sentences * beam:  # beams change places within their sentences
            return encoder_out
        rows = new_order if beam == 1 else new_order.view(-1, beam)[:, 0] // beam
        reordered = {
            name: [value.index_select(1 if name == "encoder_out" else 0, rows) for value in values]
            for name, values in encoder_out.items()
            if name != "beam_size"
        }
        return {**reordered, **({"beam_size": [beam]} if beam > 1 else {})}
