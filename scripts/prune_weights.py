#!/usr/bin/env python
"""Set weights of a trained model to zero, without training: one pass over some minutes of speech without texts.

    python scripts/prune_weights.py --checkpoint whisper.pt --sparsity 0.3 --out sparse.pt talk.wav interview.mp3
    python scripts/prune_weights.py --checkpoint whisper.pt --manifest data --score fisher --scope layer \\
        --sparsity encoder.fc=0.3,decoder.self_attn=0.5 --out sparse.pt
    python scripts/prune_weights.py --checkpoint ctc.pt --score magnitude --scope global --sparsity 0.5 --out sparse.pt

Scores say how much a weight matters. magnitude: its size; wanda: its size times the norm of its input; taylor, fisher:
the change of the loss without it, |w g| or (w g)^2 summed over clips, on the text that the model itself writes; random:
chance. magnitude and random need no speech and take any model with Transformer layers, the others take a Whisper of
this package. Biases, norms, convolutions and embeddings stay. With --sparsity for some components, weights compete
within theirs. plan_sparsity.py finds out how much each component can lose.

With --refit, the weights that stay make up for those that go: layer after layer, least squares bring its output, or
the sum that it is added to, near to the dense model's. Give it ten minutes of speech or more (--minutes).

The file is one that PARP writes, too: sparsity.py looks at it and makes it smaller on the disk (finalize --compact).
"""

from argparse import ArgumentTypeError
from pathlib import Path

from _cli import PlainParser, complete, run

import torch
from _calibration import (
    add_calibration_options,
    calibration_clips,
    load_own_checkpoint,
    read_recordings,
)

from fairseq_prune.benchmarks.report import table
from fairseq_prune.benchmarks.weight_calibration import (
    ON_SPEECH,
    SCORES,
    plain_scores,
    speech_scores,
)
from fairseq_prune.benchmarks.weight_fitting import refitted
from fairseq_prune.checkpoints.loading import load_checkpoint_file
from fairseq_prune.checkpoints.saving import save
from fairseq_prune.checkpoints.sparse import STATE
from fairseq_prune.cuts.sparser_weights import component_weights, with_sparse_weights
from fairseq_prune.inference.whisper.loading import WhisperPipeline
from fairseq_prune.pruning.components import COMPONENTS, by_component, component_masks
from fairseq_prune.pruning.magnitude import check_sparsity, magnitude_masks, sparsity_of


def sparsity(text: str):
    """For argparse: a share, or {component: share} of COMPONENT=SHARE with commas between."""
    try:
        if "=" not in text:
            return check_sparsity(float(text))
        found = {}
        for part in text.split(","):
            name, _, share = part.partition("=")
            if name not in COMPONENTS or name in found:
                raise ValueError
            found[name] = check_sparsity(float(share))
        return found
    except ValueError:
        raise ArgumentTypeError(
            f"found {text!r}, expected a share in [0, 1), or COMPONENT=SHARE with commas between, each of "
            f"{', '.join(COMPONENTS)} once at most"
        ) from None


def masks_of(scores, args):
    """The weights to keep, by name."""
    scores = {name: score.cpu() for name, score in scores.items()}
    choose = component_masks if isinstance(args.sparsity, dict) else magnitude_masks
    return choose(scores, args.sparsity, args.scope)


def pruned(args, weights, recordings):
    """The weights to keep, and the values that they get; None without --refit."""
    if recordings is not None:
        pipeline = WhisperPipeline(args.checkpoint, args.model_overrides, args.device)
        clips = calibration_clips(pipeline, recordings, args)
    if args.score in ON_SPEECH:
        scores = speech_scores(args.score, pipeline.model, clips, args.score)
    else:
        scores = plain_scores(args.score, weights, args.seed)
    masks = masks_of(scores, args)
    return masks, refitted(pipeline.model, masks, clips, progress="least squares") if args.refit else None


def show(masks) -> None:
    """The sparsity of each component."""
    rows = []
    for component, names in by_component(masks).items():
        group = {name: masks[name] for name in names}
        weights = sum(mask.numel() for mask in group.values())
        rows.append(
            {"component": component, "weights": f"{weights:,}", "sparsity": f"{sparsity_of(group):.4f}"}
        )
    print(table(rows))


def main(args):
    with complete(args.out, args.overwrite) as out:
        checkpoint, whisper = load_own_checkpoint(args.checkpoint)
        recordings = None
        if args.refit and not whisper:
            raise ValueError(f"--refit: {args.checkpoint} is no Whisper, expected one")
        if args.score in ON_SPEECH and not whisper:
            raise ValueError(
                f"--score {args.score}: {args.checkpoint} is no Whisper; expected magnitude or random"
            )
        if args.score in ON_SPEECH or args.refit:
            recordings = read_recordings(args)
        elif args.audio or args.manifest:
            raise ValueError(f"--score {args.score} needs no speech, found some")
        weights = component_weights(checkpoint, args.checkpoint)
        if isinstance(args.sparsity, dict):
            component_masks(weights, dict.fromkeys(args.sparsity, 0.0), "matrix")  # are they all there?
        masks, fitted = pruned(args, weights, recordings)
        method = f"{args.score}-{args.scope}" + ("-refit" if args.refit else "")
        sparse = with_sparse_weights(checkpoint, masks, method, args.checkpoint, fitted)
        save(sparse, out)
        found = load_checkpoint_file(out)["model"]
        wrong = [name for name in sparse["model"] if not torch.equal(found[name], sparse["model"][name])]
        if wrong:
            raise ValueError(f"{args.out}: not as it was written: {wrong[:3]}")
    show(masks)
    everything = sum(value.numel() for name, value in found.items() if name != STATE)
    zeros = sum(int((~mask).sum()) for mask in masks.values())
    print(
        f"{args.out}: {zeros:,} weights are zero, {sparsity_of(masks):.4f} of those that were ranked and "
        f"{zeros / everything:.4f} of all"
    )


if __name__ == "__main__":
    parser = PlainParser(__doc__)
    add_calibration_options(parser, SCORES)
    add = parser.add_argument
    add(
        "--sparsity",
        type=sparsity,
        required=True,
        help=f"share of zeros: 0.5, or encoder.fc=0.3,decoder.self_attn=0.5; components: {', '.join(COMPONENTS)}",
    )
    add(
        "--refit", action="store_true", help="least squares: what stays makes up for what is gone (a Whisper)"
    )
    add("--out", type=Path, required=True, help="checkpoint to write")
    add("--overwrite", action="store_true", help="replace what is there")
    run(main, parser)
