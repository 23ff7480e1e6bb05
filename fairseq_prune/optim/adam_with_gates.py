"""Adam with a second learning rate, for the parameters that decide what is pruned."""

from dataclasses import dataclass, field

from fairseq.optim import register_optimizer
from fairseq.optim.adam import FairseqAdam, FairseqAdamConfig

GATES = "gates"  # what models write into the attribute `param_group` of such parameters


@dataclass
class AdamWithGatesConfig(FairseqAdamConfig):
    gate_lr: float = field(
        default=0.02,
        metadata={
            "help": "peak learning rate of gates and Lagrange multipliers, which follows the schedule of --lr,"
            " without weight decay"
        },
    )


@register_optimizer("adam_with_gates", dataclass=AdamWithGatesConfig)
class AdamWithGates(FairseqAdam):
    """fairseq's Adam, where parameters with ``param_group == "gates"`` learn at ``gate_lr``.

    One scheduler serves both: whatever it sets, the gates get in the proportion ``gate_lr / lr``.

    Raises:
        ValueError: there are no gates, or their parameters cannot be told from the others (flat ones of --fp16).
    """

    def __init__(self, cfg: AdamWithGatesConfig, params):
        params = list(params)
        gates = [p for p in params if getattr(p, "param_group", None) == GATES]
        if not gates:
            raise ValueError(
                "--optimizer adam_with_gates: the model has no gates (then take adam), or --fp16 has made one"
                " vector of all parameters (then add --fp16-no-flatten-grads)"
            )
        others = [p for p in params if getattr(p, "param_group", None) != GATES]
        super().__init__(cfg, [{"params": others}, {"params": gates, "weight_decay": 0.0}])
        self.gate_scale = cfg.gate_lr / self.optimizer_config["lr"]
        self.set_lr(self.get_lr())

    def set_lr(self, lr):
        """Set the learning rates: ``lr``, and that of the gates in proportion."""
        others, gates = self.param_groups
        others["lr"] = lr
        gates["lr"] = lr * self.gate_scale
