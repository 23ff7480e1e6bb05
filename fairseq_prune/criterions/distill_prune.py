"""Distance to the teacher, and a Lagrangian term that brings the student's expected size to its target."""

from dataclasses import dataclass, field

import torch
from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.logging import metrics

from fairseq_prune.pruning.distillation import COSINES, RELATIONS, DistillationLoss
from fairseq_prune.pruning.lagrangian import lagrangian, warmed_up_target


@dataclass
class DistillPruneConfig(FairseqDataclass):
    l1_weight: float = field(default=1.0, metadata={"help": "weight of the mean absolute difference"})
    cosine_weight: float = field(default=1.0, metadata={"help": "weight of the cosine distance"})
    mse_weight: float = field(default=0.0, metadata={"help": "weight of the mean squared difference"})
    cosine_form: ChoiceEnum(COSINES) = field(
        default="raw", metadata={"help": "raw: 1 - cos; log_sigmoid: -log sigmoid(cos), as in DistilHuBERT"}
    )
    relation_weight: float = field(
        default=0.0,
        metadata={
            "help": "weight of the difference in how frames relate to each other, which needs no maps (STaR, arXiv"
            " 2312.09040)"
        },
    )
    relation_of: ChoiceEnum(RELATIONS) = field(
        default="both",
        metadata={
            "help": "relations of the frames in a layer of --distill-layers (layers), of those in a layer to those in"
            " the next of the list (between), or both"
        },
    )
    target_sparsity: float = field(
        default=0.75, metadata={"help": "share of the student to prune away; without gates of no effect"}
    )
    sparsity_of: ChoiceEnum(["parameters", "macs"]) = field(
        default="parameters",
        metadata={"help": "what the target counts: parameters, or multiply-accumulates for 10 s of speech"},
    )
    sparsity_warmup_updates: int = field(
        default=5000, metadata={"help": "updates over which the target rises from 0 to its value"}
    )


@register_criterion("distill_prune", dataclass=DistillPruneConfig)
class DistillPruneCriterion(FairseqCriterion):
    """For the model ``dphubert``; sums over frames, each the mean over layers and features."""

    def __init__(
        self,
        task,
        l1_weight,
        cosine_weight,
        mse_weight,
        cosine_form,
        target_sparsity,
        sparsity_of,
        sparsity_warmup_updates,
        relation_weight=0.0,
        relation_of="both",
    ):
        super().__init__(task)
        weights = (l1_weight, cosine_weight, mse_weight, relation_weight)
        if min(weights) < 0 or max(weights) == 0:
            raise ValueError(
                f"--l1-weight, --cosine-weight, --mse-weight, --relation-weight: found {weights}, expected none below 0"
                " and one above"
            )
        if not 0 < target_sparsity < 1:
            raise ValueError(
                f"--target-sparsity: found {target_sparsity}, expected a share to prune away between 0 and 1"
            )
        self.distance = DistillationLoss(
            l1_weight, cosine_weight, mse_weight, str(cosine_form), relation_weight, str(relation_of)
        )
        self.target_sparsity = target_sparsity
        self.sparsity_of = str(sparsity_of)
        self.warmup_updates = sparsity_warmup_updates

    def forward(self, model, sample, reduce=True):
        """The loss of a batch, its frames, by whose number it is to be divided, and what is logged."""
        out = model(**sample["net_input"])
        loss, parts, frames = self.distance(
            out["student"], out["teacher"], out["padding_mask"], out["unmapped"]
        )
        # tensors, so that the host does not wait for the device; all to be divided by the number of frames
        log = {"distance": loss, **parts}
        if "multipliers" in out:
            sparsity = 1 - out[self.sparsity_of]
            target = warmed_up_target(self.target_sparsity, model.num_updates, self.warmup_updates)
            term = frames * lagrangian(sparsity, target, out["multipliers"])
            loss = loss + term
            means = {
                "expected_sparsity": sparsity,
                "target_sparsity": target,
                "expected_parameters": out["parameters"],
                "expected_macs": out["macs"],
                "lambda1": out["multipliers"][0],
                "lambda2": out["multipliers"][1],
            }
            log.update({"sparsity_term": term, **{name: frames * value for name, value in means.items()}})
        log = {name: torch.as_tensor(value).detach() for name, value in {"loss": loss, **log}.items()}
        return loss, frames, {**log, "nsentences": sample["nsentences"], "sample_size": frames}

    @staticmethod
    def reduce_metrics(logging_outputs) -> None:
        """Means over the frames of all workers and batches."""
        frames = sum(log.get("sample_size", 0) for log in logging_outputs)
        for name in logging_outputs[0]:
            if name not in ("sample_size", "nsentences"):
                total = sum(log.get(name, 0) for log in logging_outputs)
                metrics.log_scalar(name, total / frames, frames, round=4)

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        """So that workers exchange sums."""
        return True
