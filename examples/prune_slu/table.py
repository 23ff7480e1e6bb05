#!/usr/bin/env python3
"""The table of run.sh: parameters and scores of each model, and the scores' share of the teacher's."""

import json
import sys
from pathlib import Path

from fairseq_prune.checkpoints.whisper.own import read_whisper

ROWS = {  # folder: what it is
    "teacher": "teacher, all layers",
    "pruned": "pruned, not retrained",
    "ce": "retrained, cross-entropy alone",
    "kl": "retrained, with KL",
    "kl-contrastive": "retrained, with KL and contrastive loss",
}
SCORES = {
    "intent_accuracy": "intent accuracy",
    "word_f1": "word F1",
    "char_f1": "char F1",
    "slu_f1": "SLU-F1",
}


def parameters(checkpoint) -> int:
    """Numbers in a checkpoint; the projection is the embedding and counts once, fixed positions count."""
    return sum(weight.numel() for weight in read_whisper(checkpoint).state_dict.values())


def main(out: Path) -> None:
    found = {name: json.loads((out / "scores" / name / "scores.json").read_text()) for name in ROWS}
    print("| model | parameters |", " | ".join([*SCORES.values(), "of the teacher's"]), "|")
    print("| --- |" + " --- |" * (len(SCORES) + 2))
    for name, title in ROWS.items():
        checkpoint = out / "pruned.pt" if name == "pruned" else out / name / "checkpoint_best.pt"
        shares = [100 * found[name][key] / found["teacher"][key] for key in ("intent_accuracy", "slu_f1")]
        cells = [f"{parameters(checkpoint) / 1e6:.1f} M", *(f"{found[name][key]:.1f}" for key in SCORES)]
        print(f"| {title} |", " | ".join([*cells, " / ".join(f"{share:.1f} %" for share in shares)]), "|")
    print(f"\n{found['teacher']['utterances']} utterances; the share is of intent accuracy / SLU-F1.")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
