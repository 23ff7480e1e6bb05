#!/usr/bin/env python
"""What gates.sh made, side by side: error rates on the speakers to report, sizes, and seconds in turns.

    python examples/compress_whisper/gates_table.py --data data --out results.jsonl \\
        --models dense=tiny.en.pt learned=out/learned/checkpoint_last.pt norm=out/norm/checkpoint_last.pt

A model may have options of its checkpoint, as in "half=tiny.en.pt,token_keep_ratios=1;0.5;1;1": lists have semicolons;
int8=1 gives the decoder weights of 8 bits. The first model is the one that the others are compared with. Error rates
are made as score.py makes them, in batches of 16, and their seconds with them; a line that is there already is not made
again. Milliseconds are of one thread, for a clip of 10 s and a text of 30 tokens, the medians of --rounds in which the
models take turns.
"""

import json
import statistics
import time
from pathlib import Path

import torch
from score import MOST, errors, recordings, transcriber_of
from tables import rates, table

from fairseq_prune.checkpoints.loading import load_checkpoint_file
from fairseq_prune.command_line import PlainParser, finish
from fairseq_prune.cuts.base import count_weights
from fairseq_prune.files import results_of
from fairseq_prune.models.gated_whisper import MACS_MEL_FRAMES, MACS_TOKENS
from fairseq_prune.modules.whisper.gated import layer_macs, layer_parameters


def scored(args, models):
    """A line of results of each model, in which its own errors are."""
    lines = {line["model"]: line for line in results_of(args.out)}
    rows, audio = recordings(args.data, args.split, args.most_of_a_speaker)
    for name, transcriber in models.items():
        if name not in lines:
            lines[name] = {"model": name, "split": args.split, **errors(transcriber, rows, audio)}
            with args.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(lines[name]) + "\n")
        if len(lines[name]["errors"]) != len(rows):
            raise ValueError(
                f"{args.out}: found results of {len(lines[name]['errors'])} utterances, expected {len(rows)}"
            )
    return lines


@torch.inference_mode()
def seconds(model):
    """Processor time of the encoder, and of writing a text token by token."""
    clip = min(MACS_MEL_FRAMES, model.encoder.max_positions())
    features = torch.randn(
        1, clip, model.encoder.conv1.in_channels, generator=torch.Generator().manual_seed(0)
    )
    start = time.process_time()
    encoded, state = model.encoder(features, torch.tensor([clip])), {}
    heard = time.process_time()
    for step in range(1, MACS_TOKENS + 1):
        model.decoder(torch.full((1, step), 11), encoded, incremental_state=state)
    return heard - start, time.process_time() - heard


def in_turns(models, rounds):
    """(encoder, decoder) milliseconds of each model: medians."""
    found = {name: [] for name in models}
    for _ in range(rounds + 1):
        for name, transcriber in models.items():
            found[name].append(seconds(transcriber.listener.model))
    return {  # without the first round, in which caches fill
        name: [1000 * statistics.median(part) for part in zip(*times[1:])] for name, times in found.items()
    }


def row(name, line, dense, path, model, times, of_dense):
    """Of the table."""
    clip = min(MACS_MEL_FRAMES, model.encoder.max_positions()), MACS_TOKENS
    return {
        "model": name,
        "parameters of the layers": f"{int(layer_parameters(model, expected=False)):,}",
        "of all": f"{count_weights(load_checkpoint_file(path)['model'])[0] / 1e6:.1f} M",
        "MACs of the layers": f"{float(layer_macs(model, *clip, expected=False)) / 1e9:.2f} G",
        **rates(line, dense),
        "s in batches": f"{line['seconds']:.1f}",
        "encoder ms": f"{times[0]:.0f}",
        "decoder ms": f"{times[1]:.0f}",
        "times as fast": f"{sum(of_dense) / sum(times):.2f}",
    }


def main(args):
    torch.set_num_threads(1)
    described = dict(item.partition("=")[::2] for item in args.models)
    parts = {name: text.partition(",") for name, text in described.items()}
    models = {name: transcriber_of(path, options) for name, (path, _, options) in parts.items()}
    lines, times = scored(args, models), in_turns(models, args.rounds)
    first = next(iter(models))
    rows = [
        row(
            name,
            lines[name],
            lines[first],
            parts[name][0],
            transcriber.listener.model,
            times[name],
            times[first],
        )
        for name, transcriber in models.items()
    ]
    print(table(rows))


if __name__ == "__main__":
    parser = PlainParser(__doc__)
    add = parser.add_argument
    add(
        "--models",
        nargs="+",
        required=True,
        metavar="NAME=CHECKPOINT[,option=value]",
        help="Whispers of this package",
    )
    add("--data", type=Path, required=True, help="folder of manifests")
    add(
        "--split",
        choices=("choose", "report", "train"),
        default="report",
        help="what to transcribe (default: report)",
    )
    add("--most-of-a-speaker", type=int, default=MOST, help=f"utterances of each (default: {MOST})")
    add("--rounds", type=int, default=15, help="of the timing (default: 15)")
    add("--out", type=Path, required=True, help="file of results, to which lines are added")
    raise SystemExit(finish(main, parser.parse_args()))
