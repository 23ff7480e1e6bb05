#!/usr/bin/env python
"""From HuBERT base and DeltaLM base as published to all that makes them small and fast, row by row.

    python scripts/compare_all.py --out report
    python scripts/compare_all.py --compressed pruned_hubert.pt --vocabulary 12000 --out report

Each row adds to the one before it: token pruning, a vocabulary cut to one language, an encoder that DPHuBERT has
compressed, bfloat16 or int8. The sizes are real, the weights random, except those of --compressed: times do not
depend on them. Quality does: that is measured where models are trained (examples/, scripts/sweep_pruning.py).
"""

from _cli import PlainParser, positive, run

import torch
from benchmark import add_options, machine, measure_all

from fairseq_prune.benchmarks.report import table, write_report
from fairseq_prune.benchmarks.specs import DTYPES, Spec
from fairseq_prune.inference.base import usable_device


def rows_of(args):
    """The entries, of which each one adds to the one before; the last ones are in other types of numbers."""
    options = {}
    rows = [Spec("hubert_deltalm", kernels="torch", label="HuBERT base + DeltaLM base, torch's products")]

    def add(label, **more):
        options.update(more)
        rows.append(Spec("hubert_deltalm", label=f"+ {label}", **options))

    add("oneDNN's products")
    add(
        f"token pruning ({args.keep:g} from layer {args.start_layer} on)",
        keep=args.keep,
        start=args.start_layer,
    )
    add(f"vocabulary of {args.vocabulary:,}", vocabulary=args.vocabulary)
    if args.compressed:
        add("DPHuBERT's encoder", hubert=args.compressed)
    for dtype in args.dtypes:
        rows.append(Spec("hubert_deltalm", label=f"+ {dtype}", **{**options, "dtype": dtype}))
    return rows


def summary(measured):
    """One table over all settings."""
    rows = []
    for group in measured:
        for m in group:
            rows.append(
                {
                    "": m.entry,
                    "audio (s)": f"{m.setting.seconds:g}",
                    "batch": str(m.setting.batch),
                    "parameters (M)": f"{m.parameters / 1e6:.1f}",
                    "weights (MB)": f"{m.megabytes:.0f}",
                    "peak memory of a pass (MiB)": "" if m.memory is None else f"{m.memory:.0f}",
                    "GMACs an utterance": f"{sum(m.macs.values()) / m.setting.batch / 1e9:.1f}",
                    "seconds an utterance": f"{m.median / m.setting.batch:.3f}",
                    "times as fast": f"{m.speedup:.2f}",
                    "by MACs": f"{m.ideal:.2f}",
                }
            )
    return table(rows)


def main(args):
    torch.set_num_threads(args.threads)
    device = usable_device(args.device)
    measured = measure_all(rows_of(args), args, device)
    about = (
        f"{machine(device)}; beam {args.beam}, {args.tokens_per_second:g} tokens a second of audio;"
        f" {args.rounds} rounds in turns.\n\n{summary(measured)}"
    )
    print(write_report(measured, about, args.out, "compare_all").partition("### Stages")[0])
    print(f"Written: {args.out}/compare_all.md, .json, .png")


if __name__ == "__main__":
    parser = PlainParser(__doc__)
    add = parser.add_argument
    add(
        "--compressed", help="encoder that scripts/compress_hubert.py wrote; without it, that row is left out"
    )
    add("--vocabulary", type=positive(int), default=15_000, help="pieces that are left (default: 15000)")
    add("--keep", type=positive(float), default=0.8, help="keep ratio of token pruning (default: 0.8)")
    add("--start-layer", type=positive(int), default=4, help="first layer that drops frames (default: 4)")
    add(
        "--dtypes",
        nargs="*",
        choices=DTYPES[1:],
        default=["bfloat16", "int8"],
        help="of the last rows (default: bfloat16 int8)",
    )
    add(
        "--seconds", type=positive(float), nargs="+", default=[10], help="lengths of utterances (default: 10)"
    )
    add("--batch-sizes", type=positive(int), nargs="+", default=[1], help="utterances at a time (default: 1)")
    add("--tokens-per-second", type=positive(float), default=3, help="of audio, translated into (default: 3)")
    add("--rounds", type=positive(int), default=3, help="timed rounds (default: 3)")
    add_options(add, "compare_all")
    run(main, parser)
