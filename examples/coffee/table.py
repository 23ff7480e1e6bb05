#!/usr/bin/env python3
"""The tables of run.sh: acceptance of each model, and of the last one by noise and ratio."""

import json
import sys
from collections import defaultdict
from pathlib import Path

from fairseq_prune.checkpoints.whisper.own import read_whisper
from fairseq_prune.data.manifest import read_manifest
from fairseq_prune.evaluation.slu_scores import CORPORA, total

ROWS = {  # name of the training: what it is
    "spoken": "synthesised speech alone",
    "real": "synthesised speech and 265 real recordings",
}
COLUMNS = {
    "clean-int8": "accepted, clean",
    "noise-int8": "accepted, in noise",
}


def with_interval(path: Path) -> str:
    """The acceptance in a result of score_slu.py."""
    scores = json.loads(path.read_text())
    low, high = scores["intervals"]["acceptance"]
    return f"{scores['acceptance']:.1f} ({low:.1f} to {high:.1f})"


def by_condition(manifest: Path, answers: Path) -> dict[str, float]:
    """Acceptance in percent for each condition that make_noisy.py --each has put at the end of the ids."""
    stop, counts = CORPORA["stop"], defaultdict(list)
    for row, line in zip(read_manifest(manifest), answers.read_text().splitlines()):
        noise, ratio = row.id.split("-")[-2:]
        predicted = stop.read_or_none(json.loads(line)["text"])
        counts[f"{noise}-{ratio}"].append(stop.counts(stop.read(row.tgt_text), predicted))
    return {name: 100 * total(found)["acceptance"].f1 for name, found in counts.items()}


def main(out: Path) -> None:
    scores = out / "scores"
    print(
        "| trained on | parameters |",
        " | ".join(COLUMNS.values()),
        "|\n| --- | --- |",
        "--- |" * len(COLUMNS),
    )
    for name, title in ROWS.items():
        state = read_whisper(out / name / "checkpoint_best.pt").state_dict
        parameters = sum(weight.numel() for weight in state.values())
        cells = [with_interval(scores / f"{name}-{column}.json") for column in COLUMNS]
        print(f"| {title} | {parameters / 1e6:.1f} M |", " | ".join(cells), "|")
    found = {
        name: by_condition(out / "noise" / "test.tsv", scores / f"{name}-noise-int8.jsonl") for name in ROWS
    }
    conditions = list(found["real"])
    print("\n| in noise |", " | ".join(conditions), "|\n| --- |", "--- |" * len(conditions))
    for name, title in ROWS.items():
        print(f"| {title} |", " | ".join(f"{found[name][condition]:.1f}" for condition in conditions), "|")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
