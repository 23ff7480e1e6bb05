"""What fairseq's trainer does for a model that asks for it, beside what it does for all.

A model may have these methods; each is optional:
- ``prepare_training(cfg, criterion)``: called once before training, with fairseq's whole configuration. It stops the
  training of parameters that this configuration does not use, and raises ValueError at options that do not go together.
- ``frozen_parameters()``: the parameters that the update in progress leaves as they are.
- ``averaged_weights()``: the state dict that a moving average (--store-ema) is formed of.
"""

import functools
from collections.abc import Callable, Iterable
from types import SimpleNamespace

from fairseq.tasks import FairseqTask
from fairseq.trainer import Trainer
from torch import Tensor, nn


def then(owner: type, name: str, action: Callable) -> None:
    """Have the method ``name`` of a class followed by ``action(object)``; once, however often this is called."""
    method = getattr(owner, name)
    done = getattr(method, "followed_by", ())
    if action.__qualname__ in done:
        return

    @functools.wraps(method)
    def wrapped(self, *args, **kwargs):
        result = method(self, *args, **kwargs)
        action(self)
        return result

    wrapped.followed_by = (*done, action.__qualname__)
    setattr(owner, name, wrapped)


def prepare_training(trainer: Trainer) -> None:
    """Let the model prepare itself; it is not wrapped yet, and there is no optimizer.

    Raises:
        ValueError: options that do not go together.
    """
    model = trainer.get_model()
    if hasattr(model, "prepare_training"):
        model.prepare_training(trainer.cfg, trainer.get_criterion())
    check_frozen(model, trainer.cfg)


def check_frozen(model: nn.Module, cfg) -> None:
    """Raise ValueError where weights that are frozen at first would decay."""
    # an optimizer without a dataclass, like sgd, has a namespace; DictConfig knows getattr too
    common, weight_decay = cfg.common, getattr(cfg.optimizer, "weight_decay", 0)
    flat = common.fp16 and not (common.memory_efficient_fp16 or common.fp16_no_flatten_grads)
    if flat and weight_decay and hasattr(model, "frozen_parameters") and model.frozen_parameters():
        raise ValueError(
            f"--weight-decay: found {weight_decay} with --fp16 and weights that are frozen at first, which would decay:"
            " expected --fp16-no-flatten-grads too, or no weight decay"
        )


def leave_frozen(optimizer, parameters: Iterable[nn.Parameter]) -> None:
    """Take the gradients of ``parameters`` away from an optimizer of fairseq.

    A gradient of zeros is one to Adam, and weight decay goes with it; what has none is left alone.
    """
    parameters = list(parameters)
    masters = getattr(optimizer, "fp32_params", None)
    if isinstance(masters, list):
        frozen = {id(parameter) for parameter in parameters}
        pairs = zip(optimizer.fp16_params, masters)
        parameters += [master for parameter, master in pairs if id(parameter) in frozen]
    for parameter in parameters:
        parameter.grad = None


def shape_average(trainer: Trainer) -> None:
    """Have the moving average of the weights follow the model's `averaged_weights`, copy what is no float, and count
    tied weights once."""
    average = trainer._ema
    if average is None:
        return
    state = nn.Module.state_dict(average.get_model())
    average.skip_keys = average.skip_keys | {
        name for name, value in state.items() if isinstance(value, Tensor) and not value.is_floating_point()
    }
    step = average.step

    def step_of_weights(model, updates=None):
        weights = getattr(model, "averaged_weights", model.state_dict)()
        # a weight that has two names, such as an embedding and its projection, would be averaged twice
        once = {(value.data_ptr(), value.shape): name for name, value in reversed(weights.items())}
        weights = {name: weights[name] for name in once.values()}
        return step(SimpleNamespace(state_dict=lambda: weights), updates)

    average.step = step_of_weights


def _without_frozen(method: Callable) -> Callable:
    @functools.wraps(method)
    def optimizer_step(task, optimizer, model, update_num):
        if hasattr(model, "frozen_parameters"):
            leave_frozen(optimizer, model.frozen_parameters())
        return method(task, optimizer, model, update_num)

    optimizer_step.leaves_frozen = True
    return optimizer_step


then(Trainer, "__init__", prepare_training)
then(Trainer, "_build_ema", shape_average)
if not hasattr(FairseqTask.optimizer_step, "leaves_frozen"):
    FairseqTask.optimizer_step = _without_frozen(FairseqTask.optimizer_step)
