#!/usr/bin/env python
"""What students know of speech: who says which digit, told from their frozen features by a linear probe.

    python examples/dphubert/probe.py --fsdd FSDD_DIR --held-out 5-14 --out probe --against "cut by hand" \\
        --models teacher=teacher.pt "cut by hand=hand_1.pt,hand_2.pt" "gates=gates_1.pt,gates_2.pt"

The probe is given the means of the last layer's states over each quarter of a recording. (Earlier layers would tell
little of a student: they have more of the extractor, which all share.) Recordings with the indices of --held-out, of
all digits and speakers, are tested; the others train the probe. Checkpoints of a model, separated by commas, are its
seeds. Intervals are 95 % over recordings, of errors averaged over seeds; differences are to the model --against on the
same recordings. The errors of each model are kept in OUT, and what is there already is not made again.
"""

from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

from fairseq_prune.benchmarks.report import table
from fairseq_prune.command_line import PlainParser, finish
from fairseq_prune.data.audio import SAMPLE_RATE
from fairseq_prune.evaluation.bootstrap import interval, resample
from fairseq_prune.files import complete
from fairseq_prune.inference.features import FeatureExtractor
from fairseq_prune.preparation.synthesis.fsdd import find_recordings, parse_indices, read_waveform

LIKE_THE_CORPUS = dict(normalize="rms", level=-26.0, trim_db=40.0)  # of digits.sh
TASKS = ("digit", "speaker")
QUARTERS, DECAY, STEPS, BATCH = 4, 1e-3, 100, 50


def features_of(path, waveforms):
    """(recordings, QUARTERS * dim): the means of the last layer over parts of each recording."""
    extractor = FeatureExtractor.load(path)
    order = sorted(range(len(waveforms)), key=lambda i: len(waveforms[i]))
    found = [None] * len(waveforms)
    for start in tqdm(range(0, len(order), BATCH), desc=str(path), unit="batch", leave=False):
        part = order[start : start + BATCH]
        for i, states in zip(part, extractor.features([waveforms[i] for i in part], [extractor.states - 1])):
            found[i] = F.adaptive_avg_pool1d(states[0].T, QUARTERS).flatten()
    return torch.stack(found)


def probe(features, classes, train):
    """Whether the probe is wrong about each recording that is not trained on: bool (recordings,).

    Args:
        features: (recordings, dim). classes: (recordings,). train: bool (recordings,).
    """
    mean, scale = features[train].mean(0), features[train].std(0).clamp_min(1e-5)
    inputs = (features - mean) / scale
    matrix = nn.Parameter(torch.zeros(int(classes.max()) + 1, features.shape[1]))
    bias = nn.Parameter(torch.zeros(len(matrix)))
    optimizer = torch.optim.LBFGS([matrix, bias], max_iter=STEPS, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        total = (
            F.cross_entropy(F.linear(inputs[train], matrix, bias), classes[train])
            + DECAY * matrix.square().sum()
        )
        total.backward()
        return total

    optimizer.step(loss)
    with torch.no_grad():
        return F.linear(inputs[~train], matrix, bias).argmax(1) != classes[~train]


def tested(name, paths, recordings, waveforms, train, out):
    """Errors of a model, averaged over its seeds: {task: (recordings,)}."""
    kept = out / f"{name.replace('/', '-')}.npz"
    if not kept.exists():
        classes = {
            "digit": torch.tensor([one.digit for one in recordings]),
            "speaker": torch.tensor(np.unique([one.speaker for one in recordings], return_inverse=True)[1]),
        }
        found = {task: [] for task in TASKS}
        for path in paths:
            features = features_of(path, waveforms)
            for task in TASKS:
                found[task].append(probe(features, classes[task], train).numpy())
        with complete(kept) as aside, aside.open("wb") as file:
            np.savez(file, **{task: np.stack(rows) for task, rows in found.items()})
    with np.load(kept) as file:
        return {task: file[task] for task in TASKS}


def size_of(path):
    return sum(parameter.numel() for parameter in FeatureExtractor.load(path).encoder.parameters())


def cells(errors, against):
    """Of one task: errors (seeds, recordings), in percent."""
    own = errors.mean(0)
    low, high = interval(100 * resample(own[:, None])[:, 0] / len(own))
    difference = own - against.mean(0)
    least, most = interval(100 * resample(difference[:, None])[:, 0] / len(own))
    seeds = ", ".join(f"{100 * row.mean():.1f}" for row in errors)
    return [
        f"{100 * own.mean():.2f} ({low:.2f} to {high:.2f})",
        seeds,
        f"{100 * difference.mean():+.2f} ({least:+.2f} to {most:+.2f})",
    ]


def main(args):
    torch.set_num_threads(1)
    models = {name: paths.split(",") for name, _, paths in (item.partition("=") for item in args.models)}
    if args.against not in models:
        raise ValueError(f"--against: found {args.against!r}, expected one of {', '.join(models)}")
    recordings = find_recordings(args.fsdd)
    held_out = parse_indices("--held-out", args.held_out)
    train = torch.tensor([one.index not in held_out for one in recordings])
    if train.all() or not train.any():
        raise ValueError(f"--held-out: found {args.held_out}, expected some of the recordings and not all")
    waveforms = [
        torch.from_numpy(read_waveform(one.path, SAMPLE_RATE, **LIKE_THE_CORPUS)) for one in recordings
    ]
    args.out.mkdir(parents=True, exist_ok=True)
    errors = {
        name: tested(name, paths, recordings, waveforms, train, args.out) for name, paths in models.items()
    }
    print(f"{int(train.sum()):,} recordings to train on, {int((~train).sum())} to test")
    for task in TASKS:
        heads = ("model", "parameters", f"{task}s wrong %", "seeds", "against")
        print(f"\n{task}: differences are to {args.against}\n")
        rows = (
            [name, f"{size_of(paths[0]):,}", *cells(errors[name][task], errors[args.against][task])]
            for name, paths in models.items()
        )
        print(table([dict(zip(heads, row)) for row in rows]))


if __name__ == "__main__":
    parser = PlainParser(__doc__)
    add = parser.add_argument
    add("--fsdd", type=Path, required=True, help="folder of the recordings")
    add("--held-out", required=True, help="indices to test on, such as 5-14: no model may have heard them")
    add("--models", nargs="+", required=True, metavar="NAME=CHECKPOINT,...", help="checkpoints of its seeds")
    add("--against", required=True, help="name of the model to compare with")
    add("--out", type=Path, required=True, help="folder of the errors of each model")
    raise SystemExit(finish(main, parser.parse_args()))
