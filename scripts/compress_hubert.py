#!/usr/bin/env python
"""Cut out of a trained DPHuBERT what its gates close, and keep the encoder alone.

The small encoder gives the outputs of the gated one, which is checked before the file appears. Without gates, as
after a second stage of distillation, the encoder is only taken out of its checkpoint.

    python scripts/compress_hubert.py --checkpoint dphubert/checkpoint_best.pt --out pruned.pt
    fairseq-train ... --arch hubert_deltalm_base --hubert-path pruned.pt --token-keep-ratio 0.9
"""

from pathlib import Path

from _cli import PlainParser, complete, run

import torch

from fairseq_prune.checkpoints.hubert.own import materialise, read_student, save_pruned_hubert
from fairseq_prune.checkpoints.hubert.reading import read_hubert
from fairseq_prune.checkpoints.loading import load_state_dict_strictly
from fairseq_prune.modules.hubert.architecture import build_encoder
from fairseq_prune.modules.hubert.encoder import SAMPLE_RATE, TokenPrunedHubert
from fairseq_prune.modules.hubert.gated import GatedHubert

SECONDS = 10  # of the utterance that is compared and whose MACs are counted
TOLERANCE = 1e-5  # of outputs, relative to their norm; rounding makes 2e-6 at the size of HuBERT base


def main(args):
    with complete(args.out, args.overwrite) as written:
        student = read_student(args.checkpoint)
        small = materialise(student)[0] if isinstance(student, GatedHubert) else student
        save_pruned_hubert(small, written)
        checkpoint = read_hubert(written)
        loaded = build_encoder(checkpoint.architecture).eval()
        load_state_dict_strictly(loaded, checkpoint.state_dict, written)
        difference = largest_difference(student, loaded)
        if not difference <= TOLERANCE:
            raise ValueError(
                f"{args.checkpoint}: outputs of the cut encoder differ by {difference:.1e}, expected {TOLERANCE}"
            )
    report(student, loaded, difference, args.out)


@torch.no_grad()
def largest_difference(one: TokenPrunedHubert, other: TokenPrunedHubert) -> float:
    """Of the outputs of any layer, in norm, relative to the layer's; two utterances, one of them padded."""
    torch.manual_seed(0)
    lengths = [SECONDS * SAMPLE_RATE, SECONDS * SAMPLE_RATE // 2]
    source = torch.randn(2, lengths[0])
    source[1, lengths[1] :] = 0
    pairs = zip(one.layer_outputs(source, lengths)[0], other.layer_outputs(source, lengths)[0])
    return max(((x - y).norm() / x.norm()).item() for x, y in pairs)


def report(student: TokenPrunedHubert, small: TokenPrunedHubert, difference: float, out: Path) -> None:
    """What was cut, and what is left."""
    samples = SECONDS * SAMPLE_RATE
    parameters, macs = sum(p.numel() for p in small.parameters()), small.macs(samples)["total"]
    if isinstance(student, GatedHubert):
        dense, dense_macs = student.dense_parameters(), student.dense_macs(samples)
        print(f"parameters: {dense:,} -> {parameters:,} ({1 - parameters / dense:.1%} less)")
        print(
            f"MACs for {SECONDS} s: {dense_macs / 1e9:.2f} -> {macs / 1e9:.2f} billion"
            f" ({1 - macs / dense_macs:.1%} less)"
        )
    else:
        print(
            f"parameters: {parameters:,}; MACs for {SECONDS} s: {macs / 1e9:.2f} billion; there were no gates"
        )
    print(
        f"channels of the extractor: {[conv[0].out_channels for conv in small.feature_extractor.conv_layers]}"
    )
    print(f"heads by layer: {list(small.shapes.heads)}")
    print(f"units by layer: {list(small.shapes.units)}")
    print(f"{out}: loaded back; outputs of all layers are within {difference:.1e} of what they were")


if __name__ == "__main__":
    parser = PlainParser(__doc__)
    add = parser.add_argument
    add("--checkpoint", required=True, help="checkpoint of the model dphubert")
    add("--out", type=Path, required=True, help="file to write")
    add("--overwrite", action="store_true", help="replace what is there")
    run(main, parser)
