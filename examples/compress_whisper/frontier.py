#!/usr/bin/env python
"""All ways in one picture: error rate by weights, and by time; a line joins those that no other way beats.

    python examples/compress_whisper/score.py --checkpoint sparse.pt --way "zeros, not trained: Wanda 30 %" \\
        --data data --split report --out frontier.jsonl
    python examples/compress_whisper/frontier.py --results frontier.jsonl --plot frontier.png

What stands before the colon in a way is its kind. Time is processor time of score.py, so its lines have to be of one
run on one machine.
"""

import json
from pathlib import Path

import numpy as np
from tables import rate
from ways import error_rate

from fairseq_prune.command_line import PlainParser, finish
from fairseq_prune.evaluation.bootstrap import rate_interval
from fairseq_prune.files import complete


def frontier(points) -> list[int]:
    """Indices of the points (cost, error) that no other point is as good as in both, and better in one; by cost."""
    order = sorted(range(len(points)), key=lambda i: points[i])
    best, chosen = float("inf"), []
    for i in order:
        if points[i][1] < best:
            best = points[i][1]
            chosen.append(i)
    return chosen


def _milliseconds(line) -> float:
    """An utterance."""
    return 1000 * line["seconds"] / len(line["words"])


def draw(lines, most, out) -> None:
    """Two panels with the error rates of all ways up to ``most`` percent, numbered; their names stand on the right."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    shown = sorted((line for line in lines if error_rate(line) <= most), key=error_rate)
    kinds = list(dict.fromkeys(line["score"].partition(":")[0] for line in shown))
    figure, panels = plt.subplots(1, 2, figsize=(13, 5), sharey=True)
    costs = {
        "weights that are not zero, millions": [line["weights"] / 1e6 for line in shown],
        "processor time, ms an utterance": [_milliseconds(line) for line in shown],
    }
    for panel, (title, cost) in zip(panels, costs.items()):
        points = [(x, error_rate(line)) for x, line in zip(cost, shown)]
        for number, kind in enumerate(kinds):
            own = [i for i, line in enumerate(shown) if line["score"].partition(":")[0] == kind]
            x, y = np.array([points[i] for i in own]).T
            bounds = [rate_interval(np.array(shown[i]["errors"]), np.array(shown[i]["words"])) for i in own]
            low, high = np.array(bounds).T
            panel.errorbar(x, y, [y - low, high - y], fmt="o", color=f"C{number}", elinewidth=0.7, label=kind)
        for number, point in enumerate(points, start=1):
            panel.annotate(str(number), point, xytext=(4, 3), textcoords="offset points", fontsize=8)
        panel.plot(*zip(*(points[i] for i in frontier(points))), color="black", linewidth=0.8, zorder=0)
        panel.set_xlabel(title)
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("WER, with 95 % intervals")
    panels[0].legend(fontsize=8)
    names = [f"{number}  {line['score']}" for number, line in enumerate(shown, start=1)]
    panels[1].text(1.03, 1, "\n".join(names), transform=panels[1].transAxes, va="top", fontsize=8)
    figure.tight_layout()
    figure.savefig(out, dpi=130, format="png")
    plt.close(figure)


def main(args):
    lines = [json.loads(line) for line in args.results.read_text(encoding="utf-8").splitlines()]
    lacking = [line["score"] for line in lines if "weights" not in line]
    if lacking:
        raise ValueError(f"{args.results}: found no weights of {lacking[0]!r}, expected lines of score.py")
    with complete(args.plot, args.overwrite) as out:
        draw(lines, args.most, out)
    print(
        "| way | weights that are not zero | WER | 95 % | ms an utterance |\n| --- | --- | --- | --- | --- |"
    )
    for line in sorted(lines, key=error_rate):
        cells = (
            line["score"],
            f"{line['weights'] / 1e6:.1f} M",
            *rate(line).values(),
            f"{_milliseconds(line):.0f}",
        )
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    parser = PlainParser(__doc__)
    add = parser.add_argument
    add("--results", type=Path, required=True, help="file of score.py")
    add("--plot", type=Path, required=True, help="picture to draw")
    add("--most", type=float, default=15.0, help="highest error rate in the picture (default: 15)")
    add("--overwrite", action="store_true", help="replace what is there")
    raise SystemExit(finish(main, parser.parse_args()))
