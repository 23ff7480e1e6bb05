#!/usr/bin/env python
"""Cut out of a Whisper what its gates close: a smaller checkpoint of a Whisper, which everything here takes.

The small model gives the logits of the gated one, which is checked before the file appears.

    python scripts/compress_whisper.py --checkpoint gated/checkpoint_last.pt --out cut.pt
    python scripts/transcribe.py --checkpoint cut.pt talk.wav
    fairseq-hydra-train ... model._name=whisper_tiny_en model.whisper_path=cut.pt

Training (examples/compress_whisper/gates.sh) is of the model gated_whisper with the criterion whisper_distillation.
"""

from pathlib import Path

from _cli import PlainParser, complete, run

import torch
from fairseq import checkpoint_utils

from fairseq_prune.checkpoints.loading import load_checkpoint_file, load_fairseq_state
from fairseq_prune.checkpoints.saving import save
from fairseq_prune.cuts.gates import without_gates
from fairseq_prune.models.gated_whisper import MACS_MEL_FRAMES, MACS_TOKENS
from fairseq_prune.modules.whisper.gated import layer_macs, layer_parameters

TOLERANCE = 1e-5  # of logits, relative to their norm


def main(args):
    with complete(args.out, args.overwrite) as written:
        save(without_gates(load_checkpoint_file(args.checkpoint), str(args.checkpoint)), written)
        gated, small = loaded(args.checkpoint), loaded(written)
        difference = largest_difference(gated, small)
        if not difference <= TOLERANCE:
            raise ValueError(
                f"{args.checkpoint}: logits of the cut model differ by {difference:.1e}, expected {TOLERANCE}"
            )
    report(gated, small)
    print(f"{args.out}: loaded back; logits are within {difference:.1e} of what they were")


def loaded(path):
    """The model in a checkpoint, in evaluation mode."""
    [model], _, _ = checkpoint_utils.load_model_ensemble_and_task([str(path)], state=load_fairseq_state(path))
    return model.eval()


@torch.no_grad()
def largest_difference(one, other) -> float:
    """Of the logits, in norm, relative to theirs; two clips of noise, one of them shorter."""
    torch.manual_seed(0)
    lengths = torch.tensor([1, 0.5]) * min(MACS_MEL_FRAMES, one.encoder.max_positions())
    features = torch.randn(2, int(lengths[0]), one.encoder.conv1.in_channels)
    embedding = one.decoder.embed_tokens.num_embeddings
    tokens = torch.randint(embedding, (2, min(MACS_TOKENS, one.decoder.max_positions())))
    pair = [model(features, lengths.long(), tokens)[0] for model in (one, other)]
    return ((pair[0] - pair[1]).norm() / pair[0].norm()).item()


def report(gated, small) -> None:
    """What was cut, and what is left."""
    clip = min(MACS_MEL_FRAMES, gated.encoder.max_positions()), MACS_TOKENS
    for name, count in (
        ("parameters", layer_parameters),
        ("MACs", lambda *a, **k: layer_macs(a[0], *clip, **k)),
    ):
        before, after = (int(count(model, expected=False)) for model in (gated, small))
        print(f"{name} of the layers: {before:,} -> {after:,} ({1 - after / before:.1%} less)")
    print(f"parameters of the whole: {sum(p.numel() for p in small.parameters()):,}")
    for component, sizes in small.layer_sizes().items():
        kind = "units" if component.endswith("fc") else "heads"
        print(f"{component}: {kind} by layer {', '.join(map(str, sizes))}")


if __name__ == "__main__":
    parser = PlainParser(__doc__)
    add = parser.add_argument
    add("--checkpoint", required=True, help="checkpoint of the model gated_whisper")
    add("--out", type=Path, required=True, help="file to write")
    add("--overwrite", action="store_true", help="replace what is there")
    run(main, parser)
