"""The average of several checkpoints of one training, as fairseq's scripts/average_checkpoints.py makes it.

Averaging the last checkpoints of a training is worth a little accuracy, and costs nothing at inference
(Vaswani et al. 2017, section 6.1).
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from fairseq_prune.checkpoints.loading import load_checkpoint_file
from fairseq_prune.checkpoints.sparse import STATE, weights_of

NAME = re.compile(r"checkpoint_?(\d+)(?:_(\d+))?\.pt")


def newest(folder: Path, count: int) -> list[Path]:
    """The ``count`` last checkpoints that fairseq-train wrote at ends of epochs and after numbers of updates.

    Raises:
        ValueError: there are fewer.
    """
    found = {path: NAME.fullmatch(path.name) for path in folder.iterdir()}
    ages = {  # checkpoint3.pt is the end of epoch 3, checkpoint_3_200.pt in it
        path: (int(match[1]), int(match[2]) if match[2] else float("inf"))
        for path, match in found.items()
        if match
    }
    if len(ages) < count:
        raise ValueError(
            f"{folder}: found {len(ages)} checkpoints of epochs and updates, expected {count} or more"
        )
    return sorted(ages, key=ages.get)[len(ages) - count :]


def average(paths: Sequence[Path], progress: bool = False) -> dict:
    """The last of the checkpoints, with the mean of all their weights and without a state to train on from.

    Numbers that are no fractions are the last one's. The state of pruning stays where all have the same masks; zeros
    are where all have zeros.

    Args:
        paths: files of one training, the newest last; one is in memory at a time.

    Raises:
        ValueError: a file is none, or has other weights than the first.
    """
    sums: dict[str, Tensor] = {}
    masks = []
    for path in tqdm(paths, unit="file", disable=not progress):
        checkpoint = load_checkpoint_file(path, mmap=True)
        weights = weights_of(checkpoint, path)
        _compare(sums or weights, weights, path, paths[0])
        for name, weight in weights.items():
            if weight.is_floating_point():
                sums[name] = sums.get(name, 0) + weight.double()
            else:
                sums[name] = weight.clone()
        masks.append((checkpoint["model"].get(STATE) or {}).get("masks"))
    state = {STATE: checkpoint["model"][STATE]} if masks[-1] and all_equal(masks) else {}
    means = {
        name: (total / len(paths)).to(weights[name].dtype) if weights[name].is_floating_point() else total
        for name, total in sums.items()
    }
    kept = {key: value for key, value in checkpoint.items() if key != "last_optimizer_state"}
    return {**kept, "model": {**means, **state}}


def _compare(expected, found, path, first):
    wrong = sorted(expected.keys() ^ found.keys()) or [
        name for name, value in found.items() if value.shape != expected[name].shape
    ]
    if wrong:
        raise ValueError(f"{path}: other weights than {first}: {', '.join(wrong[:5])}")


def all_equal(masks: Iterable) -> bool:
    """Whether these packed masks are the same."""
    first, *others = masks
    return all(
        mask is not None
        and mask.keys() == first.keys()
        and all(torch.equal(mask[name]["bits"], first[name]["bits"]) for name in first)
        for mask in others
    )
