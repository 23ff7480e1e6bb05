#!/usr/bin/env python
"""Tables and a picture of what one_shot.py found.

    python examples/compress_whisper/tables.py --results results.jsonl --plot one_shot.png

Error rates are of all words of a split. Intervals are 95 % bootstrap intervals over utterances; those of differences
are over pairs of the same utterance, pruned and dense.
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from fairseq_prune.command_line import PlainParser, finish
from fairseq_prune.evaluation.bootstrap import interval, rate_interval, resample
from fairseq_prune.files import complete


def described(line) -> str:
    """How the sparsity is distributed."""
    if "units" in line:
        return f"{line['units']} units, {line['heads']} heads" + ", least squares" * line["refit"]
    if line["plan"]:
        return f"plan by {line['plan']}"
    if isinstance(line["sparsity"], dict):
        return ", ".join(line["sparsity"])
    return "all alike" if line["score"] != "dense" else ""


def rate(line) -> dict[str, str]:
    """The error rate of a line and its interval."""
    errors, words = np.array(line["errors"]), np.array(line["words"])
    low, high = rate_interval(errors, words)
    return {"WER": f"{100 * errors.sum() / words.sum():.2f}", "95 %": f"{low:.2f} to {high:.2f}"}


def rates(line, dense) -> dict[str, str]:
    """As of `rate`, and the difference to the dense line and its interval."""
    more, words = np.array(line["errors"]) - np.array(dense["errors"]), np.array(line["words"])
    drawn, spoken = resample(np.stack([more, words], axis=1)).T
    least, most = interval(100 * drawn / spoken)
    difference = f"{100 * more.sum() / words.sum():+.2f} ({least:+.2f} to {most:+.2f})"
    return {**rate(line), "minus dense": difference}


def row(line, dense) -> dict[str, str]:
    """Of a table."""
    return {
        "score": line["score"],
        "scope": line["scope"],
        "pruned": described(line),
        "zeros of these %": f"{100 * line['pruned']:.0f}",
        "zeros of all layers %": f"{100 * line['of_all_components']:.1f}",
        "seed": str(line["seed"]) if line["score"] != "dense" else "",
        **rates(line, dense),
    }


def table(rows) -> str:
    """Rows with the same columns as markdown."""
    cells = [list(rows[0]), ["---"] * len(rows[0]), *(list(cells.values()) for cells in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)


def alone(line) -> bool:
    """Whether a line is of one component that was pruned alone, to choose."""
    return line["split"] == "choose" and isinstance(line["sparsity"], dict)


def components(lines, dense) -> str:
    """A row a component: what it adds to the error rate at each sparsity, the others dense."""
    found = {}
    for line in lines:
        [(component, level)] = line["sparsity"].items()
        found.setdefault(component, {})[level] = row(line, dense)["minus dense"]
    levels = sorted({level for curve in found.values() for level in curve})
    return table(
        [
            {"component": component, **{f"{100 * level:.0f} %": curve.get(level, "") for level in levels}}
            for component, curve in found.items()
        ]
    )


def tables(lines) -> dict[str, str]:
    """A table a split, and one of components."""
    found = {}
    for split in dict.fromkeys(line["split"] for line in lines):
        part = [line for line in lines if line["split"] == split]
        dense = [line for line in part if line["score"] == "dense"]
        if not dense:
            raise ValueError(f"--results: no dense row of the split {split}")
        found[split] = table([row(line, dense[0]) for line in part if not alone(line)])
        if any(map(alone, part)):
            found["components"] = components(list(filter(alone, part)), dense[0])
    return found


def draw(lines, out) -> None:
    """Error rate of what was reported by the share of zeros in all layers; seeds as bars."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    frame = pd.DataFrame(lines)
    frame["WER"] = [100 * sum(e) / sum(w) for e, w in zip(frame.errors, frame.words)]
    frame["kind"] = [described(line) for line in lines]
    figure, axes = plt.subplots(figsize=(7, 4.2))
    report = frame[frame.split == "report"]
    dense = report[report.score == "dense"].iloc[0]
    for (score, scope, kind), group in report[report.score != "dense"].groupby(["score", "scope", "kind"]):
        points = group.groupby("of_all_components").WER.agg(["mean", "min", "max"]).sort_index()
        bars = [points["mean"] - points["min"], points["max"] - points["mean"]]
        x, y = 100 * points.index, points["mean"]
        axes.errorbar(x, y, bars, marker="o", capsize=3, label=f"{score}, {scope}: {kind}")
    axes.axhline(dense.WER, color="black", linestyle=":", label=f"dense {dense.WER:.2f}")
    axes.set_yscale("log")
    axes.set_xlabel("weights of the layers that are zero, %")
    axes.set_ylabel("WER on the speakers to report")
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8)
    figure.savefig(out, dpi=130, bbox_inches="tight", format="png")
    plt.close(figure)


def main(args):
    text = args.results.read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    for split, found in tables(lines).items():
        print(f"{split}\n\n{found}")
    if args.plot:
        with complete(args.plot, args.overwrite) as out:
            draw(lines, out)


if __name__ == "__main__":
    parser = PlainParser(__doc__)
    add = parser.add_argument
    add("--results", type=Path, required=True, help="file of one_shot.py")
    add("--plot", type=Path, help="draw what was reported into this picture")
    add("--overwrite", action="store_true", help="replace what is there")
    raise SystemExit(finish(main, parser.parse_args()))
