"""fairseq's Adam on the CPU: one pass over the memory instead of eight, from torch 2.4 on; states stay as they are."""

import math
from collections import defaultdict

import torch
from fairseq.optim.adam import Adam
from torch import Tensor

from fairseq_prune.compat import HAS_FUSED_ADAM

MOMENTS = ("exp_avg", "exp_avg_sq")


def install() -> None:
    """Replace the step of fairseq's Adam; safe to call again."""
    if HAS_FUSED_ADAM and not hasattr(Adam.step, "fairseqs"):
        Adam.step = _fused(Adam.step)


def _fused(fairseqs):
    def step(self, closure=None):
        """As fairseq's, which is called for what is not float32 on the CPU."""
        if not all(map(_suits, _trained(self))) or any(group.get("amsgrad") for group in self.param_groups):
            return fairseqs(self, closure)
        loss = None if closure is None else closure()
        for group in self.param_groups:
            by_step = defaultdict(list)  # parameters that began to learn later have made fewer
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_step[_count(self.state[parameter], parameter)].append(parameter)
            for number, parameters in by_step.items():
                _update(group, number, parameters, [self.state[parameter] for parameter in parameters])
        return loss

    step.fairseqs = fairseqs
    return step


def _trained(optimizer: Adam):
    return (p for group in optimizer.param_groups for p in group["params"] if p.grad is not None)


def _suits(parameter: Tensor) -> bool:
    """Whether the fused update takes a parameter: it reads memory as it lies."""
    both = parameter, parameter.grad
    return all(
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and x.layout == torch.strided
        and x.is_contiguous()
        for x in both
    )


def _count(state: dict, parameter: Tensor) -> int:
    """The number of the update in progress; the first one makes the state."""
    if not state:
        state.update(step=0, **{name: torch.zeros_like(parameter) for name in MOMENTS})
    for name in MOMENTS:  # of a checkpoint, perhaps in another type
        state[name] = state[name].to(parameter)
    state["step"] += 1
    return state["step"]


@torch.no_grad()
def _update(group: dict, number: int, parameters: list[Tensor], states: list[dict]) -> None:
    first, second = group["betas"]
    torch._fused_adamw_(
        parameters,
        [parameter.grad for parameter in parameters],
        *([state[name] for state in states] for name in MOMENTS),
        [],
        [torch.tensor(float(number))] * len(parameters),
        lr=float(group["lr"]),
        beta1=first,
        beta2=second,
        weight_decay=group["weight_decay"],
        # fairseq adds it to the root of the second moment before that is corrected, torch after
        eps=group["eps"] / math.sqrt(1 - second**number),
        amsgrad=False,
        maximize=False,
    )
