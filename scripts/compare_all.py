#!/usr/bin/env python
"""From HuBERT base and DeltaLM base as published to all that makes them small and fast, row by row.

    python scripts/compare_all.py --out report
    python scripts/compare_all.py --compressed pruned_hubert.pt --vocabulary 12000 --out report

Each row adds to the one before it: token pruning, a vocabulary cut to one language, an encoder that DPHuBERT has
compressed, bfloat16 or int8. The sizes are real, the weights random, except those of --compressed: times do not
depend on them. Quality does: that is measured where models are trained (examples/, scripts/sweep_pruning.py).
"""

from pathlib import Path

import torch
from _cli import PlainParser, positive, run
from benchmark import machine, settings_of
from tqdm import tqdm

from fairseq_prune.benchmarks.entries import build_entry
from fairseq_prune.benchmarks.measure import measure, peak_memory
from fairseq_prune.benchmarks.report import table, write_report
from fairseq_prune.benchmarks.specs import DTYPES, Spec
from fairseq_prune.inference import usable_device


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
    specs = rows_of(args)
    settings = settings_of(args)
    entries = [build_entry(spec, device, args.beam) for spec in specs]
    turns = measure(entries, settings, device, args.rounds, args.beam, args.processor_time)
    measured = list(tqdm(turns, desc="timing", total=len(settings), unit="setting"))
    del entries
    if args.memory:
        for i, spec in enumerate(tqdm(specs, desc="memory", unit="model")):
            for group, peak in zip(
                measured, peak_memory(spec, settings, args.device, args.beam, args.threads)
            ):
                group[i].memory = peak
    about = (
        f"{machine(device, args.threads)}; beam {args.beam}, {args.tokens_per_second:g} tokens a second of audio;"
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
    add("--beam", type=positive(int), default=5, help="beam size (default: 5)")
    add("--rounds", type=positive(int), default=3, help="timed rounds (default: 3)")
    add("--memory", action="store_true", help="measure peak memory, of each row in a process of its own")
    add("--device", default="cpu", help="cpu (default), cuda, cuda:1, ...")
    add(
        "--threads", type=positive(int), default=torch.get_num_threads(), help="of the CPU (default: torch's)"
    )
    add(
        "--processor-time",
        action="store_true",
        help="instead of wall-clock; for busy machines, with --threads 1",
    )
    add(
        "--out",
        type=Path,
        default=Path("report"),
        help="folder for compare_all.md, .json, .png (default: report)",
    )
    run(main, parser)
