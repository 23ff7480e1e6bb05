#!/usr/bin/env python
"""Transcribe a part of the utterances with a checkpoint, and add a line of results.

    python examples/compress_whisper/score.py --checkpoint sparse.pt --way parp-0.5 --data data --split report \\
        --out results.jsonl

The data are those of split.py. A line that is there already, of the same way, split and seed, is not made again.
"""

import ast
import json
import time
from collections import Counter
from pathlib import Path

import torch
from ways import error_rate, way

from fairseq_prune.checkpoints.loading import load_checkpoint_file
from fairseq_prune.checkpoints.sparse import STATE
from fairseq_prune.command_line import PlainParser, finish
from fairseq_prune.cuts.sparser_weights import component_weights
from fairseq_prune.data.manifest import read_manifest
from fairseq_prune.evaluation.error_rates import word_error_rate
from fairseq_prune.evaluation.normalizers import text_normalizer
from fairseq_prune.files import results_of
from fairseq_prune.inference.whisper.recordings import FileRecording
from fairseq_prune.inference.whisper.transcriber import WhisperTranscriber

# greedy, without timestamps and fallbacks; no reference has as many tokens. Of the silence after a clip, one frame in 8
# is heard: that costs no error that shows (examples/whisper), and saves half of the time
TRANSCRIBING = dict(
    overrides={"silence_stride": 8},
    temperatures=(0.0,),
    timestamps=False,
    compression_ratio_threshold=float("inf"),
    logprob_threshold=float("-inf"),
    batch_size=16,
    max_tokens=150,
)
MOST = 6  # utterances of a speaker, which all have


def transcriber_of(path, options="", int8=False):
    """A Whisper that transcribes as all rows do.

    Args:
        options: of its checkpoint, to change: "silence_stride=32,token_keep_ratios=1;0.5;1;1", lists with semicolons.
            int8=1 gives the decoder weights of 8 bits.
    """
    pairs = dict(option.partition("=")[::2] for option in options.split(",") if option)
    values = {name: _value(text.replace(";", ",")) for name, text in pairs.items()}
    int8 = bool(values.pop("int8", int8))
    overrides = {**TRANSCRIBING["overrides"], **values}
    return WhisperTranscriber(path, **{**TRANSCRIBING, "overrides": overrides}, int8=int8)


def _value(text):
    try:
        value = ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text
    return text if isinstance(value, tuple) else value


def recordings(data, split, most=None):
    """Utterances of a split, the first ``most`` of each speaker, and their audio."""
    rows, heard = [], Counter()
    for row in read_manifest(data / f"{split}.tsv"):
        heard[row.speaker] += 1
        if most is None or heard[row.speaker] <= most:
            rows.append(row)
    return rows, [FileRecording(data / row.audio, row.offset, row.n_frames) for row in rows]


def errors(transcriber, rows, audio):
    """Of each utterance, and the processor time of all."""
    normalize = text_normalizer("english")
    order = sorted(range(len(rows)), key=lambda i: rows[i].n_frames)  # lengths that are alike in a batch
    start = time.process_time()
    transcripts = transcriber.transcribe([audio[i] for i in order])
    seconds = time.process_time() - start
    texts = {i: transcript.text for i, transcript in zip(order, transcripts)}
    counts = [word_error_rate([normalize(row.src_text)], [normalize(texts[i])]) for i, row in enumerate(rows)]
    return {
        "errors": [count.errors for count in counts],
        "words": [count.tokens for count in counts],
        "seconds": round(seconds, 1),
    }


def append(path, line):
    """Add a line of results, and print it in short."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    of = {key: value for key, value in line.items() if key not in ("errors", "words")}
    print(f"{of}: WER {error_rate(line):.2f}", flush=True)


def counted_weights(path) -> dict:
    """Share of zeros among the weights that are pruned, and how many of all weights are not zero."""
    checkpoint = load_checkpoint_file(path)
    pruned = component_weights(checkpoint, path).values()
    zeros = sum(int((weight == 0).sum()) for weight in pruned) / sum(weight.numel() for weight in pruned)
    whole = [value for name, value in checkpoint["model"].items() if name != STATE]
    return {
        "pruned": zeros,
        "of_all_components": zeros,
        "weights": sum(int(torch.count_nonzero(value)) for value in whole),
    }


def main(args):
    torch.set_num_threads(1)
    found = way(args.split, args.way, "", 0.0, args.seed)
    keys = ("split", "score", "seed")
    if any(all(line[key] == found[key] for key in keys) for line in results_of(args.out)):
        return
    weights = counted_weights(args.checkpoint)
    transcriber = transcriber_of(args.checkpoint, args.options, args.int8)
    counted = errors(transcriber, *recordings(args.data, args.split, args.most_of_a_speaker))
    append(args.out, {**found, "sparsity": weights["pruned"], **weights, **counted})


if __name__ == "__main__":
    parser = PlainParser(__doc__)
    add = parser.add_argument
    add("--checkpoint", type=Path, required=True, help="Whisper of this package")
    add("--way", required=True, help="name of the row; dense: what the others are compared with")
    add("--seed", type=int, default=1, help="of the training (default: 1)")
    add("--data", type=Path, required=True, help="folder of manifests")
    add(
        "--split", choices=("choose", "report", "train"), required=True, help="which utterances to transcribe"
    )
    add(
        "--most-of-a-speaker",
        type=int,
        default=MOST,
        help=f"utterances of each, the first ones (default: {MOST})",
    )
    add(
        "--options",
        default="",
        metavar="NAME=VALUE,...",
        help="of the checkpoint, to change; lists have semicolons",
    )
    add("--int8", action="store_true", help="the decoder's weights in 8 bits")
    add("--out", type=Path, required=True, help="file of results, to which a line is added")
    raise SystemExit(finish(main, parser.parse_args()))
