#!/usr/bin/env python
"""Prune a Whisper in many ways without training, and transcribe with each; a line of results a way.

    python scripts/plan_sparsity.py --checkpoint tiny.en.pt --manifest data --json sensitivity.json
    python examples/compress_whisper/one_shot.py --checkpoint tiny.en.pt --data data --out results.jsonl \\
        --stage components report matrix scopes half again --sensitivity sensitivity.json

The data are those of split.py: scores are of the speakers to train on; the stages "report" and "again" transcribe
those to report, all others those to choose on. A grid that was stopped goes on where it was. The masks are those of
scripts/prune_weights.py with the same options. tables.py makes tables and pictures of the results.
"""

import itertools
import json
import time
from collections import Counter
from pathlib import Path

import torch

from fairseq_prune.benchmarks.weight_calibration import (
    ON_SPEECH,
    draw_windows,
    masked,
    own_texts,
    plain_scores,
    prunable,
    speech_scores,
)
from fairseq_prune.command_line import PlainParser, finish
from fairseq_prune.data.log_mel import HOP
from fairseq_prune.data.manifest import read_manifest
from fairseq_prune.evaluation.error_rates import word_error_rate
from fairseq_prune.evaluation.normalizers import text_normalizer
from fairseq_prune.inference.whisper.loading import WhisperPipeline
from fairseq_prune.inference.whisper.recordings import FileRecording
from fairseq_prune.inference.whisper.transcriber import WhisperTranscriber
from fairseq_prune.pruning.components import COMPONENTS, by_component, component_masks
from fairseq_prune.pruning.magnitude import magnitude_masks, sparsity_of
from fairseq_prune.pruning.sparsity_planning import plan_sparsities

LEVELS = (0.3, 0.5, 0.7)
# greedy, without timestamps and fallbacks; no reference has as many tokens. Of the silence after a clip, one frame in 8
# is heard: that costs no error that shows (examples/whisper), and saves half of the time
TRANSCRIBING = dict(
    overrides={"silence_stride": 8},
    temperatures=(0.0,),
    timestamps=False,
    compression_ratio_threshold=float("inf"),
    logprob_threshold=float("-inf"),
    batch_size=16,
    max_tokens=150,
)


def way(split, score="dense", scope="", sparsity=0.0, seed=1, plan=""):
    """A way to prune: what identifies a line of results."""
    return dict(split=split, score=score, scope=scope, sparsity=sparsity, seed=seed, plan=plan)


def stage_matrix(_):
    """Every score, within a matrix."""
    yield way("choose")
    for score in ("magnitude", "wanda", "fisher", "random", "taylor"):
        yield way("choose", score, "matrix", 0.3)


def stage_scopes(_):
    """Three scores in the other scopes."""
    for scope, score in itertools.product(("row", "layer", "global"), ("magnitude", "wanda", "fisher")):
        yield way("choose", score, scope, 0.3)


def stage_half(_):
    """Half of the weights."""
    for score in ("magnitude", "wanda", "fisher", "random", "taylor"):
        yield way("choose", score, "matrix", 0.5)


def stage_components(_):
    """One component at a time."""
    yield way("choose")
    for sparsity, component in itertools.product(LEVELS, COMPONENTS):
        yield way("choose", "wanda", "row", {component: sparsity})


def stage_report(plans, seed=1):
    """Wanda as published, its plans, and what they are compared with: no row here was chosen by error rates."""
    yield way("report")
    for sparsity in (0.3, 0.5):
        yield way("report", "wanda", "row", sparsity, seed)
        yield way("report", "magnitude", "matrix", sparsity)
        for by in plans.curves:
            yield way("report", "wanda", "row", plans(by, sparsity), seed, plan=by)
    yield way("report", "wanda", "row", {"decoder.self_attn": 0.5}, seed)


def stage_again(plans):
    """The same with other speech for the scores."""
    yield from stage_report(plans, seed=2)


STAGES = {
    "matrix": stage_matrix,
    "scopes": stage_scopes,
    "half": stage_half,
    "components": stage_components,
    "report": stage_report,
    "again": stage_again,
}


class Grid:
    """A Whisper, its scores by name and seed, and the utterances of each split."""

    def __init__(self, args):
        self.args = args
        self.transcriber = WhisperTranscriber(args.checkpoint, device=args.device, **TRANSCRIBING)
        self.model = self.transcriber.listener.model
        self.normalize = text_normalizer("english")
        self.scores, self.clips = {}, {}

    def recordings(self, split):
        """Utterances of a split, and their audio."""
        rows, heard = [], Counter()
        for row in read_manifest(self.args.data / f"{split}.tsv"):
            heard[row.speaker] += 1
            if split == "train" or heard[row.speaker] <= self.args.most_of_a_speaker:
                rows.append(row)
        root = self.args.data
        return rows, [FileRecording(root / row.audio, row.offset, row.n_frames) for row in rows]

    def scores_of(self, name, seed):
        """As scripts/prune_weights.py has them."""
        if name not in ON_SPEECH:
            return plain_scores(name, prunable(self.model), seed)
        if seed not in self.clips:
            pipeline = WhisperPipeline(self.args.checkpoint, device=self.args.device)
            longest = pipeline.model.encoder.max_positions() * HOP
            [windows] = draw_windows(self.recordings("train")[1], longest, [60 * self.args.minutes], seed)
            self.clips[seed] = pipeline.model, own_texts(pipeline, windows)
        if (name, seed) not in self.scores:
            self.scores[name, seed] = speech_scores(name, *self.clips[seed], name)
        return self.scores[name, seed]

    def masks(self, found):
        """By name of the weight."""
        if found["score"] == "dense":
            return {}
        scores = self.scores_of(found["score"], found["seed"])
        choose = component_masks if isinstance(found["sparsity"], dict) else magnitude_masks
        return choose(scores, found["sparsity"], found["scope"])

    def line(self, found):
        """The results of a way."""
        masks = self.masks(found)
        rows, recordings = self.recordings(found["split"])
        start = time.process_time()
        order = sorted(range(len(rows)), key=lambda i: rows[i].n_frames)  # lengths that are alike in a batch
        with masked(self.model, masks):
            transcripts = self.transcriber.transcribe([recordings[i] for i in order])
        seconds = time.process_time() - start
        texts = {i: transcript.text for i, transcript in zip(order, transcripts)}
        pairs = [(self.normalize(row.src_text), self.normalize(texts[i])) for i, row in enumerate(rows)]
        counts = [word_error_rate([gold], [text]) for gold, text in pairs]
        everything = sum(weight.numel() for weight in prunable(self.model).values())
        zeros = sum(int((~mask).sum()) for mask in masks.values())
        return {
            **found,
            "pruned": sparsity_of(masks) if masks else 0.0,
            "of_all_components": zeros / everything,
            "errors": [count.errors for count in counts],
            "words": [count.tokens for count in counts],
            "seconds": round(seconds, 1),
        }


def finished(path):
    """The lines of a file, as a stopped grid may have left it: what is not a whole line is cut off."""
    if not path.exists():
        return []
    whole = [line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
    path.write_bytes(b"".join(whole))
    return [json.loads(line) for line in whole]


def error_rate(line) -> float:
    """WER in percent."""
    return 100 * sum(line["errors"]) / sum(line["words"])


class Plans:
    """Sparsities by component, by what each component alone adds to the loss or to the error rate.

    Args:
        losses: of scripts/plan_sparsity.py, or None.
        lines: of results; those of the stage "components", once all are there, tell error rates.
    """

    def __init__(self, losses, lines, model):
        weights, self.curves = prunable(model), {}
        self.weights = {
            component: sum(weights[name].numel() for name in names)
            for component, names in by_component(weights).items()
        }
        if losses:
            self.curves["loss"] = {
                name: {float(level): loss for level, loss in curve.items()} for name, curve in losses.items()
            }
        chosen = [line for line in lines if line["split"] == "choose"]
        alone = {
            (name, level): error_rate(line)
            for line in chosen
            if isinstance(line["sparsity"], dict)
            for name, level in line["sparsity"].items()
        }
        if len(alone) == len(LEVELS) * len(COMPONENTS):
            [dense] = [error_rate(line) for line in chosen if line["score"] == "dense"]
            self.curves["WER"] = {
                name: {level: alone[name, level] - dense for level in LEVELS} for name in COMPONENTS
            }

    def __call__(self, by: str, sparsity: float) -> dict[str, float]:
        return plan_sparsities(self.curves[by], self.weights, sparsity)


def main(args):
    torch.set_num_threads(1)
    grid, lines = Grid(args), finished(args.out)
    for line in lines:
        found, expected = len(line["errors"]), len(grid.recordings(line["split"])[0])
        if found != expected:
            raise ValueError(f"{args.out}: found results of {found} utterances, expected {expected}")
    losses = json.loads(args.sensitivity.read_text(encoding="utf-8"))["losses"] if args.sensitivity else None
    for stage in args.stage:
        for found in STAGES[stage](Plans(losses, lines, grid.model)):
            if any(all(line[key] == value for key, value in found.items()) for line in lines):
                continue
            lines.append(grid.line(found))
            with args.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(lines[-1]) + "\n")
            print(f"{found}: WER {error_rate(lines[-1]):.2f}, {lines[-1]['seconds']} s", flush=True)


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
        default=6,
        help="utterances to transcribe of each, the first ones (default: 6, which all have)",
    )
    add("--device", default="cpu")
    raise SystemExit(finish(main, parser.parse_args()))
