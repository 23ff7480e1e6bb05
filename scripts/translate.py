#!/usr/bin/env python
"""Translate audio files with a trained checkpoint.

The files may have any format that soundfile reads, and any sample rate. They are cut at pauses into pieces like the
utterances that the model has learned from, as long and with as much quiet at their edges; what holds no speech is left
out.

    python scripts/translate.py --checkpoint demo_out/pruned/checkpoint_best.pt talk.wav interview.flac
    python scripts/translate.py --onnx exported talk.wav                    (a folder of export.py --format onnx)
    python scripts/translate.py --onnx exported --engine openvino talk.wav
"""

import json
import sys
from pathlib import Path

from _cli import Parser, add_engine_options, engine_options, load_translator, positive, run

import torch
from tqdm import tqdm

from fairseq_prune.checkpoints.runtime.hubert import OnnxTranslator
from fairseq_prune.data.audio import SAMPLE_RATE, read_audio
from fairseq_prune.data.speech_pieces import as_heard, speech_pieces

# options that an export does not take
OF_CHECKPOINTS = ("batch_size", "device", "fp16", "int8", "model_overrides")
UNKNOWN = 20.0  # seconds of the longest piece for a checkpoint that says nothing of its training


def kind_of_pieces(translator, asked):
    """Arguments of `speech_pieces`; says where they do not come from the checkpoint."""
    heard = translator.heard
    if heard is None:
        if asked is None:
            print(
                "the checkpoint does not say how long the utterances of its training were: pieces of up to"
                f" {UNKNOWN:g} s, or as --max-seconds says",
                file=sys.stderr,
            )
        return {"longest": asked or UNKNOWN, "typical": asked or UNKNOWN}
    if asked is not None and asked > heard["longest"]:
        print(
            f"--max-seconds {asked:g}: the model has learned from utterances of up to {heard['longest']:.1f} s, and may"
            " leave out what is said in longer ones",
            file=sys.stderr,
        )
    return as_heard(heard, asked)


def load(args):
    """What translates, and a function of pieces [(samples,)] that gives their texts.

    Raises:
        ValueError: neither a checkpoint nor an export was given, both, or an option that the one given does not take.
    """
    if bool(args.checkpoint) == bool(args.onnx):
        raise ValueError("expected either --checkpoint or --onnx")
    engine = engine_options(args)
    if args.checkpoint:
        translator = load_translator(args, int8=args.int8)
        return translator, lambda cut: translator.translate(cut, args.batch_size, progress="translating")
    for action in args.options:
        if action.dest in OF_CHECKPOINTS and getattr(args, action.dest) != action.default:
            raise ValueError(f"{action.option_strings[0]}: found with --onnx, expected with --checkpoint")
    runner = OnnxTranslator(args.onnx, **engine)
    return runner, lambda cut: [
        runner.text(piece.numpy(), beam=args.beam) for piece in tqdm(cut, "translating", disable=None)
    ]


def main(args):
    waveforms = [read_audio(path) for path in args.audio]
    translator, translate = load(args)
    kind = kind_of_pieces(translator, args.max_seconds)
    pieces = [speech_pieces(waveform, **kind) for waveform in waveforms]
    cut = [
        torch.from_numpy(waveform[start:end])
        for waveform, times in zip(waveforms, pieces)
        for start, end in times
    ]
    texts = iter(translate(cut))
    for path, times in zip(args.audio, pieces):
        segments = [
            {"start": start / SAMPLE_RATE, "end": end / SAMPLE_RATE, "text": next(texts)}
            for start, end in times
        ]
        text = " ".join(segment["text"] for segment in segments if segment["text"])
        if args.json:
            print(json.dumps({"audio": path, "text": text, "segments": segments}, ensure_ascii=False))
        else:
            print(f"{path}\t{text}")


if __name__ == "__main__":
    parser = Parser(__doc__, required=False)
    parser.add_argument("--onnx", type=Path, help="instead: a folder that export.py --format onnx wrote")
    add_engine_options(parser)
    parser.add_argument("--int8", action="store_true", help="the decoder's weights in 8 bits, for the CPU")
    parser.add_argument("audio", nargs="+", help="audio files")
    parser.add_argument(
        "--json",
        action="store_true",
        help="one JSON object a file, with its segments and their times in seconds",
    )
    parser.add_argument(
        "--max-seconds",
        type=positive(float),
        help="longest piece that is translated at once (default: the longest utterance of the training, which the"
        " checkpoint holds)",
    )
    parser.set_defaults(options=parser._actions)
    run(main, parser)
