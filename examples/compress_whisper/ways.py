"""The ways to prune that one_shot.py tries, stage by stage, and plans by what it has found so far."""

import itertools

from fairseq_prune.benchmarks.weight_calibration import RANKS
from fairseq_prune.pruning.components import COMPONENTS, by_component
from fairseq_prune.pruning.sparsity_planning import plan_sparsities

LEVELS = (0.3, 0.5, 0.7)  # of components


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


def stage_structure(_):
    """Units and heads cut out for real, with and without least squares after it."""
    yield way("choose")
    for refit, rank in itertools.product((False, True), RANKS):
        yield {**way("choose", rank), "units": 1152, "heads": 5, "refit": refit}


STAGES = {
    "matrix": stage_matrix,
    "scopes": stage_scopes,
    "half": stage_half,
    "components": stage_components,
    "structure": stage_structure,
    "report": stage_report,
    "again": stage_again,
}


def error_rate(line) -> float:
    """WER in percent."""
    return 100 * sum(line["errors"]) / sum(line["words"])


class Plans:
    """Sparsities by component, by what each component alone adds to the loss or to the error rate.

    Args:
        losses: of scripts/plan_sparsity.py, or None.
        lines: of results; those of the stage "components", once all are there, tell error rates.
        weights: of the model, by name.
    """

    def __init__(self, losses, lines, weights):
        self.curves = {}
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
