#!/usr/bin/env python
"""Find out how much each component of a Whisper can lose, and plan sparsities by it.

    python scripts/plan_sparsity.py --checkpoint whisper.pt --sparsity 0.4 talk.wav interview.mp3
    python scripts/plan_sparsity.py --checkpoint whisper.pt --manifest data --json losses.json --plot losses.png

One component after the other (encoder and decoder; self-attention, cross-attention, feed-forward) is pruned to each of
--levels while the others stay dense. Its sensitivity is what this adds to the loss, in nats a token, on the text that
the dense model writes of speech that the scores have not seen. The plan takes away those weights first that cost the
least loss a weight. It competes with the same sparsity everywhere; the one that really has the lower loss is printed,
as options of prune_weights.py.
"""

import json
from argparse import ArgumentTypeError
from pathlib import Path

from _cli import PlainParser, complete, positive, run

from _calibration import add_calibration_options, load_own_checkpoint, read_recordings
from tqdm import tqdm

from fairseq_prune.benchmarks.report import table
from fairseq_prune.benchmarks.weight_calibration import (
    ON_SPEECH,
    SCORES,
    draw_windows,
    masked,
    mean_loss,
    own_texts,
    plain_scores,
    prunable,
    speech_scores,
)
from fairseq_prune.data.log_mel import HOP
from fairseq_prune.inference.whisper.loading import WhisperPipeline
from fairseq_prune.pruning.components import by_component, component_masks
from fairseq_prune.pruning.magnitude import check_sparsity
from fairseq_prune.pruning.sparsity_planning import plan_sparsities


def levels(text: str) -> list[float]:
    """For argparse: rising shares in (0, 1)."""
    try:
        found = [check_sparsity(float(part)) for part in text.split(",")]
    except ValueError:
        found = [0.0]
    if found[0] == 0 or found != sorted(set(found)):
        raise ArgumentTypeError(
            f"found {text!r}, expected rising shares in (0, 1) with commas between, such as 0.3,0.5"
        )
    return found


def speech(pipeline, recordings, args):
    """Clips for scores, and others for losses."""
    longest = pipeline.model.encoder.max_positions() * HOP  # samples
    minutes = [args.minutes if args.score in ON_SPEECH else 0.0, args.loss_minutes]
    sets = draw_windows(recordings, longest, [60 * m for m in minutes if m], args.seed)
    clips = [own_texts(pipeline, windows, args.language, args.batch_size, "texts") for windows in sets]
    return clips if len(clips) == 2 else [[], *clips]


def sensitivity(model, scores, clips, args):
    """The dense loss, and what each component adds to it at each level."""
    dense, found = mean_loss(model, clips), {}
    parts = by_component(scores)
    with tqdm(total=len(parts) * len(args.levels), desc="sensitivity", unit="loss") as bar:
        for component in parts:
            for level in args.levels:
                with masked(model, component_masks(scores, {component: level}, args.scope)):
                    found.setdefault(component, {})[level] = mean_loss(model, clips) - dense
                bar.update()
    return dense, found


def draw(losses, out):
    """Loss by sparsity, a line a component."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4))
    for component, curve in losses.items():
        axes.plot([0, *curve], [0, *curve.values()], marker="o", label=component)
    axes.set_yscale("symlog", linthresh=0.1)
    axes.set_xlabel("sparsity of the component, all others dense")
    axes.set_ylabel("added loss, nats a token")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(out, dpi=150, bbox_inches="tight", format="png")
    plt.close(figure)


def main(args):
    for path in filter(None, (args.json, args.plot)):
        if path.exists() and not args.overwrite:
            raise FileExistsError(f"{path} already exists: choose another, or give --overwrite")
    _, whisper = load_own_checkpoint(args.checkpoint)
    if not whisper:
        raise ValueError(f"{args.checkpoint}: no Whisper, expected one")
    if args.sparsity is not None:
        check_sparsity(args.sparsity, "--sparsity")
        if args.sparsity > args.levels[-1]:
            raise ValueError(f"--sparsity: found {args.sparsity}, expected at most the last of --levels")
    recordings = read_recordings(args)
    pipeline = WhisperPipeline(args.checkpoint, args.model_overrides, args.device)
    model = pipeline.model
    scored, measured = speech(pipeline, recordings, args)
    if args.score in ON_SPEECH:
        scores = speech_scores(args.score, model, scored, args.score)
    else:
        scores = plain_scores(args.score, prunable(model), args.seed)
    dense, losses = sensitivity(model, scores, measured, args)
    weights = {c: sum(scores[name].numel() for name in names) for c, names in by_component(scores).items()}
    report = {
        "score": args.score,
        "scope": args.scope,
        "seed": args.seed,
        "dense": dense,
        "weights": weights,
        "losses": losses,
    }
    if args.json:
        with complete(args.json, args.overwrite) as out:
            out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if args.plot:
        with complete(args.plot, args.overwrite) as out:
            draw(losses, out)
    columns = {level: f"added loss at {level:g}" for level in args.levels}
    rows = [
        {
            "component": component,
            "weights": f"{weights[component]:,}",
            **{columns[level]: f"{loss:+.4f}" for level, loss in curve.items()},
        }
        for component, curve in losses.items()
    ]
    print(table(rows))
    print(f"dense: {dense:.4f} nats a token of its own text, {len(measured)} clips")
    if args.sparsity is not None:
        plans = {
            "the plan": plan_sparsities(losses, weights, args.sparsity),
            "the same sparsity everywhere": dict.fromkeys(losses, args.sparsity),
        }
        added = {}
        for name, plan in plans.items():
            with masked(model, component_masks(scores, plan, args.scope)):
                added[name] = mean_loss(model, measured) - dense
        print(f"at {args.sparsity:g} " + ", ".join(f"{name} adds {loss:.4f}" for name, loss in added.items()))
        best = plans[min(added, key=added.get)]
        shares = ",".join(f"{component}={share:g}" for component, share in best.items())
        print(f"--score {args.score} --scope {args.scope} --sparsity {shares}")


if __name__ == "__main__":
    parser = PlainParser(__doc__)
    add_calibration_options(parser, SCORES)
    add = parser.add_argument
    add(
        "--levels",
        type=levels,
        default=[0.3, 0.5, 0.7],
        help="sparsities to measure, with commas between (default: 0.3,0.5,0.7)",
    )
    add(
        "--loss-minutes",
        type=positive(float),
        default=3.0,
        help="of other speech, to measure the loss on (default: 3)",
    )
    add("--sparsity", type=float, help="of all components together: plan it")
    add("--json", type=Path, help="write what was measured here")
    add("--plot", type=Path, help="draw it into this picture")
    add("--overwrite", action="store_true", help="replace what is there")
    run(main, parser)
