"""Unstructured sparsity of models of transformers: at once, or while a Trainer trains (PARP)."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional

import safetensors.torch
from torch import Tensor, nn
from transformers import TrainerCallback

from fairseq_prune.pruning.magnitude import (
    apply_masks,
    magnitude_masks,
    matching_parameters,
    random_masks,
    sparsity_of,
)
from fairseq_prune.pruning.parp import MagnitudePruner, PruningPlan

CONFIG = "sparsity"  # the entry of model.config
STATE_FILE = "magnitude_pruning.safetensors"  # in each checkpoint of a Trainer
# the weights that PARP prunes (arXiv 2106.05933, section 3), under the names of transformers: projections of
# self-attention and the feed-forward block, in each layer
LAYERS = (
    r"(.*\.)?layers\.\d+\.((self_attn|attention)\.(q|k|v|out)_proj|fc1|fc2"
    r"|feed_forward\.(intermediate|output)_dense)\.(weight|bias)"
)
SCORES = ("magnitude", "random")


def sparsify(
    model: nn.Module,
    sparsity: float,
    score: str = "magnitude",
    scope: str = "global",
    pattern: str = LAYERS,
    seed: int = 1,
) -> nn.Module:
    """Set a share of the weights to zero, in place; ``model.config.sparsity`` notes it.

    Args:
        sparsity: share of the matching weights that becomes zero.
        score: "magnitude": the smallest go; "random": chance decides, of ``seed``.
        scope: weights that compete, see `fairseq_prune.pruning.magnitude.magnitude_masks`.
        pattern: regular expression of the names of parameters to prune.

    Returns:
        the model.

    Raises:
        ValueError: a sparsity outside [0, 1), an unknown score or scope, a pattern that matches nothing.
    """
    if score not in SCORES:
        raise ValueError(f"score: found {score!r}, expected one of {', '.join(SCORES)}")
    weights = matching_parameters(model, pattern)
    if score == "random":
        masks = random_masks(weights, sparsity, seed, scope)
    else:
        masks = magnitude_masks(weights, sparsity, scope)
    apply_masks(weights, masks)
    setattr(model.config, CONFIG, {"score": score, "scope": scope, "share": sparsity_of(masks)})
    return model


class ParpCallback(TrainerCallback):
    """PARP and its baselines under transformers' `Trainer`: the model is sparse whenever it is evaluated or saved.

    Masks, and what pruned weights have grown to, lie in each checkpoint beside the optimizer's state; a run that is
    resumed goes on with them.

        Trainer(model, ..., callbacks=[ParpCallback(PruningPlan("parp", 0.5, interval=50, end=1000))])

    Args:
        plan: when weights are pruned, and to what sparsity.
        scope: see `magnitude_masks`.
        pattern: regular expression of the names of parameters to prune.
        seed: of the method "random".
    """

    def __init__(self, plan: PruningPlan, scope: str = "global", pattern: str = LAYERS, seed: int = 1):
        self.plan, self.scope, self.pattern, self.seed = plan, scope, pattern, seed
        self.pruner: Optional[MagnitudePruner] = None

    def on_train_begin(self, args, state, control, model=None, **kwargs) -> None:
        parameters = matching_parameters(model, self.pattern)
        self.pruner = MagnitudePruner(parameters, self.plan, self.scope, self.seed)
        if state.global_step:
            self.pruner.load_state_dict(_read_state(_state_file(args, state.global_step)))
        self._after_update(state.global_step, model)

    def on_step_begin(self, args, state, control, **kwargs) -> None:
        self.pruner.before_update()

    def on_step_end(self, args, state, control, model=None, **kwargs) -> None:
        self._after_update(state.global_step, model)

    def on_save(self, args, state, control, **kwargs) -> None:
        if state.is_world_process_zero:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            _write_state(self.pruner.state_dict(), folder / STATE_FILE)

    def _after_update(self, update: int, model: nn.Module) -> None:
        self.pruner.after_update(update)
        note = {"score": self.plan.method, "scope": self.scope, "share": self.pruner.sparsity}
        setattr(getattr(model, "module", model).config, CONFIG, note)


def _state_file(args, update: int) -> Path:
    """In the checkpoint that a run is resumed from."""
    folders = [Path(args.output_dir) / f"checkpoint-{update}"]
    if isinstance(getattr(args, "resume_from_checkpoint", None), str):
        folders.insert(0, Path(args.resume_from_checkpoint))
    for folder in folders:
        if (folder / STATE_FILE).is_file():
            return folder / STATE_FILE
    raise ValueError(f"{folders[-1]}: has no {STATE_FILE}, expected a checkpoint of a run with ParpCallback")


def _write_state(state: Mapping[str, Any], path: Path) -> None:
    tensors: dict[str, Tensor] = {}
    aside = path.with_name(path.name + ".part")
    safetensors.torch.save_file(tensors, aside, {"state": json.dumps(_without_tensors(state, tensors))})
    aside.replace(path)


def _without_tensors(value: Any, tensors: dict[str, Tensor]) -> Any:
    """A value as JSON has it; its tensors, put into ``tensors``, are {"tensor": key} there."""
    if isinstance(value, Tensor):
        key = str(len(tensors))
        tensors[key] = value.detach().cpu().contiguous()
        return {"tensor": key}
    if isinstance(value, Mapping):
        return {name: _without_tensors(part, tensors) for name, part in value.items()}
    return value


def _read_state(path: Path) -> dict[str, Any]:
    with safetensors.safe_open(path, "pt") as file:
        return _with_tensors(json.loads(file.metadata()["state"]), file)


def _with_tensors(value: Any, file) -> Any:
    if isinstance(value, dict):
        if set(value) == {"tensor"}:
            return file.get_tensor(value["tensor"])
        return {name: _with_tensors(part, file) for name, part in value.items()}
    return value


def zero_share(model: nn.Module, pattern: str = LAYERS) -> float:
    """The share of matching weights that are zero."""
    weights = matching_parameters(model, pattern).values()
    zeros = sum(int((weight == 0).sum()) for weight in weights)
    return zeros / sum(weight.numel() for weight in weights)
