#!/usr/bin/env python
"""Prune a Whisper in many ways without training, and transcribe with each; a line of results a way.

    python scripts/plan_sparsity.py --checkpoint tiny.en.pt --manifest data --json sensitivity.json
    python examples/compress_whisper/one_shot.py --checkpoint tiny.en.pt --data data --out results.jsonl \\
        --stage components report matrix scopes half again --sensitivity sensitivity.json

The data are those of split.py: scores are of the speakers to train on; the stages "report" and "again" transcribe
those to report, all others those to choose on. A grid that was stopped goes on where it was. The masks are those of
scripts/prune_weights.py with the same options. tables.py makes tables and pictures of the results.
"""

import json
import tempfile
from functools import partial
from pathlib import Path

import torch
from score import MOST, TRANSCRIBING, append, errors, recordings
from ways import STAGES, Plans

from fairseq_prune.benchmarks.weight_calibration import (
    ON_SPEECH,
    draw_windows,
    masked,
    own_texts,
    plain_scores,
    prunable,
    speech_scores,
    structure_moments,
    structure_scores,
)
from fairseq_prune.benchmarks.weight_fitting import refitted_all
from fairseq_prune.checkpoints.loading import load_checkpoint_file
from fairseq_prune.checkpoints.saving import save
from fairseq_prune.command_line import PlainParser, finish
from fairseq_prune.cuts.narrower_layers import with_narrower_layers
from fairseq_prune.cuts.sparser_weights import component_weights
from fairseq_prune.data.log_mel import HOP
from fairseq_prune.files import results_of
from fairseq_prune.inference.whisper.loading import WhisperPipeline
from fairseq_prune.inference.whisper.transcriber import WhisperTranscriber
from fairseq_prune.pruning.components import component_masks
from fairseq_prune.pruning.magnitude import magnitude_masks, sparsity_of


class Grid:
    """A Whisper, its scores by name and seed, and the utterances of each split."""

    def __init__(self, args):
        self.args = args
        self.transcriber = WhisperTranscriber(args.checkpoint, device=args.device, plain=True, **TRANSCRIBING)
        self.model = self.transcriber.listener.model
        self.found = {}

    def recordings(self, split):
        """Utterances of a split, and their audio; all of those to train on."""
        return recordings(self.args.data, split, None if split == "train" else self.args.most_of_a_speaker)

    def scores_of(self, name, seed):
        """As scripts/prune_weights.py has them."""
        if name not in ON_SPEECH:
            return plain_scores(name, prunable(self.model), seed)
        return self.once(name, seed, lambda: speech_scores(name, *self.calibration(seed), name))

    def once(self, name, seed, compute):
        """What is computed once for each seed."""
        if (name, seed) not in self.found:
            self.found[name, seed] = compute()
        return self.found[name, seed]

    def calibration(self, seed):
        """The model as it hears 30 s, and clips."""

        def heard():
            pipeline = WhisperPipeline(self.args.checkpoint, device=self.args.device)
            longest = pipeline.model.encoder.max_positions() * HOP
            [windows] = draw_windows(self.recordings("train")[1], longest, [60 * self.args.minutes], seed)
            return pipeline.model, own_texts(pipeline, windows)

        return self.once("clips", seed, heard)

    def cut(self, found, out):
        """Write a Whisper with fewer units and heads, as of scripts/prune_layers.py; the share of weights that went."""
        rank, seed, importances = found["score"], found["seed"], None
        if rank != "norm" or found["refit"]:
            model, clips = self.calibration(seed)
        if rank != "norm":
            moments = self.once("moments", seed, lambda: structure_moments(model, clips, "moments"))
            importances = self.once(
                ("structure", rank), seed, lambda: structure_scores(rank, model, clips, moments, rank)
            )
        whole = load_checkpoint_file(self.args.checkpoint)
        fit = partial(refitted_all, model, clips) if found["refit"] else None
        small = with_narrower_layers(
            whole, found["units"], found["heads"], "the checkpoint", importances, fit
        )
        save(small, out)
        before, after = (sum(w.numel() for w in component_weights(c, out).values()) for c in (whole, small))
        return 1 - after / before

    def masks(self, found):
        """By name of the weight."""
        if found["score"] == "dense":
            return {}
        scores = self.scores_of(found["score"], found["seed"])
        choose = component_masks if isinstance(found["sparsity"], dict) else magnitude_masks
        return choose(scores, found["sparsity"], found["scope"])

    def line(self, found):
        """The results of a way."""
        if "units" in found:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "cut.pt"
                gone = self.cut(found, path)
                transcriber = WhisperTranscriber(path, device=self.args.device, **TRANSCRIBING)
            return {
                **found,
                "pruned": gone,
                "of_all_components": gone,
                **errors(transcriber, *self.recordings(found["split"])),
            }
        masks = self.masks(found)
        everything = sum(weight.numel() for weight in prunable(self.model).values())
        zeros = sum(int((~mask).sum()) for mask in masks.values())
        with masked(self.model, masks):
            counted = errors(self.transcriber, *self.recordings(found["split"]))
        pruned = sparsity_of(masks) if masks else 0.0
        return {**found, "pruned": pruned, "of_all_components": zeros / everything, **counted}


def main(args):
    torch.set_num_threads(1)
    grid, lines = Grid(args), results_of(args.out)
    for line in lines:
        found, expected = len(line["errors"]), len(grid.recordings(line["split"])[0])
        if found != expected:
            raise ValueError(f"{args.out}: found results of {found} utterances, expected {expected}")
    losses = json.loads(args.sensitivity.read_text(encoding="utf-8"))["losses"] if args.sensitivity else None
    for stage in args.stage:
        for found in STAGES[stage](Plans(losses, lines, prunable(grid.model))):
            if any(all(line.get(key) == value for key, value in found.items()) for line in lines):
                continue
            lines.append(grid.line(found))
            append(args.out, lines[-1])


if __name__ == "__main__":
    parser = PlainParser(__doc__)
    add = parser.add_argument
    add("--checkpoint", type=Path, required=True, help="Whisper of this package")
    add("--data", type=Path, required=True, help="folder with train.tsv, choose.tsv and report.tsv")
    add("--out", type=Path, required=True, help="file of results, to which lines are added")
    add("--stage", nargs="+", choices=STAGES, required=True, help="parts of the grid, in this order")
    add(
        "--sensitivity",
        type=Path,
        help="JSON of scripts/plan_sparsity.py, for plans by it in the stage report",
    )
    add("--minutes", type=float, default=2.0, help="of speech for scores (default: 2)")
    add(
        "--most-of-a-speaker",
        type=int,
        default=MOST,
        help=f"utterances to transcribe of each, the first ones (default: {MOST}, which all have)",
    )
    add("--device", default="cpu")
    raise SystemExit(finish(main, parser.parse_args()))
