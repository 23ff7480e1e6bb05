"""Two lines of Python: `load` a checkpoint, and translate, transcribe or understand audio with it."""

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any, Optional, Union

import numpy as np
import torch

from fairseq_prune.checkpoints.loading import load_checkpoint_file, model_and_task_options
from fairseq_prune.data.audio import SAMPLE_RATE, read_audio, resample
from fairseq_prune.data.pauses import cut_at_pauses
from fairseq_prune.inference.base import Pipeline
from fairseq_prune.inference.recognition import Recognizer
from fairseq_prune.inference.translation import Translator
from fairseq_prune.inference.understanding import Understander
from fairseq_prune.text.meanings import parse

Audio = Union[str, PathLike, np.ndarray, torch.Tensor]

# {task of the checkpoint: (what runs it, longest piece in seconds that it hears at once)}
PIPELINES = {
    "speech_translation": (Translator, 20.0),
    "spoken_language_understanding": (Understander, 30.0),
    "audio_finetuning": (Recognizer, 30.0),
}


@dataclass(frozen=True)
class Segment:
    """A piece of audio, ``start`` to ``end`` in seconds, and its text."""

    start: float
    end: float
    text: str


@dataclass(frozen=True)
class Result:
    """The text of one audio, and the pieces that it is made of."""

    text: str
    segments: list[Segment]


class Model:
    """A checkpoint that is ready for use; what it cannot do raises ValueError.

    Audio is a path of a file of any format and rate, or samples (samples,) in [-1, 1] as an array or a tensor with
    their rate; or a list of these. Long recordings are cut at pauses. The answer is a text, or with ``details`` a
    `Result`; a list of them for a list.
    """

    def __init__(self, pipeline: Pipeline, max_seconds: float):
        self.pipeline, self.max_seconds = pipeline, max_seconds

    def translate(
        self, audio: Union[Audio, Sequence[Audio]], rate: int = SAMPLE_RATE, details: bool = False
    ) -> Any:
        """What is said, in the language that the model translates to."""
        self._require(Translator, "translates")
        return self._texts(self.pipeline.translate, audio, rate, details)

    def transcribe(
        self, audio: Union[Audio, Sequence[Audio]], rate: int = SAMPLE_RATE, details: bool = False
    ) -> Any:
        """What is said, in the language that it is said in: of a recogniser, or of a translator with a CTC head."""
        self._require((Recognizer, Translator), "transcribes")
        transcribe = self.pipeline.recognize if isinstance(self.pipeline, Translator) else self._recognized
        return self._texts(transcribe, audio, rate, details)

    def understand(self, audio: Union[Audio, Sequence[Audio]], rate: int = SAMPLE_RATE) -> Any:
        """Intent and slots of commands of at most 30 s: {"intent", "slots", "text"}, intent None for no parse."""
        self._require(Understander, "understands commands")
        several = isinstance(audio, (list, tuple))
        found = [
            _meaning(text)
            for text in self.pipeline.texts(
                [_samples(item, rate) for item in (audio if several else [audio])]
            )
        ]
        return found if several else found[0]

    def _recognized(self, waveforms: Sequence[torch.Tensor]) -> list[str]:
        lengths = [len(waveform) for waveform in waveforms]
        labels = self.pipeline.recognize(lengths, waveforms.__getitem__)
        return [self.pipeline.text(found) for found in labels]

    def _texts(self, texts_of, audio, rate: int, details: bool) -> Any:
        several = isinstance(audio, (list, tuple))
        waveforms = [_samples(item, rate) for item in (audio if several else [audio])]
        times = [cut_at_pauses(waveform.numpy(), self.max_seconds) for waveform in waveforms]
        pieces = [waveform[start:end] for waveform, cuts in zip(waveforms, times) for start, end in cuts]
        texts = iter(texts_of(pieces))
        results = []
        for cuts in times:
            segments = [Segment(start / SAMPLE_RATE, end / SAMPLE_RATE, next(texts)) for start, end in cuts]
            text = " ".join(segment.text for segment in segments if segment.text)
            results.append(Result(text, segments) if details else text)
        return results if several else results[0]

    def _require(self, kinds, does: str) -> None:
        if not isinstance(self.pipeline, kinds):
            found = type(self.pipeline).__name__
            raise ValueError(f"the checkpoint is for a {found}, expected one that {does}")


def load(
    checkpoint: Union[str, PathLike],
    device: str = "cpu",
    half: bool = False,
    overrides: Optional[dict[str, Any]] = None,
    **options,
) -> Model:
    """A checkpoint of this package or of fairseq's CTC models, ready for use.

    Args:
        checkpoint: file that fairseq-train wrote.
        device: cpu, cuda, ...
        half: float16, on GPUs.
        overrides: options of the checkpoint to change, such as {"token_keep_ratio": 0.7}.
        options: of its pipeline, such as ``beam``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no checkpoint, or of a task that has no use of its own.
    """
    path = str(checkpoint)
    _, task = model_and_task_options(load_checkpoint_file(path, mmap=True), path)
    name = str(task.get("_name") or task.get("task"))
    if name not in PIPELINES:
        raise ValueError(f"{path}: a checkpoint of task {name}, expected one of {', '.join(PIPELINES)}")
    kind, max_seconds = PIPELINES[name]
    if overrides is not None:
        options["overrides"] = overrides
    return Model(kind(path, device=device, half=half, **options), max_seconds)


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
