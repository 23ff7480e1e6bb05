"""The picture of scripts/sweep_pruning.py: a panel for each criterion, with intervals and labels at the points.

Checkpoints that prune by the criterion of another panel are grey, as its line is.
"""

import matplotlib
import pandas as pd

matplotlib.use("Agg")
from matplotlib import pyplot as plt

SCORES = ("BLEU", "chrF")
MACS = "encoder MACs"
TRIAL, OTHER, CHECKPOINT = "#0b5fa5", "#c9ccd1", "#222222"


def plot_sweep(table: pd.DataFrame, trials: int, out) -> None:
    """Scores against the encoder's MACs.

    Args:
        table: columns model, criterion, keep ratio, encoder MACs (share of the first row), and for each score its
            value and ``low`` and ``high`` ends of an interval ("BLEU", "BLEU low", "BLEU high").
        trials: how many of the last rows are trials of keep ratios on the first model; the others are checkpoints.
        out: file to write.
    """
    checkpoints, tried = table[: len(table) - trials], table[len(table) - trials :]
    # a line begins where nothing more is pruned
    lines = {name: pd.concat([table[:1], rows]) for name, rows in tried.groupby("criterion", sort=False)}
    panels = list(lines) or [None]
    fig, axes = plt.subplots(
        len(SCORES),
        len(panels),
        figsize=(max(4.0, 2.6 * len(panels)), 5.2),
        layout="constrained",
        sharex=True,
        sharey="row",
        squeeze=False,
    )
    for score, row in zip(SCORES, axes):
        for panel, ax in zip(panels, row):
            for name, rows in lines.items():
                if name != panel:
                    ax.plot(rows[MACS], rows[score], color=OTHER, linewidth=1, zorder=1)
            if panel is not None:
                labels = ["", *lines[panel]["keep ratio"][1:]]  # the first point is a checkpoint
                _points(ax, lines[panel], score, "o-", TRIAL, labels, -11)
            elsewhere = checkpoints["criterion"].isin([name for name in lines if name != panel])
            ax.plot(
                checkpoints[MACS][elsewhere], checkpoints[score][elsewhere], "D", color=OTHER, markersize=4
            )
            here = checkpoints[~elsewhere]
            _points(ax, here, score, "D", CHECKPOINT, here["model"], 5)
            ax.grid(alpha=0.3)
            ax.margins(0.2, 0.3)  # for the labels
        row[0].set_ylabel(score)
    for panel, top, bottom in zip(panels, axes[0], axes[-1]):
        if panel is not None:
            top.set_title(f"keep ratio by {panel}" if panel != "none" else "no pruning", fontsize=10)
        bottom.set_xlabel("encoder MACs, share", fontsize=9)
    fig.savefig(out, dpi=200)
    plt.close(fig)


def _points(ax, rows: pd.DataFrame, score: str, style: str, color: str, labels, above_by: int) -> None:
    """Values with their intervals; each is labelled so many points above its place."""
    below = (rows[score] - rows[f"{score} low"]).clip(lower=0)
    above = (rows[f"{score} high"] - rows[score]).clip(lower=0)
    ax.errorbar(
        rows[MACS],
        rows[score],
        yerr=[below, above],
        fmt=style,
        color=color,
        markersize=4,
        linewidth=1.4,
        elinewidth=0.8,
        capsize=2,
        zorder=3,
    )
    places = set()
    for x, y, label in zip(rows[MACS], rows[score], labels):
        place = (round(x, 2), round(y, 1))
        if place not in places:  # two labels at one place would hide each other
            ax.annotate(
                label,
                (x, y),
                (0, above_by),
                textcoords="offset points",
                fontsize=7,
                color=color,
                rotation=30 if above_by > 0 else 0,  # names are long
            )
        places.add(place)
