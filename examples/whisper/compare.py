#!/usr/bin/env python
"""Compare ways to run a Whisper on one manifest: error rate and time of each, utterance by utterance, in one run.

    python examples/whisper/compare.py --manifest data/test.tsv --half report --out result \\
        --engine published=transformers:tiny_hf --engine dense=ours:tiny.pt \\
        --engine fast=ours:tiny.pt,audio_context=clip+4 --engine fw=faster-whisper:tiny_ct2,compute_type=int8

Every engine hears an utterance before the next utterance begins, so that ratios of time hold on a machine that does
other things too; with one thread, seconds are of the processor. A run that was stopped goes on where it was. The first
engine is the one that the others are compared with. Engines are described in engines.py.
"""

import argparse
import json
import os
import random
import sys
from pathlib import Path

import numpy as np
import torch
from engines import Settings, build, clock
from report import write_report
from tqdm import tqdm

from fairseq_prune.data.audio import SAMPLE_RATE, read_audio
from fairseq_prune.data.log_mel import MAX_SAMPLES
from fairseq_prune.data.manifest import read_manifest
from fairseq_prune.files import results_of


def half_of(utterances, half):
    """The utterances of every second speaker: "tune" has the first of the sorted names, "report" the second."""
    if half == "all":
        return utterances
    speakers = sorted({utterance.speaker for utterance in utterances}, key=lambda name: (len(name), name))
    chosen = set(speakers[0 if half == "tune" else 1 :: 2])
    return [utterance for utterance in utterances if utterance.speaker in chosen]


def main(args):
    torch.set_num_threads(args.threads)
    root = Path(args.audio_root or Path(args.manifest).parent)
    utterances = half_of(read_manifest(args.manifest), args.half)
    whole = [utterance for utterance in utterances if utterance.n_frames <= MAX_SAMPLES]
    if len(whole) < len(utterances):
        print(
            f"left out: {len(utterances) - len(whole)} utterances longer than Whisper's 30 s", file=sys.stderr
        )
    utterances = whole
    if args.sample is not None and args.sample < len(utterances):
        utterances = random.Random(args.seed).sample(utterances, args.sample)
    settings = Settings(args.language, args.task, args.beam)
    names = [entry.partition("=")[0] for entry in args.engine]
    if len(set(names)) < len(names):
        raise ValueError(f"--engine: found the names {', '.join(names)}, expected different ones")
    engines = {name: build(entry.partition("=")[2], settings) for name, entry in zip(names, args.engine)}
    args.out.mkdir(parents=True, exist_ok=True)
    lines = args.out / "results.jsonl"
    done = {(row["id"], row["engine"]) for row in results_of(lines)}
    warm = np.zeros(SAMPLE_RATE, dtype=np.float32)
    for engine in engines.values():  # what is done once is nobody's time
        engine.run(warm)
    with lines.open("a", encoding="utf-8") as file:
        for utterance in tqdm(utterances, unit="utterance"):
            waiting = [name for name in engines if (utterance.id, name) not in done]
            if not waiting:
                continue
            waveform = read_audio(root / utterance.audio, utterance.offset, utterance.n_frames)
            for name in waiting:
                engine = engines[name]
                engine.encoder_seconds[0] = 0.0
                start = clock()
                text = engine.run(waveform)
                row = {
                    "id": utterance.id,
                    "engine": name,
                    "text": text,
                    "reference": utterance.tgt_text if args.task == "translate" else utterance.src_text,
                    "audio_seconds": len(waveform) / SAMPLE_RATE,
                    "seconds": clock() - start,
                    "encoder_seconds": engine.encoder_seconds[0],
                    "encoder_macs": engine.macs(len(waveform)) if engine.macs else None,
                }
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
            file.flush()
    write_report(args.out, names, args.language, args.task)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--manifest", required=True, help="manifest of data_prep/prep_speech.py, with texts and speakers")
    add("--audio-root", help="folder that its paths begin at (default: the manifest's)")
    add("--half", choices=("all", "tune", "report"), default="all", help="speakers to take (default: all)")
    add("--sample", type=int, metavar="N", help="draw N of these utterances (default: all)")
    add("--seed", type=int, default=1, help="of --sample (default: 1)")
    add("--engine", action="append", required=True, metavar="NAME=KIND:PATH[,option=value...]")
    add("--language", help="of the speech; leave it out for English-only models")
    add("--task", choices=("transcribe", "translate"), default="transcribe")
    add("--beam", type=int, default=1)
    add("--threads", type=int, default=1)
    add("--out", type=Path, required=True, help="folder for results.jsonl and report.md")
    try:
        main(parser.parse_args())
    except (ImportError, OSError, ValueError) as error:
        if os.environ.get("FAIRSEQ_PRUNE_TRACEBACK"):
            raise
        sys.exit(f"error: {error}")
