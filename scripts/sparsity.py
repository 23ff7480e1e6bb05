#!/usr/bin/env python
"""Look at the sparsity of checkpoints, and make of them what is used after training.

    python scripts/sparsity.py report checkpoint_best.pt --csv sparsity.csv --plot sparsity.png
    python scripts/sparsity.py overlap english.pt german.pt
    python scripts/sparsity.py finalize checkpoint_best.pt --out recogniser.pt
    python scripts/sparsity.py finalize checkpoint_best.pt --out recogniser.pt --compact
    python scripts/sparsity.py finalize checkpoint_best.pt --out translator.pt --float16
    python scripts/sparsity.py apply-mask english.pt wav2vec_small.pt --out sparse.pt

report: the share of weights that are zero, by layer and by kind of matrix. overlap: of two masks, intersection over
union of the weights that they keep, and the mutual overlap, the share of weights that both keep or both leave out.
finalize: zeros in place and no state of training; wav2vec_ctc_parp and hubert_ctc_parp become fairseq's wav2vec_ctc
and hubert_ctc, which need no plugin. --compact writes sparse tensors as bits and values, for this package to read;
finalize again to have it plain. --float16 rounds matrices to 16 bits: half the file, and on the CPU a decoder that
reads half as much. --model-overrides are options that the checkpoint has from then on, so that whoever uses it need not
know them. apply-mask: zeros where the first checkpoint has them, in the weights of another.
"""

import re
from pathlib import Path

from _cli import PlainParser, complete, overrides, run

import pandas as pd
import torch
from fairseq import checkpoint_utils

import fairseq_prune
from fairseq_prune.checkpoints.half_precision import halved, in_single
from fairseq_prune.checkpoints.loading import load_checkpoint_file
from fairseq_prune.checkpoints.saving import save
from fairseq_prune.checkpoints.sparse import (
    STATE,
    by_encoder_name,
    compact,
    finalized,
    masks_of,
    weights_of,
    with_masks,
)
from fairseq_prune.pruning.magnitude import agreement, check_masks, overlap

LAYER = re.compile(r"(?:(?:.*\.)?(encoder|decoder)\.)?(?:.*\.)?layers\.(\d+)\.(.*)\.(weight|bias)")


def place(name):
    """Layer and kind of a parameter: ("encoder 3", "fc1 weight")."""
    match = LAYER.fullmatch(name)
    if match is None:
        return "other", name
    part, layer, kind, parameter = match.groups()
    return f"{part or 'layer'} {layer}", f"{kind.rpartition('.')[2]} {parameter}"


def by_layer(rows, value):
    """Rows {layer, kind, <counts>} as a table of layers by kinds, with margins; ``value`` makes shares of sums."""
    frame = pd.DataFrame(rows)
    counts = [column for column in frame if column not in ("layer", "kind")]
    order = {name: list(dict.fromkeys(frame[name])) for name in ("layer", "kind")}
    margins = [
        frame,
        frame.assign(layer="all"),
        frame.assign(kind="all"),
        frame.assign(layer="all", kind="all"),
    ]
    sums = pd.concat(margins).groupby(["layer", "kind"], sort=False)[counts].sum()
    return value(sums).unstack("kind").loc[[*order["layer"], "all"], [*order["kind"], "all"]]


def show(table, args):
    """Print a table, and write the files that are asked for."""
    with pd.option_context("display.width", 250, "display.max_columns", None, "display.max_rows", None):
        print(table.to_string(float_format="%.4f", na_rep=""))
    if args.csv:
        with complete(args.csv, args.overwrite) as written:
            table.to_csv(written)
    if getattr(args, "plot", None):
        with complete(args.plot, args.overwrite) as written:
            draw(table, written)


def draw(table, path):
    """A picture of layers by kinds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(1.5 + 0.75 * len(table.columns), 1.5 + 0.35 * len(table)))
    image = axes.imshow(table.to_numpy(dtype=float), vmin=0, vmax=1, aspect="auto", cmap="viridis")
    axes.set_xticks(range(len(table.columns)), table.columns, rotation=45, ha="right")
    axes.set_yticks(range(len(table)), table.index)
    for row, values in enumerate(table.to_numpy(dtype=float)):
        for column, share in enumerate(values):
            color = "black" if share > 0.6 else "white"
            axes.text(column, row, f"{share:.2f}", ha="center", va="center", color=color, fontsize=7)
    figure.colorbar(image, label="share of weights that are zero")
    figure.savefig(path, dpi=150, bbox_inches="tight")


def report(args):
    checkpoint = load_checkpoint_file(args.checkpoint, mmap=True)
    rows = []
    for name, mask in masks_of(checkpoint, args.checkpoint, args.modules).items():
        layer, kind = place(name)
        rows.append({"layer": layer, "kind": kind, "zeros": int((~mask).sum()), "weights": mask.numel()})
    show(by_layer(rows, lambda sums: sums.zeros / sums.weights), args)
    pruned = sum(row["weights"] for row in rows)
    zeros = sum(row["zeros"] for row in rows)
    weights = weights_of(checkpoint, args.checkpoint)
    everything = sum(weight.numel() for weight in weights.values())
    print(f"{zeros:,} of {pruned:,} weights are zero: sparsity {zeros / pruned:.6f}")
    print(f"of all {everything:,} weights of the model: {zeros / everything:.4f}")
    state = checkpoint["model"].get(STATE)
    if state:
        print(
            f"{state['method']} after update {state['update']}, mask {state['phase']}: stated sparsity"
            f" {state['sparsity']:.6f}, revived at the last pruning {state['revived']:.6f}, overlap with the first"
            f" mask {state['overlap']:.6f}"
        )


def compare(args):
    masks = []
    for path in (args.first, args.second):
        checkpoint = load_checkpoint_file(path, mmap=True)
        masks.append(by_encoder_name(masks_of(checkpoint, path, args.modules)))
    check_masks(masks[0], masks[1], args.second)
    check_masks(masks[1], masks[0], args.first)
    groups = {}
    for name in masks[0]:
        groups.setdefault(place(name)[0], []).append(name)
    groups["all"] = list(masks[0])
    rows = {}
    for layer, names in groups.items():
        pair = [{name: found[name] for name in names} for found in masks]
        rows[layer] = {"intersection over union": overlap(*pair), "mutual overlap": agreement(*pair)}
    show(pd.DataFrame(rows).T, args)


def write(checkpoint, args):
    """Write a checkpoint, and load its model strictly before the file is there under its name."""
    expected = checkpoint["model"]
    if args.float16:
        checkpoint = halved(checkpoint, args.checkpoint)
        expected = in_single(checkpoint)["model"]
    with complete(args.out, args.overwrite) as written:
        save(compact(checkpoint) if args.compact else checkpoint, written)
        found = load_checkpoint_file(written)["model"]
        wrong = [name for name, weight in expected.items() if not torch.equal(found[name], weight)]
        if wrong or len(found) != len(expected):
            raise ValueError(f"{args.out}: not as it was written: {wrong[:3]}")
        if checkpoint["cfg"]["model"].get("w2v_args"):
            checkpoint_utils.load_model_ensemble_and_task([str(written)])
        elif args.model_overrides:
            fairseq_prune.load(written)
    size = args.out.stat().st_size
    dense = sum(weight.numel() * weight.element_size() for weight in expected.values())
    print(f"{args.out}: {size / 1e6:.1f} MB, {size / dense:.1%} of its weights as dense tensors; loaded back")


def finalize(args):
    checkpoint = finalized(load_checkpoint_file(args.checkpoint), args.checkpoint, args.ema)
    config, changes = checkpoint["cfg"], args.model_overrides
    unknown = sorted(set(changes).difference(config["model"]))
    if unknown:
        raise ValueError(f"--model-overrides: {args.checkpoint}: its model has no option {unknown[0]}")
    write({**checkpoint, "cfg": {**config, "model": {**config["model"], **changes}}}, args)


def apply_mask(args):
    masks = masks_of(load_checkpoint_file(args.mask, mmap=True), args.mask, args.modules)
    checkpoint = load_checkpoint_file(args.checkpoint)
    write(finalized(with_masks(checkpoint, masks, args.checkpoint, args.mask), args.checkpoint), args)


def parser():
    main = PlainParser(__doc__)
    commands = main.add_subparsers(dest="command", required=True)
    modules = (
        "regular expression for the names of the weights to look at (default: those that were pruned, or all"
    )
    modules += " projections and feed-forward blocks of transformer layers)"

    def command(name, function, *positional, writes=False):
        sub = commands.add_parser(name)
        sub.set_defaults(function=function, model_overrides={})
        for argument, text in positional:
            sub.add_argument(argument, type=Path, help=text)
        if writes:
            sub.add_argument("--out", type=Path, required=True, help="file to write")
            sub.add_argument("--compact", action="store_true", help="sparse tensors as bits and values")
            sub.add_argument("--float16", action="store_true", help="matrices with numbers of 16 bits")
        else:
            sub.add_argument("--csv", type=Path, help="write the table here too")
        if name != "finalize":
            sub.add_argument("--modules", help=modules)
        sub.add_argument("--overwrite", action="store_true", help="replace what is there")
        return sub

    sub = command("report", report, ("checkpoint", "checkpoint of fairseq"))
    sub.add_argument("--plot", type=Path, help="draw the table into this picture")
    command("overlap", compare, ("first", "checkpoint"), ("second", "checkpoint with the same parameters"))
    sub = command("finalize", finalize, ("checkpoint", "checkpoint of fairseq"), writes=True)
    sub.add_argument("--ema", action="store_true", help="the moving average of the weights (--store-ema)")
    example = "{'silence_stride': 8}"
    sub.add_argument("--model-overrides", type=overrides, help=f'options to change: "{example}"')
    texts = ("mask", "checkpoint whose zeros to take"), ("checkpoint", "checkpoint whose weights to take")
    command("apply-mask", apply_mask, *texts, writes=True)
    return main


if __name__ == "__main__":
    run(lambda args: args.function(args), parser())
