"""Tables of what compare.py found: error rates with bootstrap intervals over utterances, and ratios of time."""

import json

import matplotlib
import numpy as np
import pandas as pd
import sacrebleu

from fairseq_prune.evaluation.bootstrap import interval, rate_interval, resample
from fairseq_prune.evaluation.error_rates import word_error_rate
from fairseq_prune.evaluation.normalizers import normalizer_of, text_normalizer
from fairseq_prune.modules import kernels

matplotlib.use("Agg")
from matplotlib import pyplot as plt


def table(rows: pd.DataFrame, names: list[str], normalize) -> pd.DataFrame:
    """A row an engine: error rate, interval, difference to the first engine, seconds and ratios."""
    first, out = rows[rows.engine == names[0]].set_index("id"), []
    for name in names:
        found = rows[rows.engine == name].set_index("id").loc[first.index]
        counts = [
            word_error_rate([normalize(reference)], [normalize(text)])
            for reference, text in zip(found.reference, found.text)
        ]
        errors, words = np.array(counts).T
        if name == names[0]:
            base = errors
        low, high = rate_interval(errors, words)
        more, spoken = resample(np.stack([errors - base, words], axis=1)).T
        difference = interval(100 * more / spoken)
        macs = found.encoder_macs.sum() / 1e9
        lengths = [
            len(text.split()) / max(len(reference.split()), 1)
            for text, reference in zip(found.text, found.reference)
        ]
        out.append(
            {
                "engine": name,
                "WER": f"{100 * errors.sum() / words.sum():.2f}",
                "95 %": f"{low:.2f} to {high:.2f}",
                "minus the first": f"{100 * (errors - base).sum() / words.sum():+.2f}"
                f" ({difference[0]:+.2f} to {difference[1]:+.2f})",
                "encoder GMACs": f"{macs / len(found):.2f}" if macs else "",
                "encoder s": f"{found.encoder_seconds.sum():.1f}",
                "total s": f"{found.seconds.sum():.1f}",
                "times as fast": f"{first.seconds.sum() / found.seconds.sum():.2f}",
                "longest text / reference": f"{max(lengths):.1f}",
            }
        )
    return pd.DataFrame(out)


def translations(rows: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """A row an engine: BLEU and chrF with their intervals, seconds and ratios."""
    first, out = rows[rows.engine == names[0]].set_index("id"), []
    for name in names:
        found = rows[rows.engine == name].set_index("id").loc[first.index]
        references, texts = [list(found.reference)], [text.strip() for text in found.text]
        bleu = sacrebleu.metrics.BLEU().corpus_score(texts, references, n_bootstrap=1000)
        chrf = sacrebleu.metrics.CHRF().corpus_score(texts, references, n_bootstrap=1000)
        out.append(
            {
                "engine": name,
                "BLEU": f"{bleu.score:.1f} (mean {bleu._mean:.1f} ± {bleu._ci:.1f})",
                "chrF": f"{chrf.score:.1f} (mean {chrf._mean:.1f} ± {chrf._ci:.1f})",
                "encoder s": f"{found.encoder_seconds.sum():.1f}",
                "total s": f"{found.seconds.sum():.1f}",
                "times as fast": f"{first.seconds.sum() / found.seconds.sum():.2f}",
            }
        )
    return pd.DataFrame(out)


def markdown(frame: pd.DataFrame) -> str:
    """A frame of strings as a table."""
    lines = ["| " + " | ".join(frame.columns) + " |", "| " + " | ".join("---" for _ in frame.columns) + " |"]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in frame.itertuples(index=False)]
    return "\n".join(lines)


def draw(frame: pd.DataFrame, path) -> None:
    """A line an engine: its error rate with the interval, and its speed."""
    speed, rate = frame["times as fast"].astype(float), frame["WER"].astype(float)
    ends = frame["95 %"].str.split(" to ", expand=True).astype(float)
    height = 1 + 0.32 * len(frame)
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, height), sharey=True, layout="constrained")
    bars = [rate - ends[0], ends[1] - rate]
    left.errorbar(rate, frame["engine"], xerr=bars, fmt="o", color="#0b5fa5", ecolor="#9aa7b5", capsize=2)
    left.set(xlabel="word error rate, %, and its 95 % interval", xlim=(0, None))
    left.invert_yaxis()
    right.bar_label(right.barh(frame["engine"], speed, color="#0b5fa5", height=0.6), fmt="%.2f", padding=3)
    right.set(xlabel=f"times as fast as {frame['engine'][0]}")
    right.margins(x=0.12)
    for ax in (left, right):
        ax.grid(axis="x", alpha=0.3)
        ax.set_axisbelow(True)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def write_report(out, names, language, task) -> None:
    """Write ``report.md`` and ``report.png`` of ``results.jsonl`` in the folder ``out``, and print the first.

    An utterance whose manifest has "-" for its text is compared with what the first engine writes of it.
    """
    lines = (out / "results.jsonl").read_text(encoding="utf-8").splitlines()
    rows = pd.DataFrame([json.loads(line) for line in lines])
    complete = rows.groupby("id").engine.nunique()
    rows = rows[rows.id.isin(complete.index[complete == rows.engine.nunique()])]
    firsts = rows[rows.engine == names[0]].set_index("id").text
    rows["reference"] = rows.reference.where(rows.reference != "-", rows.id.map(firsts))
    if task == "translate":
        frame = translations(rows, names)
    else:
        frame = table(rows, names, text_normalizer(normalizer_of(language)))
        draw(frame, out / "report.png")
    heard = rows[rows.engine == names[0]]
    machine = f"{kernels.processor()} ({kernels.instructions()})"
    text = (
        f"{len(heard)} utterances, {heard.audio_seconds.sum() / 3600:.3f} h; {machine}\n\n{markdown(frame)}\n"
    )
    (out / "report.md").write_text(text, encoding="utf-8")
    print(text)
