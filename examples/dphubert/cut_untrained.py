#!/usr/bin/env python
"""Cut a teacher down to the size of another model without having learned what to cut: what DPHuBERT is compared with.

    python examples/dphubert/cut_untrained.py --teacher teacher.pt --size-of pruned.pt --how random --out random.pt

random: any channels, heads and units; uniform: the same share of each convolution and layer, those with the largest
weights (L2 norm of what they read); uniform-layers: the same, of the transformer alone. As many parameters as the other
model, or as near below as single units allow.
"""

import argparse
from pathlib import Path

import torch

from fairseq_prune.checkpoints.hubert.own import materialise, save_pruned_hubert
from fairseq_prune.checkpoints.hubert.reading import read_hubert
from fairseq_prune.checkpoints.loading import load_state_dict_strictly
from fairseq_prune.modules.hubert.architecture import build_encoder
from fairseq_prune.modules.hubert.gated import Gating

OPEN, CLOSED = 100.0, -100.0  # log_alpha of gates that are sure


def norms(encoder, kind, index):
    """Size (gates,) of the weights of each gate."""
    if kind == "conv_channels":
        return encoder.feature_extractor.conv_layers[index][0].weight.flatten(1).norm(dim=1)
    layer = encoder.encoder.layers[index]
    if kind == "feed_forward_units":
        return layer.fc1.weight.norm(dim=1)
    return layer.self_attn.v_proj.weight.view(layer.self_attn.num_heads, -1).norm(dim=1)


def places(encoder, how):
    """{gate: (gates,) numbers in (0, 1)}, by which a gate with a number below the share to keep is open."""
    found = {}
    for kind, by_index in encoder.gates.items():
        for index, gate in by_index.items():
            size = len(gate.log_alpha)
            if how == "random":
                found[gate] = torch.rand(size)
            else:
                rank = norms(encoder, kind, int(index)).argsort(descending=True).argsort()
                found[gate] = (rank + 0.5) / size
    return found


def close(places_of, share):
    """Open the gates below the share, and at least the first of each."""
    for gate, place in places_of.items():
        is_open = (place < share) | (place == place.min())
        gate.log_alpha.data = torch.where(is_open, OPEN, CLOSED)


def main(args):
    torch.manual_seed(args.seed)
    teacher, other = read_hubert(args.teacher), read_hubert(args.size_of)
    size = sum(weight.numel() for weight in other.state_dict.values())
    channels = None if args.how == "uniform-layers" else Gating.conv_channels
    gating = Gating(conv_channels=channels, attention_blocks=None, feed_forward_blocks=None)
    encoder = build_encoder(teacher.architecture, gating=gating)
    gates = {name: value for name, value in encoder.state_dict().items() if name.startswith("gates.")}
    load_state_dict_strictly(encoder, {**teacher.state_dict, **gates}, args.teacher)
    found, low, high = places(encoder, args.how), 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        close(found, middle)
        low, high = (low, middle) if encoder.expected_parameters() > size else (middle, high)
    close(found, low)
    small, architecture = materialise(encoder.eval())
    save_pruned_hubert(small, args.out)
    print(
        f"{args.out}: keeps {low:.1%} ({args.how}), {sum(p.numel() for p in small.parameters()):,} parameters"
        f" ({args.size_of}: {size:,}); {architecture['conv_feature_layers']}, {architecture['pruned']}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--size-of", required=True)
    parser.add_argument("--how", choices=("random", "uniform", "uniform-layers"), required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    main(parser.parse_args())
