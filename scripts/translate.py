#!/usr/bin/env python
"""Translate audio files with a trained checkpoint.

Any format that soundfile reads, any sample rate; long files are cut at pauses.

    python scripts/translate.py --checkpoint demo_out/pruned/checkpoint_best.pt talk.wav interview.flac
"""

import argparse
import json

import torch
from _cli import add_model_options, load_translator, run

from fairseq_prune.data.audio import SAMPLE_RATE, read_audio
from fairseq_prune.data.pauses import cut_at_pauses


def main(args):
    recordings = {path: torch.from_numpy(read_audio(path)) for path in args.audio}
    translator = load_translator(args)
    pieces = []
    for path, waveform in recordings.items():
        for start, end in cut_at_pauses(waveform.numpy(), args.max_seconds):
            pieces.append((path, start, end, waveform[start:end]))
    texts = translator.translate([piece[3] for piece in pieces], args.batch_size)
    for path in recordings:
        segments = [
            {"start": start / SAMPLE_RATE, "end": end / SAMPLE_RATE, "text": text}
            for (name, start, end, _), text in zip(pieces, texts)
            if name == path
        ]
        text = " ".join(segment["text"] for segment in segments)
        if args.json:
            print(json.dumps({"audio": path, "text": text, "segments": segments}, ensure_ascii=False))
        else:
            print(f"{path}\t{text}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_model_options(parser)
    parser.add_argument("audio", nargs="+", help="audio files")
    parser.add_argument(
        "--json", action="store_true", help="one JSON object a file, with the times of its segments"
    )
    parser.add_argument(
        "--max-seconds", type=float, default=20.0, help="longest piece that is translated at once"
    )
    run(main, parser)
