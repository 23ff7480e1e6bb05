#!/usr/bin/env python
"""Labels for the pretraining of a small HuBERT teacher: k-means clusters of MFCCs, as in HuBERT's first iteration.

Writes DATA/SPLIT.km with a label every 10 ms for each file of DATA/SPLIT.tsv, and DATA/dict.km.txt.

    python examples/dphubert/mfcc_labels.py DATA --clusters 50
"""

import argparse
from pathlib import Path

import torch
import torchaudio

from fairseq_prune.data.audio import SAMPLE_RATE, read_audio
from fairseq_prune.data.waveform_manifest import read_waveform_manifest

MFCC = {"n_fft": 400, "hop_length": 160, "n_mels": 40, "center": False}  # windows of 25 ms, every 10 ms
FITTED = 100_000  # frames that the clusters are fitted on


def features(path, transform):
    """(frames, 39): 13 MFCCs with first and second differences, normalised over the file."""
    mfcc = transform(torch.from_numpy(read_audio(path)))
    delta = torchaudio.functional.compute_deltas(mfcc)
    stacked = torch.cat([mfcc, delta, torchaudio.functional.compute_deltas(delta)]).T
    return (stacked - stacked.mean(0)) / stacked.std(0).clamp(min=1e-5)


def nearest(x, centres):
    return torch.cdist(x, centres).argmin(1)


def k_means(x, clusters, rounds=30):
    """Centres (clusters, dim) of Lloyd's algorithm, begun at random frames; an empty cluster stays where it is."""
    centres = x[torch.randperm(len(x))[:clusters]].clone()
    for _ in range(rounds):
        labels = nearest(x, centres)
        sums = torch.zeros_like(centres).index_add_(0, labels, x)
        counts = torch.bincount(labels, minlength=clusters).unsqueeze(1)
        centres = torch.where(counts > 0, sums / counts.clamp(min=1), centres)
    return centres


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="folder with train.tsv and valid.tsv")
    parser.add_argument("--clusters", type=int, default=50)
    args = parser.parse_args()
    torch.manual_seed(1)
    transform = torchaudio.transforms.MFCC(SAMPLE_RATE, 13, melkwargs=MFCC)
    manifests = {split: read_waveform_manifest(args.data / f"{split}.tsv") for split in ("train", "valid")}
    frames = {
        split: [features(manifest.root / path, transform) for path in manifest.paths]
        for split, manifest in manifests.items()
    }
    everything = torch.cat(frames["train"])
    centres = k_means(everything[torch.randperm(len(everything))[:FITTED]], args.clusters)
    for split, files in frames.items():
        lines = [" ".join(map(str, nearest(file, centres).tolist())) for file in files]
        (args.data / f"{split}.km").write_text("\n".join(lines) + "\n", encoding="utf-8")
    dictionary = "".join(f"{label} 1\n" for label in range(args.clusters))
    (args.data / "dict.km.txt").write_text(dictionary, encoding="utf-8")
