"""Transcribing and translating recordings with a Whisper alone: no data folder, no flags of the training."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Optional

from tqdm import tqdm

from fairseq_prune.data.audio import SAMPLE_RATE
from fairseq_prune.inference.whisper.loading import WhisperPipeline
from fairseq_prune.inference.whisper.long_form import batched, sequential
from fairseq_prune.inference.whisper.options import TranscriptionOptions
from fairseq_prune.inference.whisper.recordings import as_recording
from fairseq_prune.inference.whisper.windows import Listener
from fairseq_prune.modules.whisper.packing import prepare_for_generation_
from fairseq_prune.text.subtitles import Transcript


class WhisperTranscriber:
    """A Whisper, ready to transcribe recordings of any length or to translate them to English.

        transcriber = WhisperTranscriber("whisper.pt", language="de", task="translate")
        for transcript in transcriber.transcribe(["talk.wav"]):
            print(transcript.text, transcript.segments[0].start)

    Args:
        source: a checkpoint of this package, a folder of Hugging Face or CTranslate2, or a `.pt` of OpenAI.
        overrides: options of the checkpoint to change, such as ``{"audio_context": "clip+4"}``.
        device: where to run.
        half: float16, on GPUs.
        tokenizer: tokenizer.json or OpenAI's .tiktoken, for a source that holds none.
        int8: the decoder's weights in 8 bits, on the CPU.
        plain: leave the decoder's layers as they are, for a caller that changes their weights; slower.
        options: fields of `TranscriptionOptions`.

    Raises:
        FileNotFoundError: there is no such source.
        ValueError: it is no Whisper; an option does not go with it; an override or the device cannot be used; int8
            and plain.
    """

    def __init__(
        self,
        source,
        overrides: Optional[dict[str, Any]] = None,
        device: str = "cpu",
        half: bool = False,
        tokenizer=None,
        int8: bool = False,
        plain: bool = False,
        **options,
    ):
        if int8 and plain:
            raise ValueError("int8 and plain: found both, expected one at most")
        self.options = TranscriptionOptions(**options)
        pipeline = WhisperPipeline(source, overrides, device, half, tokenizer)
        pipeline.require(self.options.language, self.options.task)
        if not plain:
            prepare_for_generation_(pipeline.model.decoder, int8, pipeline.preview)
        self.multilingual = pipeline.multilingual
        self.listener = Listener(pipeline, self.options)

    def transcribe(self, audio: Sequence, progress: Optional[str] = None) -> list[Transcript]:
        """The transcript of each recording.

        Args:
            audio: paths, samples (n,) at 16 kHz in [-1, 1], or `recordings.Recording`.
            progress: title of a progress bar over seconds of audio.

        Raises:
            FileNotFoundError, ValueError: a file is missing or no audio, or longer than a window while the option
                ``long_form`` is off. All files are looked at first.
        """
        found: list[Optional[Transcript]] = [None] * len(audio)
        for number, transcript in self.transcribe_each(audio, progress):
            found[number] = transcript
        return found

    def transcribe_each(
        self, audio: Sequence, progress: Optional[str] = None
    ) -> Iterator[tuple[int, Transcript]]:
        """(number, transcript) of each recording as soon as it is finished; arguments as of `transcribe`."""
        recordings = [as_recording(one) for one in audio]
        longest = self.listener.longest
        if self.options.long_form == "off":
            for recording in recordings:
                if recording.samples > longest:
                    raise ValueError(
                        f"{recording.name}: {recording.seconds:.1f} s of audio, expected at most "
                        f"{longest / SAMPLE_RATE:g} s where --long-form is off"
                    )
        read: Callable = sequential if self.options.long_form == "sequential" else batched
        total, heard = sum(recording.seconds for recording in recordings), 0.0
        with tqdm(total=math.ceil(total), desc=progress, unit="s", disable=progress is None) as bar:
            for step in read(self.listener, recordings):
                heard += step.seconds
                bar.update(min(round(heard), bar.total) - bar.n)
                if step.transcript is not None:
                    yield step.number, step.transcript
