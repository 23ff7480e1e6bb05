#!/usr/bin/env python
"""Understand spoken commands: intent and slots of audio files as JSON, a line each.

python scripts/understand.py --checkpoint student/checkpoint_best.pt lights.wav weather.flac
python scripts/understand.py --onnx exported lights.wav                 (a folder of export.py --format onnx)
"""

import json

from _cli import PlainParser, add_engine_options, engine_options, overrides, positive, run

import torch

from fairseq_prune.checkpoints.runtime.whisper import OnnxWhisper
from fairseq_prune.data.audio import SAMPLE_RATE, read_audio
from fairseq_prune.data.log_mel import MAX_SAMPLES, log_mel
from fairseq_prune.inference.base import is_silent
from fairseq_prune.inference.understanding import Understander
from fairseq_prune.text.byte_level_bpe import ByteLevelBPE
from fairseq_prune.text.meanings import parse


def read_command(path) -> torch.Tensor:
    """The waveform (samples,) of a file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no audio, or longer than the context.
    """
    waveform = read_audio(path)
    if len(waveform) > MAX_SAMPLES:
        raise ValueError(
            f"{path}: {len(waveform) / SAMPLE_RATE:.1f} s of audio, the context is {MAX_SAMPLES // SAMPLE_RATE} s"
        )
    return torch.from_numpy(waveform)


def onnx_texts(folder, waveforms, engine) -> list[str]:
    """What an exported model writes of each waveform (samples,)."""
    model, tokenizer = OnnxWhisper(folder, **engine), ByteLevelBPE.load(folder)
    bins = model.config["mel_bins"]
    return [
        "" if is_silent(waveform) else tokenizer.decode(model.generate(log_mel(waveform, bins)))
        for waveform in waveforms
    ]


def as_json(path, text: str) -> dict:
    """What is printed of a file; an answer that is no parse has no intent."""
    try:
        return {"audio": path, **parse(text).to_dict(), "text": text}
    except ValueError:
        return {"audio": path, "intent": None, "slots": [], "text": text}


def main(args):
    engine = engine_options(args)
    waveforms = [read_command(path) for path in args.audio]
    if args.checkpoint:
        model = Understander(
            args.checkpoint, args.model_overrides, args.beam, device=args.device, half=args.fp16
        )
        texts = model.texts(waveforms, args.batch_size)
    else:
        texts = onnx_texts(args.onnx, waveforms, engine)
    for path, text in zip(args.audio, texts):
        print(json.dumps(as_json(path, text), ensure_ascii=False))


if __name__ == "__main__":
    parser = PlainParser(__doc__)
    add = parser.add_argument
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--checkpoint", help="checkpoint of the task spoken_language_understanding")
    model.add_argument(
        "--onnx",
        metavar="FOLDER",
        help="folder that export.py --format onnx wrote; greedy, one file at a time",
    )
    add_engine_options(parser)
    add("audio", nargs="+", help="audio files, of at most 30 s each")
    add("--beam", type=positive(int), default=1, help="beam size (default: 1)")
    add("--batch-size", type=positive(int), default=8, help="utterances at a time (default: 8)")
    add("--device", default="cpu", help="cpu (default), cuda, cuda:1, ...")
    add("--fp16", action="store_true", help="float16, for GPUs")
    add(
        "--model-overrides",
        type=overrides,
        default={},
        help="options of the checkpoint to change: \"{'audio_context': '30s'}\"",
    )
    run(main, parser)
