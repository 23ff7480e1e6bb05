"""The table of run.sh: table.py OUT"""

import json
import re
import sys
from pathlib import Path
from statistics import mean

from fairseq_prune.checkpoints.loading import load_checkpoint_file
from fairseq_prune.pruning.magnitude import TRANSFORMER_LAYERS

METHODS = ("dense", "parp", "parp-p", "omp", "mpi", "random")
TITLES = "method | sparsity | zeros % | WER | seconds | seeds"


def zeros(checkpoint: Path) -> float:
    """Share of zeros among the weights that are pruned, counted."""
    weights = load_checkpoint_file(checkpoint)["model"]
    pruned = [weights[name] for name in weights if re.fullmatch(TRANSFORMER_LAYERS, name)]
    return sum(int((weight == 0).sum()) for weight in pruned) / sum(weight.numel() for weight in pruned)


def measure(folder: Path) -> dict:
    """What a finished run gave; omp is the dense run and one more, in time too."""
    report = json.loads((folder / "test" / "report.json").read_text())
    folders = [folder, folder.parent / "dense"] if folder.name.startswith("omp") else [folder]
    return {
        "zeros %": 100 * zeros(folder / "checkpoint_last.pt"),
        "WER": report["WER"],
        "seconds": sum(float((each / "seconds").read_text().split()[-1]) for each in folders),
    }


def main(out: Path) -> None:
    print("|", TITLES, "|")
    print("|", " | ".join("---" for _ in TITLES.split("|")), "|")
    runs: dict = {}
    for done in sorted(out.glob("seed*/*/complete")):
        method, _, sparsity = done.parent.name.partition("-0.")
        runs.setdefault((float(f"0.{sparsity or 0}"), METHODS.index(method)), []).append(measure(done.parent))
    for (sparsity, place), measured in sorted(runs.items()):
        cells = [f"{mean(each[title] for each in measured):.1f}" for title in measured[0]]
        print("|", " | ".join([METHODS[place], f"{sparsity:g}", *cells, str(len(measured))]), "|")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
