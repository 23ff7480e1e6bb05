"""A benchmark as markdown, JSON and a picture."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import matplotlib
import numpy as np

from fairseq_prune.benchmarks.measure import Measurement, Setting

matplotlib.use("Agg")
from matplotlib import pyplot as plt


def markdown(measured: Sequence[Sequence[Measurement]], about: str) -> str:
    """A table of times and ratios, and one of stages."""
    rows, stage_rows = [], []
    for group in measured:
        for m in group:
            quartiles = np.percentile(m.seconds, [25, 75])
            rows.append(
                {
                    "entry": m.entry,
                    **_columns(m.setting),
                    "parameters (M)": f"{m.parameters / 1e6:.1f}",
                    "weights (MB)": f"{m.megabytes:.0f}",
                    "GMACs": f"{sum(m.macs.values()) / 1e9:.2f}",
                    "seconds": f"{m.median:.3f}",
                    "quartiles": f"{quartiles[0]:.3f} to {quartiles[1]:.3f}",
                    "real-time factor": f"{m.real_time_factor:.4f}",
                    "peak memory (MiB)": "" if m.memory is None else f"{m.memory:.0f}",
                    "speed-up": f"{m.speedup:.2f}",
                    "ideal": f"{m.ideal:.2f}",
                    "reached": f"{100 * m.reached:.0f} %",
                }
            )
            for stage in [*m.macs, *(name for name in m.stage_seconds if name not in m.macs)]:
                stage_rows.append(
                    {
                        "entry": m.entry,
                        **_columns(m.setting),
                        "stage": stage,
                        "GMACs": f"{m.macs[stage] / 1e9:.3f}" if stage in m.macs else "",
                        "seconds": f"{m.stage_seconds.get(stage, 0.0):.4f}",
                    }
                )
    explained = (
        "Speed-ups are to the first entry: medians of the ratios of each round, in which the entries take turns."
        " Ideal is the ratio of MACs, reached the share of it. Peak memory is what a pass takes beyond the weights,"
        " in a process of its own."
    )
    return f"{about}\n\n{table(rows)}\n{explained}\n\n### Stages\n\n{table(stage_rows)}"


def _columns(setting: Setting) -> dict[str, str]:
    columns = {"audio (s)": f"{setting.seconds:g}", "batch": str(setting.batch)}
    return {**columns, "tokens": str(setting.tokens)} if setting.tokens else columns


def table(rows: Sequence[dict[str, str]]) -> str:
    """Rows with the same columns as markdown."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def write_report(measured: Sequence[Sequence[Measurement]], about: str, out: Path, name: str) -> str:
    """Write ``name``.md, .json and .png into the folder, and return the markdown."""
    text = markdown(measured, about)
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.md").write_text(text, encoding="utf-8")
    derived = ("median", "real_time_factor", "speedup", "reached")
    groups = [
        [{**asdict(m), **{name: getattr(m, name) for name in derived}} for m in group] for group in measured
    ]
    (out / f"{name}.json").write_text(
        json.dumps({"about": about, "measured": groups}, indent=1), encoding="utf-8"
    )
    _plot(measured, out / f"{name}.png")
    return text


def _plot(measured: Sequence[Sequence[Measurement]], path: Path) -> None:
    """Seconds by stage as stacked bars, a panel for each setting; the mark is the median of whole passes."""
    fig, axes = plt.subplots(
        len(measured),
        1,
        figsize=(8, 0.6 + len(measured) * (0.6 + 0.28 * len(measured[0]))),
        layout="constrained",
        squeeze=False,
    )
    stages = list(dict.fromkeys(name for group in measured for m in group for name in m.stage_seconds))
    colors = dict(zip(stages, plt.get_cmap("tab10").colors))
    for ax, group in zip(axes[:, 0], measured):
        for y, m in enumerate(group):
            left = 0.0
            for stage in stages:
                width = m.stage_seconds.get(stage, 0.0)
                ax.barh(y, width, left=left, color=colors[stage], label=stage if y == 0 else None)
                left += width
            ax.plot(m.median, y, "k|", markersize=12)
        ax.set_yticks(range(len(group)), [m.entry for m in group], fontsize=8)
        ax.invert_yaxis()
        setting = group[0].setting
        ax.set_title(f"{setting.seconds:g} s, batch {setting.batch}", fontsize=9)
    axes[-1, 0].set_xlabel("seconds")
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
    fig.savefig(path, dpi=150)
    plt.close(fig)
