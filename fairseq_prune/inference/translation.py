"""Translating waveforms with a checkpoint alone: no data directory, no flags of the training."""

from collections.abc import Callable, Sequence
from typing import Any, Optional

import torch
from omegaconf import open_dict
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from fairseq_prune.checkpoints.loading import load_fairseq_state, load_state_dict_strictly
from fairseq_prune.inference.base import usable_device
from fairseq_prune.modules.hubert.encoder import TokenPrunedHubert
from fairseq_prune.tasks.speech_translation import SpeechTranslationTask
from fairseq_prune.text.sentencepiece import SentencePieceVocabulary


class Translator:
    """A trained `hubert_deltalm`, ready to translate.

    Waveforms are tensors (samples,) at 16 kHz in [-1, 1]. Those too short for a frame of the encoder (400
    samples in HuBERT) hold no speech: their texts are empty.

    Args:
        checkpoint: file that fairseq-train wrote under the task ``speech_translation``.
        overrides: options of the checkpoint to change, such as ``{"token_keep_ratio": 0.7}``.
        beam: beam size.
        max_tokens: longest translation, in tokens.
        device: where to run.
        half: float16, on GPUs.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        ValueError: it is no checkpoint, or of another task; an override or the device cannot be used.
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
        self.device = usable_device(device)
        if half and self.device.type == "cpu":
            raise ValueError("float16 needs a GPU, found device cpu")
        state = load_fairseq_state(checkpoint, overrides)
        cfg = state["cfg"]
        if cfg.task._name != "speech_translation":
            raise ValueError(
                f"{checkpoint}: a checkpoint of task {cfg.task._name}, expected speech_translation"
            )
        self.task = SpeechTranslationTask.from_state(cfg.task, state["task_state"])
        model = self.task.build_model(cfg.model, from_checkpoint=True)
        load_state_dict_strictly(model, state["model"], checkpoint)
        # tells the pruning how far it has warmed up
        model.set_num_updates(state["optimizer_history"][-1]["num_updates"])
        self.model = model.eval().to(self.device)
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
        """A batch for the model: waveforms, zero padded to (batch, samples), and their lengths (batch,)."""
        lengths = torch.tensor([len(waveform) for waveform in waveforms])
        source = pad_sequence(list(waveforms), batch_first=True)
        return {"net_input": {"src_tokens": source.to(self.device), "src_lengths": lengths.to(self.device)}}

    def batches(self, waveforms: Sequence[Tensor], batch_size: int) -> list[list[int]]:
        """Indices of the waveforms that fill a frame, ``batch_size`` of similar length together, longest first."""
        order = sorted(range(len(waveforms)), key=lambda i: -len(waveforms[i]))
        order = [i for i in order if self.hubert.frame_counts(len(waveforms[i]))[0] > 0]
        return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]

    def translate(
        self, waveforms: Sequence[Tensor], batch_size: int = 8, progress: Optional[str] = None
    ) -> list[str]:
        """The best translation of each waveform; ``progress`` is the title of a progress bar."""

        def best(sample):
            return [found[0]["tokens"] for found in self.generator.generate([self.model], sample)]

        return self._texts(best, self.task.vocabularies["target"], waveforms, batch_size, progress)

    def recognize(
        self, waveforms: Sequence[Tensor], batch_size: int = 8, progress: Optional[str] = None
    ) -> list[str]:
        """Greedy CTC transcripts from the encoder.

        Raises:
            ValueError: the model was trained without a CTC loss.
        """
        if self.task.ctc_vocabulary is None:
            raise ValueError("the model has no CTC head (--ctc-text none)")

        def best(sample):
            out = self.model.encoder(**sample["net_input"])
            classes = self.model.encoder.ctc_logits(out).argmax(-1).transpose(0, 1)
            paths = [row[:n].unique_consecutive() for row, n in zip(classes, out["ctc_lengths"][0].tolist())]
            return [path[path != 0] for path in paths]

        return self._texts(best, self.task.ctc_vocabulary, waveforms, batch_size, progress)

    @torch.inference_mode()
    def _texts(
        self,
        best: Callable[[dict], list[Tensor]],
        vocabulary: SentencePieceVocabulary,
        waveforms: Sequence[Tensor],
        batch_size: int,
        progress: Optional[str],
    ) -> list[str]:
        """The text of each waveform, from what ``best`` makes of batches: the tokens (length,) of each row."""
        texts = [""] * len(waveforms)
        batches = self.batches(waveforms, batch_size)
        for indices in tqdm(batches, desc=progress, unit="batch", disable=progress is None):
            for i, tokens in zip(indices, best(self.batch([waveforms[i] for i in indices]))):
                texts[i] = vocabulary.decode(tokens)
        return texts

    @torch.inference_mode()
    def kept_frames(self, waveform: Tensor) -> list[Tensor]:
        """The places (frames,), in the unpruned utterance, of the frames that leave each layer of the encoder.

        Raises:
            ValueError: the waveform is too short for a frame.
        """
        if not self.hubert.frame_counts(len(waveform))[0]:
            raise ValueError(f"a waveform of {len(waveform)} samples is too short for a frame of the encoder")
        source = self.batch([waveform])["net_input"]["src_tokens"]
        return [places[0].cpu() for places in self.hubert(source, [len(waveform)], trace=True).trace]
