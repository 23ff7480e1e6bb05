"""Two lines of Python: `load` a checkpoint, then translate, transcribe or understand audio, or take features of it."""

from collections.abc import Sequence
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any, Optional, Union

import numpy as np
import torch

from fairseq_prune.checkpoints.hubert.huggingface import HEADS
from fairseq_prune.checkpoints.hubert.own import OUR_MODELS
from fairseq_prune.checkpoints.hubert.reading import FAMILIES
from fairseq_prune.checkpoints.huggingface_folder import read_json
from fairseq_prune.checkpoints.loading import load_checkpoint_file, model_and_task_options
from fairseq_prune.checkpoints.whisper.foreign import is_whisper
from fairseq_prune.data.audio import SAMPLE_RATE, read_audio, resample
from fairseq_prune.data.pauses import cut_at_pauses
from fairseq_prune.data.speech_pieces import as_heard, speech_pieces
from fairseq_prune.inference.base import Pipeline
from fairseq_prune.inference.features import FeatureExtractor
from fairseq_prune.inference.recognition import Recognizer
from fairseq_prune.inference.translation import Translator
from fairseq_prune.inference.understanding import Understander
from fairseq_prune.inference.whisper.transcriber import WhisperTranscriber
from fairseq_prune.text.meanings import parse
from fairseq_prune.text.subtitles import Segment, Transcript

Audio = Union[str, PathLike, np.ndarray, torch.Tensor]

HOP = SAMPLE_RATE // 100  # what a transcript counts in
# {task: (what runs it, longest piece in seconds where the checkpoint names none)}; Whispers have a task of their own
PIPELINES = {"speech_translation": (Translator, 20.0), "audio_finetuning": (Recognizer, 30.0)}


class Model:
    """A checkpoint that is ready for use; what it cannot do raises ValueError.

    Audio is a path of a file of any format and rate, or samples (samples,) in [-1, 1] as an array or a tensor with
    their rate in Hz; or a list of these. Recordings may be of any length. The answer is a text, or with ``details`` a
    `fairseq_prune.text.subtitles.Transcript`, whose segments have times in seconds, and scores where the model gives
    them; a list of them for a list.
    """

    def translate(
        self, audio: Union[Audio, Sequence[Audio]], rate: int = SAMPLE_RATE, details: bool = False
    ) -> Any:
        """What is said, in the language that the model translates to."""
        return self._answers(self._translate, audio, rate, details)

    def transcribe(
        self, audio: Union[Audio, Sequence[Audio]], rate: int = SAMPLE_RATE, details: bool = False
    ) -> Any:
        """What is said, in the language that it is said in."""
        return self._answers(self._transcribe, audio, rate, details)

    def understand(self, audio: Union[Audio, Sequence[Audio]], rate: int = SAMPLE_RATE) -> Any:
        """Intent and slots of commands of at most 30 s: {"intent", "slots", "text"}, intent None for no parse."""
        return self._answers(self._understand, audio, rate, True)

    def features(
        self,
        audio: Union[Audio, Sequence[Audio]],
        rate: int = SAMPLE_RATE,
        layers: Optional[Sequence[int]] = None,
    ) -> Any:
        """Hidden states of an encoder of HuBERT's kind: a tensor (layers, frames, dim), 50 frames a second.

        Args:
            layers: 0 is what enters the first layer; None: all.
        """
        several = isinstance(audio, (list, tuple))
        waveforms = [_samples(item, rate) for item in (audio if several else [audio])]
        found = [self.extractor.features([waveform], layers)[0] for waveform in waveforms]
        return found if several else found[0]

    def _answers(self, answer, audio, rate: int, details: bool) -> Any:
        several = isinstance(audio, (list, tuple))
        found = answer([_samples(item, rate) for item in (audio if several else [audio])])
        found = found if details else [transcript.text for transcript in found]
        return found if several else found[0]

    def _translate(self, waveforms: list[torch.Tensor]) -> list[Transcript]:
        raise ValueError("the checkpoint cannot translate")

    def _transcribe(self, waveforms: list[torch.Tensor]) -> list[Transcript]:
        raise ValueError("the checkpoint cannot transcribe")

    def _understand(self, waveforms: list[torch.Tensor]) -> list[dict[str, Any]]:
        raise ValueError(
            "the checkpoint cannot understand commands, expected one of spoken_language_understanding"
        )

    @property
    def extractor(self) -> FeatureExtractor:
        """What gives the features; ValueError where nothing does."""
        raise ValueError("the checkpoint has no encoder of HuBERT's kind, whose features could be had")


class EncoderModel(Model):
    """An encoder of HuBERT's kind."""

    extractor = None

    def __init__(self, extractor: FeatureExtractor):
        self.extractor = extractor


class PieceModel(Model):
    """A translator or a recogniser, which hears pieces: longer recordings are cut at pauses.

    Its features are those of its encoder, in which no frame is dropped.
    """

    def __init__(self, pipeline: Pipeline, max_seconds: float):
        self.pipeline, self.max_seconds = pipeline, max_seconds

    @cached_property
    def extractor(self):
        """Of the encoder in it."""
        if isinstance(self.pipeline, Translator):
            return FeatureExtractor(self.pipeline.hubert, self.pipeline.device)
        return FeatureExtractor.load(self.pipeline.checkpoint, str(self.pipeline.device), self.pipeline.half)

    def _translate(self, waveforms):
        if not isinstance(self.pipeline, Translator):
            return super()._translate(waveforms)
        return self._in_pieces(self.pipeline.translate, waveforms)

    def _transcribe(self, waveforms):
        recognize = self.pipeline.recognize if isinstance(self.pipeline, Translator) else self._recognize
        return self._in_pieces(recognize, waveforms)

    def _recognize(self, waveforms: Sequence[torch.Tensor]) -> list[str]:
        lengths = [len(waveform) for waveform in waveforms]
        labels = self.pipeline.recognize(lengths, waveforms.__getitem__)
        return [self.pipeline.text(found) for found in labels]

    def _cut(self, waveform: np.ndarray) -> list[tuple[int, int]]:
        """(start, end) of pieces, like the utterances of the training where the checkpoint tells of them."""
        heard = getattr(self.pipeline, "heard", None)
        if heard is None:
            return cut_at_pauses(waveform, self.max_seconds)
        return speech_pieces(waveform, **as_heard(heard))

    def _in_pieces(self, texts_of, waveforms: list[torch.Tensor]) -> list[Transcript]:
        times = [self._cut(waveform.numpy()) for waveform in waveforms]
        pieces = [waveform[start:end] for waveform, cuts in zip(waveforms, times) for start, end in cuts]
        texts = iter(texts_of(pieces))
        transcripts = []
        for waveform, cuts in zip(waveforms, times):
            segments = [
                Segment(
                    number,
                    start // HOP,
                    start / SAMPLE_RATE,
                    end / SAMPLE_RATE,
                    f" {next(texts).strip()}".rstrip(),
                )
                for number, (start, end) in enumerate(cuts)
            ]
            transcripts.append(Transcript(segments, seconds=len(waveform) / SAMPLE_RATE))
        return transcripts


class WhisperModel(Model):
    """A Whisper; one that was trained for it understands commands too."""

    def __init__(self, source: str, **options):
        self.source, self.options = source, options
        self.transcriber = WhisperTranscriber(source, **options)

    def _transcribe(self, waveforms):
        return self.transcriber.transcribe(waveforms)

    def _translate(self, waveforms):
        if not self.transcriber.multilingual:
            return super()._translate(waveforms)
        return WhisperTranscriber(self.source, **{**self.options, "task": "translate"}).transcribe(waveforms)

    def _understand(self, waveforms):
        device, half = (
            self.options.get(name, default) for name, default in (("device", "cpu"), ("half", False))
        )
        understander = Understander(self.source, self.options.get("overrides"), device=device, half=half)
        return [_meaning(text) for text in understander.texts(waveforms)]


def load(
    checkpoint: Union[str, PathLike],
    device: str = "cpu",
    half: bool = False,
    overrides: Optional[dict[str, Any]] = None,
    **options,
) -> Model:
    """A checkpoint of this package, of fairseq's CTC models, or a Whisper of anybody, ready for use.

    Args:
        checkpoint: file that fairseq-train wrote; of encoders and Whisper also a folder of Hugging Face, of Whisper one
            of CTranslate2.
        device: cpu, cuda, ...
        half: float16, on GPUs.
        overrides: options of the checkpoint to change, such as {"token_keep_ratio": 0.7}.
        options: of what runs it: ``beam`` of a `Translator`, or fields of `TranscriptionOptions` of a Whisper.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no checkpoint, or of a task that has no use of its own.
    """
    path = str(checkpoint)
    options.update(device=device, half=half, overrides=overrides)
    if _is_encoder_folder(Path(path)):
        return EncoderModel(FeatureExtractor.load(path, device, half))
    if is_whisper(path):
        return WhisperModel(path, **options)
    model, task = model_and_task_options(load_checkpoint_file(path, mmap=True), path)
    name = str(task.get("_name") or task.get("task"))
    if str(model.get("_name") or model.get("arch")) in (*FAMILIES, *OUR_MODELS):
        return EncoderModel(FeatureExtractor.load(path, device, half))
    if name not in PIPELINES:
        raise ValueError(
            f"{path}: a checkpoint of task {name}, expected {', '.join(PIPELINES)}, an encoder, or a Whisper"
        )
    kind, max_seconds = PIPELINES[name]
    return PieceModel(kind(path, **options), max_seconds)


def _is_encoder_folder(path: Path) -> bool:
    """Whether a folder of transformers holds an encoder of HuBERT's kind."""
    config = path / "config.json"
    return config.is_file() and read_json(config).get("model_type") in HEADS


def _samples(audio: Audio, rate: int) -> torch.Tensor:
    """(samples,) at 16 kHz."""
    if isinstance(audio, (str, PathLike)):
        return torch.from_numpy(read_audio(audio))
    waveform = audio.detach().cpu().numpy() if isinstance(audio, torch.Tensor) else np.asarray(audio)
    if waveform.ndim != 1 or waveform.dtype.kind != "f":
        raise ValueError(
            f"audio: found {waveform.dtype} of shape {waveform.shape}, expected floating-point samples (samples,)"
        )
    return torch.from_numpy(resample(waveform.astype(np.float32), rate, SAMPLE_RATE))


def _meaning(text: str) -> dict[str, Any]:
    try:
        return {**parse(text).to_dict(), "text": text}
    except ValueError:
        return {"intent": None, "slots": [], "text": text}
