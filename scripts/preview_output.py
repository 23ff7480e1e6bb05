#!/usr/bin/env python
"""Let a decoder look at the likeliest tokens alone in full: the output projection becomes several times as fast.

A step of generation multiplies the decoder's features with the weights of all tokens: two thirds of the step of a small
Whisper, and of a translator with a large vocabulary. The features fill few directions of their space, which are found
on some minutes of speech without texts. Then all tokens are looked at in these directions, with weights of 8 bits, and
the likeliest are computed in full in float32.

    python scripts/preview_output.py --checkpoint whisper.pt --out fast.pt --minutes 10 talk.wav interview.mp3
    python scripts/preview_output.py --checkpoint out/checkpoint_best.pt --out fast.pt --manifest data --subset train_st
    python scripts/transcribe.py --checkpoint fast.pt talk.wav

transcribe.py, translate.py (--int8, too) and the Python classes use it on the CPU. All weights stay in the checkpoint:
training, fairseq-generate, the exports and GPUs use them as before. A table says how often the likeliest token is not
among those that are computed in full, on speech that the directions were not made of.
"""

from pathlib import Path

from _cli import PlainParser, complete, positive, run

import torch
from _calibration import add_speech_options, load_own_checkpoint, read_recordings

from fairseq_prune.benchmarks.output_features import output_features
from fairseq_prune.benchmarks.report import table
from fairseq_prune.benchmarks.weight_calibration import draw_windows
from fairseq_prune.checkpoints.loading import load_checkpoint_file
from fairseq_prune.checkpoints.previews import preview_of, with_preview
from fairseq_prune.checkpoints.saving import save
from fairseq_prune.data.audio import SAMPLE_RATE
from fairseq_prune.modules.previewed_output import CANDIDATES, OutputPreview, PreviewedOutput
from fairseq_prune.pruning.output_preview import misses, principal_directions

LONGEST = 30 * SAMPLE_RATE  # samples of a stretch of a recording
HELD_OUT = (
    0.25  # minutes of speech that the table is made of, for each minute that the directions are made of
)


def output_weight(checkpoint, path):
    """(tokens, dim) of the output projection, which may be the embedding.

    Raises:
        ValueError: there is no decoder.
    """
    for name in ("decoder.output_projection.weight", "decoder.embed_tokens.weight"):
        if name in checkpoint["model"]:
            return checkpoint["model"][name].float()
    raise ValueError(f"{path}: no decoder that writes tokens, expected a Whisper or a hubert_deltalm")


def rows(features, held_out, weight, sizes, candidates):
    """Of the table: a row for each number of directions."""
    directions = principal_directions(features, max(sizes))
    layer = torch.nn.Linear(*weight.shape[::-1], bias=False, device="meta")
    layer.weight = torch.nn.Parameter(weight, requires_grad=False)
    for size in sizes:
        output = PreviewedOutput(layer, OutputPreview(directions[:, :size].contiguous(), candidates))
        found = misses(held_out, weight, output)
        yield {
            "directions": str(size),
            "likeliest token missed": f"{100 * found.likeliest:.3f} %",
            "normaliser off by": f"{found.normalizer:.4f} nats",
        }


def main(args):
    with complete(args.out, args.overwrite) as out:
        checkpoint, _ = load_own_checkpoint(args.checkpoint)
        weight = output_weight(checkpoint, args.checkpoint)
        dim = weight.shape[1]
        size = args.directions or dim // 2
        if size > dim:
            raise ValueError(f"--directions: found {size}, expected at most the {dim} of the decoder")
        seconds = [60 * args.minutes, 60 * args.minutes * HELD_OUT]
        windows = draw_windows(read_recordings(args), LONGEST, seconds, args.seed)
        sets = [[window.waveform for window in drawn] for drawn in windows]
        features, held_out = output_features(
            args.checkpoint, sets, args.language, args.model_overrides, "listening"
        )
        if len(features) < dim:
            raise ValueError(
                f"found {len(features)} steps of the decoder in the speech, expected at least {dim}: give it more"
            )
        preview = OutputPreview(principal_directions(features, size), args.candidates)
        save(with_preview(checkpoint, preview), out)
        if not torch.equal(preview_of(load_checkpoint_file(out), args.out).directions, preview.directions):
            raise ValueError(f"{args.out}: not as it was written")
    heard, tested = (sum(map(len, waveforms)) / SAMPLE_RATE / 60 for waveforms in sets)
    print(
        f"directions of {heard:.1f} min, {len(features):,} steps; table of {tested:.1f} min, {len(held_out):,} steps; "
        f"seed {args.seed}"
    )
    sizes = sorted({max(1, dim // 4), max(1, dim // 3), max(1, dim // 2), size})
    print(table(list(rows(features, held_out, weight, sizes, args.candidates))))
    print(f"{args.out}: {size} directions, {args.candidates} of {len(weight):,} tokens in full")


if __name__ == "__main__":
    parser = PlainParser(__doc__)
    add = parser.add_argument
    add("--checkpoint", type=Path, required=True, help="Whisper or hubert_deltalm of this package")
    add_speech_options(parser)
    add("--directions", type=positive(int), help="in which all tokens are looked at (default: half of all)")
    add(
        "--candidates",
        type=positive(int),
        default=CANDIDATES,
        help=f"tokens that are then computed in full (default: {CANDIDATES})",
    )
    add("--out", type=Path, required=True, help="checkpoint to write")
    add("--overwrite", action="store_true", help="replace what is there")
    run(main, parser)
