"""Translating waveforms with a checkpoint of the task `speech_translation`."""

from collections.abc import Sequence
from typing import Any, Optional

import torch
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from fairseq_prune.checkpoints.previews import preview_of
from fairseq_prune.data.audio import SAMPLE_RATE
from fairseq_prune.inference.base import GenerationPipeline
from fairseq_prune.modules.deltalm.generation import prepare_for_generation_
from fairseq_prune.modules.hubert.convolution import samples_of_a_frame
from fairseq_prune.modules.hubert.encoder import TokenPrunedHubert


class Translator(GenerationPipeline):
    """A trained `hubert_deltalm`, ready to translate.

    Waveforms that are too short for a frame of the encoder (400 samples in HuBERT) hold no speech.

    Args:
        int8: the decoder's weights in 8 bits, on the CPU.
    """

    task_name = "speech_translation"

    def __init__(
        self,
        checkpoint: str,
        overrides: Optional[dict[str, Any]] = None,
        beam: int = 5,
        max_tokens: int = 200,
        device: str = "cpu",
        half: bool = False,
        int8: bool = False,
    ):
        self.int8 = int8
        super().__init__(checkpoint, overrides, beam, max_tokens, device, half)

    def build_model(self, checkpoint: str, cfg: DictConfig, state: dict) -> nn.Module:
        """As of `Pipeline`."""
        if self.int8 and self.device.type != "cpu":
            raise ValueError(f"weights of 8 bits: found device {self.device}, expected the CPU")
        model = super().build_model(checkpoint, cfg, state).eval()
        preview = preview_of(state, checkpoint)
        if self.int8 or (preview is not None and self.device.type == "cpu"):
            prepare_for_generation_(model.decoder, self.int8, preview)
        return model

    @property
    def hubert(self) -> TokenPrunedHubert:
        """The encoder; its attribute ``pruning`` may be replaced between calls."""
        return self.model.encoder.hubert

    @property
    def shortest(self) -> int:
        """Samples of a frame."""
        return samples_of_a_frame(self.hubert.kernels_strides)

    @property
    def heard(self) -> Optional[dict[str, float]]:
        """Of the training's utterances, in seconds, as `data.speech_pieces.as_heard` takes it; None in older files."""
        found = self.task.heard
        return found and {name: samples / SAMPLE_RATE for name, samples in found.items()}

    def batch(self, waveforms: Sequence[Tensor]) -> dict[str, dict[str, Tensor]]:
        """Waveforms, zero padded to (batch, samples), and their lengths (batch,)."""
        lengths = torch.tensor([len(waveform) for waveform in waveforms])
        source = pad_sequence(list(waveforms), batch_first=True)
        return {"net_input": {"src_tokens": source.to(self.device), "src_lengths": lengths.to(self.device)}}

    def decode(self, tokens: Tensor) -> str:
        return self.task.vocabularies["target"].decode(tokens)

    def translate(
        self, waveforms: Sequence[Tensor], batch_size: int = 8, progress: Optional[str] = None
    ) -> list[str]:
        """The best translation of each waveform; ``progress`` is the title of a progress bar."""
        return self.texts(waveforms, batch_size, progress)

    def recognize(
        self, waveforms: Sequence[Tensor], batch_size: int = 8, progress: Optional[str] = None
    ) -> list[str]:
        """Greedy CTC transcripts from the encoder.

        Raises:
            ValueError: the model was trained without a CTC loss.
        """
        if self.task.ctc_vocabulary is None:
            raise ValueError("the model has no CTC head (--ctc-text none)")
        batches = self.batches(waveforms, batch_size)
        return self.run(batches, len(waveforms), waveforms.__getitem__, self._transcripts, progress)

    def _transcripts(self, waveforms: list[Tensor]) -> list[str]:
        """The CTC transcripts of a batch: the likeliest path, without repetitions and blanks."""
        out = self.model.encoder(**self.batch(waveforms)["net_input"])
        classes = self.model.encoder.ctc_logits(out).argmax(-1).transpose(0, 1)
        paths = [row[:n].unique_consecutive() for row, n in zip(classes, out["ctc_lengths"][0].tolist())]
        return [self.task.ctc_vocabulary.decode(path[path != 0]) for path in paths]

    @torch.inference_mode()
    def kept_frames(self, waveform: Tensor) -> list[Tensor]:
        """The places (frames,), in the unpruned utterance, of the frames that leave each layer of the encoder.

        Raises:
            ValueError: the waveform is too short for a frame.
        """
        if len(waveform) < self.shortest:
            raise ValueError(f"a waveform of {len(waveform)} samples is too short for a frame of the encoder")
        source = self.batch([waveform])["net_input"]["src_tokens"]
        return [places[0].cpu() for places in self.hubert(source, [len(waveform)], trace=True).trace]
