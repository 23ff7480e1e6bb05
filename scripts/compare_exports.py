#!/usr/bin/env python
"""What exports of a translator to ONNX change and save: the translations of a split, and the seconds.

    python scripts/compare_exports.py --checkpoint C --data data --onnx exported exported_int8

All translate in turns, on one thread. Seconds are of the processor, so that others who use it disturb them little.
"""

import time
from itertools import product
from pathlib import Path

from _cli import PlainParser, positive, run

import numpy as np
import sacrebleu
import torch
from tqdm import tqdm

from fairseq_prune.benchmarks.report import table
from fairseq_prune.checkpoints.runtime.engines import ENGINES, ONNX_RUNTIME
from fairseq_prune.checkpoints.runtime.hubert import OnnxTranslator
from fairseq_prune.data.audio import read_audio
from fairseq_prune.data.config import DataConfig
from fairseq_prune.data.manifest import check_audio, read_manifest
from fairseq_prune.inference.translation import Translator

ALONE = "checkpoint, one by one"


def seconds_of(translate, waveforms) -> tuple[list[str], float]:
    """The texts, and seconds of the processor."""
    start = time.process_time()
    texts = translate(waveforms)
    return texts, time.process_time() - start


def main(args):
    torch.set_num_threads(1)
    config = DataConfig.load(args.data)
    utterances = read_manifest(config.manifest(args.split))[: args.max_utterances]
    check_audio(utterances, config.audio_folder)
    waveforms = [
        torch.from_numpy(read_audio(config.audio_folder / u.audio, u.offset, u.n_frames)) for u in utterances
    ]
    translator = Translator(args.checkpoint, beam=args.beam)
    systems = {
        ALONE: lambda waveforms: translator.translate(waveforms, 1),
        f"checkpoint, {args.batch_size} at a time": lambda w: translator.translate(w, args.batch_size),
    }
    for folder, engine in product(args.onnx, args.engine):
        runner = OnnxTranslator(folder, threads=1, engine=engine)
        systems[f"{folder}, {engine}"] = lambda waveforms, runner=runner: [
            runner.text(waveform.numpy(), beam=args.beam) for waveform in waveforms
        ]
    for translate in systems.values():  # the first pass is slower
        translate(waveforms[:8])
    seconds, texts = {name: [] for name in systems}, {}
    for _ in tqdm(range(args.repeats), desc="turns"):
        for name, translate in systems.items():
            texts[name], spent = seconds_of(translate, waveforms)
            seconds[name].append(spent)
    rows, references = [], [u.tgt_text for u in utterances]
    for name in systems:
        same = np.mean([a == b for a, b in zip(texts[name], texts[ALONE])])
        ratios = np.array(seconds[ALONE]) / np.array(seconds[name])
        rows.append(
            {
                "system": name,
                "same translations %": f"{100 * same:.1f}",
                "BLEU": f"{sacrebleu.corpus_bleu(texts[name], [references]).score:.1f}",
                "ms an utterance": f"{1000 * np.median(seconds[name]) / len(waveforms):.1f}",
                "times as fast": f"{np.median(ratios):.2f} ({ratios.min():.2f} to {ratios.max():.2f})",
            }
        )
    print(table(rows))
    print(
        f"{len(utterances)} utterances of {args.split}, beam {args.beam}, {args.repeats} turns, one thread."
    )


if __name__ == "__main__":
    parser = PlainParser(__doc__)
    add = parser.add_argument
    add("--checkpoint", required=True, help="checkpoint of the task speech_translation")
    add("--onnx", type=Path, nargs="+", required=True, help="folders that export.py --format onnx wrote")
    add("--engine", nargs="+", choices=ENGINES, default=[ONNX_RUNTIME], help="what runs them")
    add("--data", required=True, help="data directory with config.yaml and manifests")
    add("--split", default="tst-COMMON", help="manifest to translate (default: tst-COMMON)")
    add("--max-utterances", type=positive(int), help="only the first ones")
    add("--beam", type=positive(int), default=5, help="beam size (default: 5)")
    add("--batch-size", type=positive(int), default=8, help="utterances at a time (default: 8)")
    add("--repeats", type=positive(int), default=5, help="turns (default: 5)")
    run(main, parser)
