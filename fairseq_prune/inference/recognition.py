"""Recognising speech with CTC checkpoints of fairseq's task `audio_finetuning`."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Optional

import torch
from fairseq import tasks
from fairseq.data import Dictionary
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from fairseq_prune.data.labelled_audio import WORD_END, words
from fairseq_prune.inference.base import Pipeline, batches_by_length
from fairseq_prune.inference.ctc_decoding import Decode, greedy
from fairseq_prune.modules.hubert.convolution import (
    conv_output_length,
    extract_conv_features,
    normalize_waveform,
    samples_of_a_frame,
)
from fairseq_prune.pruning.tokens import padding_mask_of
from fairseq_prune.text.dictionaries import read_dictionary

MODELS = ("wav2vec_ctc", "wav2vec_ctc_parp", "hubert_ctc", "hubert_ctc_parp")
CLUSTERS = "w2v_encoder.w2v_model.label_embs_concat"  # what HuBERT was pretrained on


class Recognizer(Pipeline):
    """A trained `wav2vec_ctc`, `hubert_ctc`, or one of this package, ready to recognise.

    Args:
        checkpoint: file that fairseq-train wrote under the task ``audio_finetuning``.
        dictionary: of the labels, for checkpoints that hold none, as the published ones: a fairseq dictionary, or a
            data folder with one.
        overrides, device, half: as of `Pipeline`.
    """

    task_name = "audio_finetuning"

    def __init__(
        self,
        checkpoint: str,
        dictionary: Optional[Path] = None,
        overrides: Optional[dict[str, Any]] = None,
        device: str = "cpu",
        half: bool = False,
    ):
        self._dictionary_file = dictionary
        super().__init__(checkpoint, overrides, device, half)
        self.labels, self.dictionary = self.cfg.task.labels, self.task.target_dictionary
        self.greedy = greedy(self.dictionary)

    def check(self, checkpoint: str, cfg: DictConfig) -> None:
        if not getattr(cfg.task, "labels", None) or cfg.model._name not in MODELS:
            raise ValueError(
                f"{checkpoint}: a model {cfg.model._name} of task {cfg.task._name}; expected one of "
                f"{', '.join(MODELS)}, of task audio_finetuning with labels"
            )

    def build_task(self, checkpoint: str, cfg: DictConfig, state: dict):
        """The task, with the dictionary of the checkpoint or of the user."""
        cfg.task._name = self.task_name  # in 2020 it was audio_pretraining with labels
        task = tasks.setup_task(cfg.task)
        task.load_state_dict(state.get("task_state") or {})
        if "target_dictionary" not in task.state_dict():
            path = self._dictionary_file
            if path is None:
                raise ValueError(f"{checkpoint}: holds no dictionary; give the one of its training (--dict)")
            if path.is_dir():
                path = path / f"dict.{cfg.task.labels}.txt"
            task.load_state_dict({"target_dictionary": read_dictionary(path)})
        return task

    def build_model(self, checkpoint: str, cfg: DictConfig, state: dict) -> nn.Module:
        """The model, with an extractor whose statistics are of each waveform alone."""
        clusters = state["model"].get(CLUSTERS)
        if clusters is not None and "dictionaries" not in self.task.state_dict():
            self.task.load_state_dict({"dictionaries": [_dictionary_of_size(len(clusters))]})
        if "prune_sparsity" in cfg.model:
            cfg.model.prune_sparsity = 0.0  # what is pruned is zero already, without the state of pruning
        model = super().build_model(checkpoint, cfg, state)
        encoder = model.w2v_encoder.w2v_model
        encoder.feature_extractor = self.extractor = _OwnStatistics(encoder.feature_extractor)
        if hasattr(encoder, "forward_padding_mask"):
            # HuBERT counts valid frames from the length of the batch
            encoder.forward_padding_mask = self.extractor.padding_mask
        return model

    @property
    def shortest(self) -> int:
        """Samples of a frame."""
        return samples_of_a_frame(self.extractor.kernels_strides)

    def text(self, labels: str) -> str:
        """Words of letters; other labels as they are."""
        return words(labels) if WORD_END in self.dictionary.symbols else labels

    def recognize(
        self,
        lengths: Sequence[int],
        read: Callable[[int], Tensor],
        decode: Optional[Decode] = None,
        max_samples: int = 16000 * 60,
        progress: Optional[str] = None,
    ) -> list[str]:
        """The labels of each waveform, with spaces between.

        Args:
            lengths: samples of each waveform.
            read: the waveform of an index; read when its batch is due, so that a corpus need not fit in memory.
            decode: greedy by default.
            max_samples: in a batch, with padding.
            progress: title of a progress bar.
        """
        batches = batches_by_length(lengths, max_samples=max_samples, shortest=self.shortest)

        def labels(waveforms: list[Tensor]) -> list[str]:
            return (decode or self.greedy)(*self.log_probs(waveforms))

        return self.run(batches, len(lengths), read, labels, progress)

    @torch.inference_mode()
    def log_probs(self, waveforms: Sequence[Tensor]) -> tuple[Tensor, list[int]]:
        """Log probabilities (batch, frames, labels) in float32, and the valid frames of each waveform."""
        lengths = [len(waveform) for waveform in waveforms]
        source = pad_sequence(list(waveforms), batch_first=True).to(self.device)
        if self.cfg.task.normalize:
            source = normalize_waveform(source, lengths)
        source = source.half() if self.half else source
        padding = (
            torch.arange(source.shape[1], device=self.device)
            >= torch.tensor(lengths, device=self.device)[:, None]
        )
        self.extractor.lengths = lengths
        out = self.model(source=source, padding_mask=padding)
        found = self.model.get_normalized_probs(out, log_probs=True)
        return found.transpose(0, 1).float(), self.extractor.frames(lengths)


def _dictionary_of_size(symbols: int) -> Dictionary:
    """For HuBERT, which has its size by its dictionary, and in `hubert_ctc` does not keep it."""
    dictionary = Dictionary()
    for number in range(symbols - len(dictionary)):
        dictionary.add_symbol(str(number))
    return dictionary


class _OwnStatistics(nn.Module):
    """A convolutional extractor whose statistics are of each waveform's own samples, ``lengths`` of the next batch."""

    def __init__(self, extractor: nn.Module):
        super().__init__()
        self.conv_layers = extractor.conv_layers
        convolutions = [module for block in self.conv_layers for module in block.modules()]
        convolutions = [module for module in convolutions if isinstance(module, nn.Conv1d)]
        self.kernels_strides = [(conv.kernel_size[0], conv.stride[0]) for conv in convolutions]
        self.lengths: list[int] = []

    def frames(self, lengths: Sequence[int]) -> list[int]:
        """Valid frames of waveforms."""
        return [conv_output_length(length, self.kernels_strides) for length in lengths]

    def forward(self, source: Tensor) -> Tensor:
        """(batch, samples) -> (batch, channels, frames)."""
        return extract_conv_features(self.conv_layers, source, self.lengths)

    def padding_mask(self, features: Tensor, _) -> Optional[Tensor]:
        """Of features (batch, frames, channels); None without padding."""
        return padding_mask_of(self.frames(self.lengths), features.shape[1], features.device)
