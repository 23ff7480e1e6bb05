"""A training that is complete stays as it is, and a resumed one stops where an uninterrupted one stops.

When the command of a complete training is given again, fairseq trains another update and writes over the last
checkpoint. In each resumed run it forgets for how many validations in a row --patience has waited.
"""

import functools
import logging
import math
import sys
from types import ModuleType
from typing import Optional

from fairseq import checkpoint_utils
from fairseq.trainer import Trainer

logger = logging.getLogger(__name__)
WAITED = "early_stopping"  # key of the extra state: what --patience has seen


def install() -> None:
    """Replace how fairseq goes on from a checkpoint; safe to call again."""
    if not hasattr(checkpoint_utils.load_checkpoint, "knows_the_end"):
        checkpoint_utils.load_checkpoint = _know_the_end(checkpoint_utils.load_checkpoint)
        Trainer.save_checkpoint = _save_the_wait(Trainer.save_checkpoint)


def _know_the_end(load_checkpoint):
    @functools.wraps(load_checkpoint)
    def load(cfg, trainer, **options):
        extra_state, epoch_itr = load_checkpoint(cfg, trainer, **options)
        program = training_program()
        # without updates it is the beginning of another training: --reset-optimizer, --finetune-from-model
        if program is None or not extra_state or not trainer.get_num_updates():
            return extra_state, epoch_itr
        if not cfg.reset_meters:
            vars(program.should_stop_early).update(extra_state.get(WAITED, {}))
        reason = why_complete(trainer, epoch_itr, extra_state, program)
        if reason is not None:
            logger.info(f"the run is complete ({reason}): nothing is trained, no file is changed")
            trainer.is_complete = True
            if not hasattr(program.train, "stops"):
                program.train = _stop_when_complete(program.train)
        return extra_state, epoch_itr

    load.knows_the_end = True
    return load


def training_program() -> Optional[ModuleType]:
    """fairseq's module `fairseq_cli.train` under whatever name it runs, None where another program runs."""
    for name in ("fairseq_cli.train", "__main__", "__mp_main__"):
        module = sys.modules.get(name)
        if hasattr(module, "should_stop_early") and hasattr(module, "validate_and_save"):
            return module
    return None


def why_complete(trainer: Trainer, epoch_itr, extra_state: dict, program: ModuleType) -> Optional[str]:
    """Why the training of a checkpoint has ended there, None if it goes on. The same in all processes."""
    optimization, patience = trainer.cfg.optimization, trainer.cfg.checkpoint.patience
    updates, waited = trainer.get_num_updates(), getattr(program.should_stop_early, "num_runs", 0)
    hours = extra_state.get("previous_training_time", 0) / 3600
    if updates >= (optimization.max_update or math.inf):
        return f"{updates} updates, --max-update {optimization.max_update}"
    if epoch_itr.next_epoch_idx > (optimization.max_epoch or math.inf):
        return f"{epoch_itr.next_epoch_idx - 1} epochs, --max-epoch {optimization.max_epoch}"
    if 0 < optimization.stop_time_hours < hours:
        return f"{hours:.2f} hours, --stop-time-hours {optimization.stop_time_hours}"
    if 0 < patience <= waited:
        return f"{waited} validations without a better one, --patience {patience}"
    return None


def _stop_when_complete(train):
    """fairseq's training of an epoch, whose second result tells the loop over epochs to stop."""

    @functools.wraps(train)
    def train_or_stop(cfg, trainer, task, epoch_itr):
        if getattr(trainer, "is_complete", False):
            return [None], True
        return train(cfg, trainer, task, epoch_itr)

    train_or_stop.stops = True
    return train_or_stop


def _save_the_wait(save_checkpoint):
    @functools.wraps(save_checkpoint)
    def save(trainer, filename, extra_state):
        program = training_program()
        if program is not None and trainer.cfg.checkpoint.patience > 0:
            extra_state = {**extra_state, WAITED: dict(vars(program.should_stop_early))}
        return save_checkpoint(trainer, filename, extra_state)

    return save
