#!/usr/bin/env python
"""Print which layers of a teacher are similar, as --distill-layers for --distill-by groups (SKILL, arXiv 2402.16830).

python examples/dphubert/layer_groups.py --teacher teacher.pt --data data --groups 3
"""

from pathlib import Path

import torch

from fairseq_prune.command_line import PlainParser, finish
from fairseq_prune.data.audio import SAMPLE_RATE, read_audio
from fairseq_prune.data.waveform_manifest import read_waveform_manifest
from fairseq_prune.inference.features import FeatureExtractor
from fairseq_prune.pruning.layer_groups import group_layers, linear_cka

LONGEST = 20 * SAMPLE_RATE  # samples of a file that are looked at


def main(args):
    teacher = FeatureExtractor.load(args.teacher)
    manifest = read_waveform_manifest(args.data / f"{args.split}.tsv")
    files = [
        read_audio(manifest.root / path, 0, min(LONGEST, samples))
        for path, samples in list(zip(manifest.paths, manifest.samples.tolist()))[: args.files]
    ]
    states = [teacher.features([torch.from_numpy(file)])[0] for file in files]
    similarity = linear_cka(torch.cat(states, dim=1))
    print("|".join(",".join(map(str, group)) for group in group_layers(similarity, args.groups)))


if __name__ == "__main__":
    parser = PlainParser(__doc__)
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder with SPLIT.tsv")
    parser.add_argument("--split", default="train")
    parser.add_argument("--files", type=int, default=10, help="how many of the split are looked at")
    parser.add_argument("--groups", type=int, required=True)
    raise SystemExit(finish(main, parser.parse_args()))
