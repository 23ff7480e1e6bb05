"""Translating waveforms with a checkpoint alone: no data directory, no flags of the training."""

from collections.abc import Sequence
from typing import Any, Optional

import torch
from fairseq import checkpoint_utils
from omegaconf import open_dict
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from fairseq_prune.checkpoints.loading import load_fairseq_state
from fairseq_prune.modules.hubert import TokenPrunedHubert
from fairseq_prune.tasks.speech_translation import SpeechTranslationTask


class Translator:
    """A trained `hubert_deltalm`, ready to translate.

    Args:
        checkpoint: file that fairseq-train wrote under the task ``speech_translation``.
        overrides: options of the checkpoint to change, such as ``{"token_keep_ratio": 0.7}``.
        beam: beam size.
        max_tokens: longest translation, in tokens.
        device: where to run.
        half: float16.

    Raises:
        FileNotFoundError, ValueError: the file is missing, is no checkpoint, or of another task.
    """

    def __init__(
        self,
        checkpoint: str,
        overrides: Optional[dict[str, Any]] = None,
        beam: int = 5,
        max_tokens: int = 200,
        device: str = "cpu",
        half: bool = False,
    ):
        state = load_fairseq_state(checkpoint, overrides)
        cfg = state["cfg"]
        if cfg.task._name != "speech_translation":
            raise ValueError(
                f"{checkpoint}: a checkpoint of task {cfg.task._name}, expected speech_translation"
            )
        self.task = SpeechTranslationTask.from_state(cfg.task, state["task_state"])
        models, _, _ = checkpoint_utils.load_model_ensemble_and_task(
            [checkpoint], task=self.task, state=state
        )
        self.device = torch.device(device)
        self.model = models[0].eval().to(self.device)
        if half:
            self.model.half()
        with open_dict(cfg.generation):
            cfg.generation.beam = beam
            cfg.generation.max_len_a, cfg.generation.max_len_b = 0, max_tokens
        self.model.prepare_for_inference_(cfg)
        self.generator = self.task.build_generator([self.model], cfg.generation)

    @property
    def hubert(self) -> TokenPrunedHubert:
        """The encoder; its attribute ``pruning`` may be replaced between calls."""
        return self.model.encoder.hubert

    def batch(self, waveforms: Sequence[Tensor]) -> dict[str, dict[str, Tensor]]:
        """A batch for the model: waveforms (samples,) at 16 kHz, zero padded to (batch, samples)."""
        lengths = torch.tensor([len(waveform) for waveform in waveforms])
        source = pad_sequence(list(waveforms), batch_first=True)
        return {"net_input": {"src_tokens": source.to(self.device), "src_lengths": lengths.to(self.device)}}

    def batches(self, waveforms: Sequence[Tensor], batch_size: int) -> list[list[int]]:
        """Indices of waveforms of similar length, ``batch_size`` together, the longest first."""
        order = sorted(range(len(waveforms)), key=lambda i: -len(waveforms[i]))
        return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]

    @torch.inference_mode()
    def translate(self, waveforms: Sequence[Tensor], batch_size: int = 8) -> list[str]:
        """The best translation of each waveform (samples,) at 16 kHz, in [-1, 1]."""
        texts = [""] * len(waveforms)
        for indices in self.batches(waveforms, batch_size):
            sample = self.batch([waveforms[i] for i in indices])
            for i, hypotheses in zip(indices, self.generator.generate([self.model], sample)):
                texts[i] = self.task.vocabularies["target"].decode(hypotheses[0]["tokens"].cpu())
        return texts

    @torch.inference_mode()
    def recognize(self, waveforms: Sequence[Tensor], batch_size: int = 8) -> list[str]:
        """Greedy CTC transcripts from the encoder.

        Raises:
            ValueError: the model was trained without a CTC loss.
        """
        if self.task.ctc_vocabulary is None:
            raise ValueError("the model has no CTC head (--ctc-text none)")
        texts = [""] * len(waveforms)
        for indices in self.batches(waveforms, batch_size):
            sample = self.batch([waveforms[i] for i in indices])
            out = self.model.encoder(**sample["net_input"])
            best = out["ctc_logits"][0].argmax(-1).transpose(0, 1).cpu()
            for i, row, length in zip(indices, best, out["ctc_lengths"][0].tolist()):
                tokens = torch.unique_consecutive(row[:length])
                texts[i] = self.task.ctc_vocabulary.decode(tokens[tokens != 0])
        return texts
