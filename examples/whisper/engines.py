"""Ways to run a Whisper, ours and others', behind one function: waveform in, text and seconds out.

An engine is named on the command line as KIND:PATH[,option=value...]:

    ours:tiny.pt,audio_context=clip+4,token_keep_ratio=0.5     options of the checkpoint to change
    onnx:folder                                                what scripts/export.py --format onnx wrote
    ours:tiny.pt,token_keep_ratios=1;0.5;1;1                   lists have semicolons
    transformers:folder                                        a folder of Hugging Face
    faster-whisper:folder,compute_type=int8                    a folder of CTranslate2
    whisper-cpp:ggml.bin,audio_context=clip+4,flash_attn=0     a file of whisper.cpp's converter or quantiser

README.md says how to install pywhispercpp and how to convert for it.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Optional

import numpy as np
import torch

from fairseq_prune.data.audio import SAMPLE_RATE

MAX_TOKENS = 224  # of a text, for all engines
FLASH_BLOCK = 256  # encoder frames that whisper.cpp's flash attention takes at once


@dataclass
class Settings:
    """How every engine writes: greedily and without timestamps, so that the engines do the same work."""

    language: Optional[str] = None  # None for English-only models
    task: str = "transcribe"
    beam: int = 1


@dataclass
class Engine:
    """``run`` is the text of a waveform (samples,) float32; ``encoder_seconds`` grows while the encoder runs."""

    run: Callable[[np.ndarray], str]
    encoder_seconds: list[float] = field(default_factory=lambda: [0.0])
    macs: Optional[Callable[[int], int]] = None  # of the encoder, for so many samples


def build(spec: str, settings: Settings) -> Engine:
    """The engine that a command line names.

    Raises:
        ValueError: an unknown kind, or an option without a value.
        ImportError: the library of this kind is not installed.
    """
    kind, _, rest = spec.partition(":")
    path, *pairs = rest.split(",")
    if kind not in KINDS or not path:
        raise ValueError(f"found {spec!r}, expected KIND:PATH with KIND one of {', '.join(KINDS)}")
    options = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise ValueError(f"{spec}: found {pair!r}, expected option=value")
        options[name] = _number(value)
    try:
        return KINDS[kind](path, options, settings)
    except ImportError as error:
        raise ImportError(f"{spec}: {error} (examples/whisper/README.md: how to install)") from error


def _number(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text.replace(";", ",")


def clock() -> float:
    """Seconds: of the processor with one thread, so that other programs do not count; of the wall with more."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def timed(function: Callable, seconds: list[float]) -> Callable:
    """``function``, whose time is added to ``seconds[0]``."""

    def call(*arguments, **named):
        start = clock()
        found = function(*arguments, **named)
        seconds[0] += clock() - start
        return found

    return call


def ours(path: str, options: dict[str, Any], settings: Settings) -> Engine:
    """A checkpoint of this package, or any source that scripts/transcribe.py takes."""
    from fairseq_prune.data.log_mel import mel_frames
    from fairseq_prune.inference.whisper.transcriber import WhisperTranscriber

    int8 = bool(options.pop("int8", 0))
    guard = options.pop("guard", 0)  # fall back to 30 s, and to sampling, where a text fails
    transcriber = WhisperTranscriber(
        path,
        overrides=options,
        int8=int8,
        language=settings.language,
        task=settings.task,
        beam=settings.beam,
        timestamps=False,
        temperatures=(0.0, 0.2, 0.4, 0.6, 0.8, 1.0) if guard else (0.0,),
        no_speech_threshold=1.0,  # the other engines write something of every clip
        max_tokens=MAX_TOKENS,
    )
    engine = Engine(lambda waveform: transcriber.transcribe([waveform])[0].text)
    encoder = transcriber.listener.model.encoder
    encoder.forward = timed(encoder.forward, engine.encoder_seconds)
    engine.macs = lambda samples: encoder.macs(mel_frames(samples))["total"]
    return engine


def onnx(path: str, options: dict[str, Any], settings: Settings) -> Engine:
    """An export of scripts/export.py --format onnx, with numpy and ONNX Runtime."""
    from fairseq_prune.checkpoints.runtime.whisper import OnnxWhisper
    from fairseq_prune.data.log_mel import log_mel
    from fairseq_prune.text.byte_level_bpe import ByteLevelBPE

    model, tokenizer = OnnxWhisper(path, threads=torch.get_num_threads()), ByteLevelBPE.load(path)
    bins = model.config["mel_bins"]

    def run(waveform):
        return tokenizer.decode(model.generate(log_mel(torch.from_numpy(waveform), bins), MAX_TOKENS))

    engine = Engine(run)
    model.encode = timed(model.encode, engine.encoder_seconds)
    return engine


def transformers(path: str, options: dict[str, Any], settings: Settings) -> Engine:
    """A folder of Hugging Face, with its own features and its own generation."""
    from transformers import WhisperForConditionalGeneration, WhisperProcessor

    model = WhisperForConditionalGeneration.from_pretrained(path).eval()
    processor = WhisperProcessor.from_pretrained(path)
    how = {"max_new_tokens": MAX_TOKENS, "num_beams": settings.beam, "do_sample": False}
    if settings.language is not None:
        how.update(language=settings.language, task=settings.task)

    @torch.inference_mode()
    def run(waveform):
        features = processor(waveform, sampling_rate=SAMPLE_RATE, return_tensors="pt").input_features
        tokens = model.generate(features, **how)
        return processor.batch_decode(tokens, skip_special_tokens=True)[0]

    engine = Engine(run)
    encoder = model.get_encoder()
    encoder.forward = timed(encoder.forward, engine.encoder_seconds)
    return engine


def faster_whisper(path: str, options: dict[str, Any], settings: Settings) -> Engine:
    """A folder of CTranslate2 under faster-whisper, without voice activity detection."""
    from faster_whisper import WhisperModel

    model = WhisperModel(path, device="cpu", cpu_threads=torch.get_num_threads(), **options)

    def run(waveform):
        segments, _ = model.transcribe(
            waveform,
            language=settings.language or "en",
            task=settings.task,
            beam_size=settings.beam,
            temperature=0.0,
            without_timestamps=True,
            condition_on_previous_text=False,
            no_speech_threshold=1.0,
            max_new_tokens=MAX_TOKENS,
        )
        return " ".join(segment.text.strip() for segment in segments)

    engine = Engine(run)
    model.encode = timed(model.encode, engine.encoder_seconds)
    return engine


def whisper_cpp(path: str, options: dict[str, Any], settings: Settings) -> Engine:
    """A file of ggml weights under whisper.cpp, by pywhispercpp; its fallback to sampling is off.

    Options: ``audio_context`` (``30s``, ``clip``, ``clip+SECONDS``), ``flash_attn`` (0 or 1). The encoder's seconds
    include the cross-attention's keys and the decoder's first step.

    Raises:
        ValueError: an unknown option or audio context, or a file of another kind.
        OSError: the file cannot be read.
    """
    from fairseq_prune.data.log_mel import MAX_SAMPLES, mel_frames
    from fairseq_prune.modules.whisper.context import silence_of

    silence, flash = silence_of(options.pop("audio_context", "30s")), bool(options.pop("flash_attn", 1))
    if options:
        raise ValueError(f"whisper-cpp: found {', '.join(options)}, expected audio_context or flash_attn")
    from pywhispercpp.model import Model, pw

    with open(path, "rb") as file:  # pywhispercpp would download what is missing, and crash on another file
        if file.read(4) != b"lmgg":
            raise ValueError(f"{path}: found another kind of file, expected ggml weights of whisper.cpp")
    logging.getLogger("pywhispercpp").setLevel(logging.WARNING)  # a line at every clip
    model = Model(
        path,
        params_sampling_strategy=int(settings.beam > 1),
        redirect_whispercpp_logs_to=None,
        context_params={"flash_attn": flash},
        n_threads=torch.get_num_threads(),
        language=settings.language or "en",
        translate=settings.task == "translate",
        beam_search={"beam_size": settings.beam, "patience": -1.0},
        greedy={"best_of": 1},
        no_timestamps=True,
        suppress_nst=True,  # the symbols that the other engines do not write either
        temperature_inc=0.0,
        no_speech_thold=1.0,
        max_tokens=MAX_TOKENS,
        print_progress=False,
    )
    whole = mel_frames(MAX_SAMPLES) // 2

    def positions(samples):
        if silence is None:
            return whole
        needed = (mel_frames(samples) + silence + 1) // 2
        # flash attention takes whole blocks, and does not mask what earlier audio left in the last one
        return min(-(-needed // FLASH_BLOCK) * FLASH_BLOCK if flash else needed, whole)

    def run(waveform):
        return " ".join(part.text for part in model.transcribe(waveform, audio_ctx=positions(len(waveform))))

    engine, began = Engine(run), []

    def begin(context):
        began.append(clock())
        return True

    def first_step(context, tokens, logits):
        if began:
            engine.encoder_seconds[0] += clock() - began.pop()

    pw.assign_encoder_begin_callback(model._params, begin)
    pw.assign_logits_filter_callback(model._params, first_step)
    return engine


KINDS = {
    "ours": ours,
    "onnx": onnx,
    "transformers": transformers,
    "faster-whisper": faster_whisper,
    "whisper-cpp": whisper_cpp,
}
