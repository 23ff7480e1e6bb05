#!/usr/bin/env python
"""Translate audio files with a trained checkpoint.

Any format that soundfile reads, any sample rate; long files are cut at pauses.

    python scripts/translate.py --checkpoint demo_out/pruned/checkpoint_best.pt talk.wav interview.flac
"""

import json

import torch
from _cli import Parser, load_translator, positive, run

from fairseq_prune.data.audio import SAMPLE_RATE, read_audio
from fairseq_prune.data.pauses import cut_at_pauses


def main(args):
    waveforms = [read_audio(path) for path in args.audio]
    pieces = [cut_at_pauses(waveform, args.max_seconds) for waveform in waveforms]
    cut = [
        torch.from_numpy(waveform[start:end])
        for waveform, times in zip(waveforms, pieces)
        for start, end in times
    ]
    texts = iter(load_translator(args).translate(cut, args.batch_size, progress="translating"))
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
    parser = Parser(__doc__)
    parser.add_argument("audio", nargs="+", help="audio files")
    parser.add_argument(
        "--json",
        action="store_true",
        help="one JSON object a file, with its segments and their times in seconds",
    )
    parser.add_argument(
        "--max-seconds",
        type=positive(float),
        default=20.0,
        help="longest piece that is translated at once; not longer than what the model has learned from (default: 20)",
    )
    run(main, parser)
