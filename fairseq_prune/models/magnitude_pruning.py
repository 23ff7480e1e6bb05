"""Magnitude pruning as a part of any fairseq model: options, a mixin, and the place in fairseq's trainer.

fairseq tells a model the number of updates before each update. What has to happen after it, before the moving
average is formed, the model validated and saved, is told by the trainer from here on (`after_update`).
"""

import functools
import logging
from dataclasses import dataclass
from typing import Optional

from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.logging import metrics
from fairseq.trainer import Trainer
from omegaconf import II
from torch import Tensor

from fairseq_prune.checkpoints.sparse import STATE, beside_weights
from fairseq_prune.models.options import option
from fairseq_prune.models.trainer_hooks import then
from fairseq_prune.modules.copying import copy_without_history
from fairseq_prune.pruning.magnitude import SCOPES, TRANSFORMER_LAYERS, matching_parameters
from fairseq_prune.pruning.parp import METHODS, ONE_SHOT, MagnitudePruner, PruningPlan
from fairseq_prune.pruning.schedules import SPARSITY_SCHEDULES

logger = logging.getLogger(__name__)
PUBLISHED = "transformer-layers"


@dataclass
class MagnitudePruningConfig(FairseqDataclass):
    prune_sparsity: float = option(0.0, "share of the weights to set to zero, in [0, 1); 0: plain training")
    prune_method: ChoiceEnum(METHODS) = option(
        "parp",
        "parp: prune, let pruned weights grow, prune again, every --prune-interval updates; parp-p: the same while"
        " the sparsity rises; omp: one mask after --prune-start-update dense updates; imp: rounds of"
        " --prune-interval updates, each prunes some more; mpi: the mask of the pretrained weights; random: a"
        " random mask. The last four hold pruned weights at zero",
    )
    prune_interval: int = option(50, "updates between two prunings (parp, parp-p, imp)")
    prune_start_update: int = option(0, "updates before the first pruning; 0: pruned before training begins")
    prune_end_update: int = option(
        0, "update of the last pruning, from which on the mask is final; 0: --max-update"
    )
    prune_initial_sparsity: float = option(0.0, "sparsity that parp-p begins with")
    prune_schedule: ChoiceEnum(SPARSITY_SCHEDULES) = option("linear", "how the sparsity of parp-p rises")
    prune_modules: str = option(
        PUBLISHED,
        "regular expression for the whole names of the parameters to prune; transformer-layers: weights and biases"
        " of self_attn.{q,k,v,out}_proj, fc1 and fc2 in every transformer layer",
    )
    prune_scope: ChoiceEnum(SCOPES) = option(
        "global",
        "weights that compete for staying: all, those of a transformer layer, those of a matrix, those of its row",
    )
    prune_seed: int = II("common.seed")
    max_update: int = II("optimization.max_update")


class MagnitudePruned:
    """Mixin for fairseq models; it comes before fairseq's class, and ``build_model`` ends with `attach_pruner`."""

    pruner: Optional[MagnitudePruner] = None

    def attach_pruner(self, cfg: MagnitudePruningConfig) -> None:
        """Prune this model as the options say; with a sparsity of 0 nothing is attached.

        Raises:
            ValueError: an option is out of its range, or the pattern matches no parameter.
        """
        if cfg.prune_sparsity == 0:
            return
        end = cfg.prune_end_update or cfg.max_update
        if not end and cfg.prune_method not in ONE_SHOT:
            raise ValueError("--prune-end-update: found none, expected one where there is no --max-update")
        plan = PruningPlan(
            method=str(cfg.prune_method),
            sparsity=cfg.prune_sparsity,
            interval=cfg.prune_interval,
            start=cfg.prune_start_update,
            end=end,
            initial_sparsity=cfg.prune_initial_sparsity,
            schedule=str(cfg.prune_schedule),
        )
        pattern = TRANSFORMER_LAYERS if cfg.prune_modules == PUBLISHED else cfg.prune_modules
        parameters = matching_parameters(self, pattern)
        self.pruner = MagnitudePruner(parameters, plan, str(cfg.prune_scope), cfg.prune_seed)
        weights = sum(parameter.numel() for parameter in parameters.values())
        logger.info(f"pruning {len(parameters)} parameters with {weights:,} weights: {plan}")

    def __deepcopy__(self, memo):
        """A copy for fairseq's moving average (--store-ema), also of fairseq's own wav2vec 2.0 and HuBERT."""
        return copy_without_history(self, memo)

    def set_num_updates(self, num_updates: int) -> None:
        """Called by fairseq before each part of an update, and when a checkpoint is loaded."""
        super().set_num_updates(num_updates)
        if self.pruner is not None:
            self.pruner.before_update()

    def train(self, mode: bool = True):
        """Validation sees sparse weights, also after an update that was given up (as --fp16 does on overflow)."""
        if not mode and self.pruner is not None:
            self.pruner.set_aside()
        return super().train(mode)

    def state_dict(self, *args, prefix="", **kwargs):
        """The weights, and if the model is being pruned the state of that, as a dict under `STATE`."""
        state = self.averaged_weights(*args, prefix=prefix, **kwargs)
        if self.pruner is not None:
            state[prefix + STATE] = self.pruner.state_dict()
        return state

    def averaged_weights(self, *args, **kwargs):
        """The weights alone, as sparse as they are saved: the state of pruning is many waits for the device."""
        if self.pruner is not None:
            self.pruner.set_aside()
        return super().state_dict(*args, **kwargs)

    def load_state_dict(self, state_dict, *args, **kwargs):
        """Load weights, and the state of pruning if there is one.

        Raises:
            ValueError: the state is of other parameters.
        """
        weights = {name: value for name, value in state_dict.items() if name != STATE}
        result = super().load_state_dict(weights, *args, **kwargs)
        if self.pruner is not None:
            self.pruner.forget()
            if STATE in state_dict:
                self.pruner.load_state_dict(state_dict[STATE])
        return result


def after_update(trainer: Trainer) -> None:
    """Prune the trainer's model, the optimizer's copies of its weights and their moving average.

    Raises:
        ValueError: the trainer keeps copies of the weights that would bring pruned ones back.
    """
    pruner = getattr(trainer.get_model(), "pruner", None)
    if pruner is None:
        return
    check_trainer(trainer)
    averages = []
    if trainer._ema is not None:
        averages = [dict(trainer._ema.get_model().named_parameters()), trainer._ema.fp32_params]
        averages = [average for average in averages if average]
    if pruner.after_update(trainer.get_num_updates(), master_weights(trainer.optimizer, pruner), averages):
        logger.info(
            f"pruned after update {pruner.update}: sparsity {pruner.sparsity:.4f}, revived {pruner.revived:.4%} of"
            f" the pruned, overlap with the first mask {pruner.overlap:.4f}"
        )
    metrics.log_scalar("sparsity", pruner.sparsity, weight=0, priority=210, round=4)
    metrics.log_scalar("revived", pruner.revived, weight=0, priority=211, round=5)
    metrics.log_scalar("mask_overlap", pruner.overlap, weight=0, priority=212, round=4)


def check_trainer(trainer: Trainer) -> None:
    """Raise ValueError for the ways to train that keep further copies of the weights."""
    backend = trainer.cfg.distributed_training.ddp_backend
    if backend in ("fully_sharded", "slowmo"):
        raise ValueError(
            f"magnitude pruning: found --ddp-backend {backend}, expected pytorch_ddp or legacy_ddp"
        )
    if trainer.cfg.optimization.use_bmuf:
        raise ValueError("magnitude pruning does not go with --use-bmuf")


def master_weights(optimizer, pruner: MagnitudePruner) -> dict[str, Tensor]:
    """The float32 copies that fairseq's FP16Optimizer (--fp16, --bf16) makes of the pruner's parameters, by name.

    They are one long vector a device, or with --fp16-no-flatten-grads and --bf16 a tensor each. Other optimizers,
    the memory-efficient ones and --amp included, work on the parameters themselves.
    """
    masters = getattr(optimizer, "fp32_params", None)
    if masters is None:
        return {}
    parameters = optimizer.fp16_params
    if not optimizer.has_flat_params:
        copies = {id(parameter): master.data for parameter, master in zip(parameters, masters)}
    else:
        copies, offsets = {}, dict.fromkeys(masters, 0)
        for parameter in parameters:
            device = parameter.device.index
            start, offsets[device] = offsets[device], offsets[device] + parameter.numel()
            copies[id(parameter)] = masters[device].data[start : offsets[device]].view_as(parameter)
    found = {name: copies.get(id(parameter)) for name, parameter in pruner.parameters.items()}
    return {name: copy for name, copy in found.items() if copy is not None}


def _state_beside_weights(state_dict):
    """The trainer's state for a file: no dict among the weights, nor among their moving average."""

    @functools.wraps(state_dict)
    def wrapped(trainer):
        state = beside_weights(state_dict(trainer))
        state["extra_state"].get("ema", {}).pop(STATE, None)
        return state

    wrapped.prunes = True
    return wrapped


if not hasattr(Trainer.state_dict, "prunes"):
    Trainer.state_dict = _state_beside_weights(Trainer.state_dict)
# set_num_updates follows each update of the weights, and the loading of a checkpoint; begin_epoch precedes the first
for name in ("begin_epoch", "set_num_updates"):
    then(Trainer, name, after_update)
