"""Integration distillation of PruneSLU: cross-entropy, and the teacher's distributions and hidden states."""

import math
from dataclasses import dataclass, field
from typing import List, Optional  # noqa: UP035 (fairseq's argparse bridge looks for this List)

import torch
from fairseq import models
from fairseq.criterions import register_criterion
from fairseq.criterions.label_smoothed_cross_entropy import (
    LabelSmoothedCrossEntropyCriterion,
    LabelSmoothedCrossEntropyCriterionConfig,
)
from fairseq.logging import metrics
from torch import Tensor
from torch.nn import functional as F

from fairseq_prune.checkpoints.loading import load_fairseq_state, load_state_dict_strictly
from fairseq_prune.checkpoints.whisper.own import TASK
from fairseq_prune.text.byte_level_bpe import ByteLevelBPE


@dataclass
class SluDistillationConfig(LabelSmoothedCrossEntropyCriterionConfig):
    teacher_path: Optional[str] = field(
        default=None,
        metadata={
            "help": "checkpoint of the teacher, of the same vocabulary; it is not kept in the student's"
        },
    )
    ce_weight: float = field(default=0.8, metadata={"help": "weight of the cross-entropy on the targets"})
    kl_weight: float = field(
        default=1.0, metadata={"help": "weight of the divergence from the teacher's distributions"}
    )
    kl_temperature: float = field(
        default=2.0, metadata={"help": "softens both distributions; the loss is multiplied by its square"}
    )
    contrastive_weight: float = field(
        default=0.1, metadata={"help": "weight of the contrastive loss between decoder layers"}
    )
    contrastive_temperature: float = field(
        default=0.1, metadata={"help": "of the contrastive loss: cosine similarities are divided by it"}
    )
    layer_map: List[int] = field(  # noqa: UP006
        default_factory=list,
        metadata={
            "help": "the teacher's decoder layer, from 1, of each layer of the student: 3,4; not given: the last"
        },
    )


@register_criterion("slu_distillation", dataclass=SluDistillationConfig)
class SluDistillationCriterion(LabelSmoothedCrossEntropyCriterion):
    """``ce_weight * CE + kl_weight * T^2 KL(teacher || student) + contrastive_weight * InfoNCE``.

    All are sums over the positions that have a target, so that fairseq's division by the sample size makes means of
    them. With both of the teacher's weights at 0 no teacher is needed, nor read.

    Raises:
        ValueError: an option makes no sense, there is no teacher, or it has another vocabulary or task.
    """

    def __init__(
        self,
        task,
        sentence_avg,
        label_smoothing,
        ignore_prefix_size,
        report_accuracy,
        teacher_path,
        ce_weight,
        kl_weight,
        kl_temperature,
        contrastive_weight,
        contrastive_temperature,
        layer_map,
    ):
        super().__init__(task, sentence_avg, label_smoothing, ignore_prefix_size, report_accuracy)
        for name, value in (("kl", kl_temperature), ("contrastive", contrastive_temperature)):
            if value <= 0:
                raise ValueError(f"--{name}-temperature must be above 0, found {value}")
        self.ce_weight, self.kl_weight, self.contrastive_weight = ce_weight, kl_weight, contrastive_weight
        self.kl_temperature, self.contrastive_temperature = kl_temperature, contrastive_temperature
        self.layer_map = [int(layer) for layer in layer_map]
        # in a list, so that it is no part of this module: neither trained nor saved
        self._teacher = []
        if kl_weight or contrastive_weight:
            if not teacher_path:
                raise ValueError("--teacher-path: --kl-weight and --contrastive-weight need a teacher")
            self._teacher.append(load_teacher(teacher_path, task))

    def _apply(self, fn, *args, **kwargs):
        for teacher in self._teacher:  # follows to other devices and types
            teacher._apply(fn, *args, **kwargs)
        return super()._apply(fn, *args, **kwargs)

    def forward(self, model, sample, reduce=True):
        """The loss of a batch, the number it is to be divided by, and what is logged."""
        output = model(**sample["net_input"])
        ce_loss, nll_loss = self.compute_loss(model, output, sample)
        losses = {"ce_loss": self.ce_weight * ce_loss}
        for teacher in self._teacher:
            with torch.no_grad():
                taught = teacher(**sample["net_input"])
            losses.update(self._distill(output, taught, sample["target"] != self.padding_idx))
        loss = sum(losses.values())
        sample_size = sample["target"].size(0) if self.sentence_avg else sample["ntokens"]
        log = {
            "loss": loss.data,
            "nll_loss": nll_loss.data,
            "ntokens": sample["ntokens"],
            "nsentences": sample["target"].size(0),
            "sample_size": sample_size,
            **{name: value.data for name, value in losses.items()},
        }
        if self.report_accuracy:
            log["n_correct"], log["total"] = self.compute_accuracy(model, output, sample)
        return loss, sample_size, log

    def _distill(self, output, taught, valid: Tensor) -> dict[str, Tensor]:
        """The weighted losses on what a teacher says; outputs are (logits, dict with inner_states)."""
        losses = {}
        if self.kl_weight:
            divergence = distribution_loss(output[0], taught[0], valid, self.kl_temperature)
            losses["kl_loss"] = self.kl_weight * divergence
        if self.contrastive_weight:
            # the first of the states are the embedded tokens
            pairs = pair_layers(output[1]["inner_states"][1:], taught[1]["inner_states"][1:], self.layer_map)
            contrast = [info_nce(s, t, valid, self.contrastive_temperature) for s, t in pairs]
            losses["contrastive_loss"] = self.contrastive_weight * torch.stack(contrast).mean()
        return losses

    @classmethod
    def reduce_metrics(cls, logging_outputs) -> None:
        """Aggregate over workers and batches; losses, as weighted, in bits a token."""
        super().reduce_metrics(logging_outputs)
        sample_size = sum(log.get("sample_size", 0) for log in logging_outputs)
        for name in ("ce_loss", "kl_loss", "contrastive_loss"):
            if any(name in log for log in logging_outputs):
                value = sum(log.get(name, 0) for log in logging_outputs)
                metrics.log_scalar(name, value / sample_size / math.log(2), sample_size, round=3)


def distribution_loss(student: Tensor, teacher: Tensor, valid: Tensor, temperature: float) -> Tensor:
    """``temperature^2`` times the KL divergence of softened distributions, summed over positions (Hinton et al. 2015).

    Args:
        student, teacher: logits (batch, tokens, vocabulary)
        valid: (batch, tokens), False where a position takes no part
    """
    student, teacher = ((logits.float() / temperature).log_softmax(-1) for logits in (student, teacher))
    divergence = F.kl_div(student, teacher, reduction="none", log_target=True).sum(-1)
    return temperature**2 * (divergence * valid).sum()


def info_nce(student: Tensor, teacher: Tensor, valid: Tensor, temperature: float) -> Tensor:
    """Contrastive loss (van den Oord et al. 2018, equation 4), summed over the positions of each sequence.

    Each of the student's states is to be nearer, by cosine, to the teacher's state of the same position than to those
    of the other positions of its sequence.

    Args:
        student, teacher: hidden states (batch, tokens, dim)
        valid: (batch, tokens), False where a position is neither asked for nor a candidate
    """
    student, teacher = (F.normalize(states.float(), dim=-1) for states in (student, teacher))
    similarities = student @ teacher.transpose(1, 2) / temperature
    similarities = similarities.masked_fill(~valid[:, None], -math.inf)
    places = torch.arange(valid.size(1), device=valid.device).expand_as(valid)
    # a row that takes no part is given no class
    return F.cross_entropy(similarities.transpose(1, 2), places.masked_fill(~valid, -100), reduction="sum")


def pair_layers(
    student: list[Tensor], teacher: list[Tensor], layer_map: list[int]
) -> list[tuple[Tensor, Tensor]]:
    """The states of each student layer with those of its teacher layer.

    Args:
        layer_map: teacher layer, from 1, of each student layer; empty: the last ones

    Raises:
        ValueError: the map is not one from the student's layers to the teacher's, or their widths differ.
    """
    chosen = layer_map or list(range(len(teacher) - len(student) + 1, len(teacher) + 1))
    if len(chosen) != len(student) or not all(1 <= layer <= len(teacher) for layer in chosen):
        raise ValueError(
            f"--layer-map {','.join(map(str, chosen))}: expected a layer from 1 to {len(teacher)} of the teacher for "
            f"each of the student's {len(student)} decoder layers"
        )
    if student[0].size(-1) != teacher[0].size(-1):
        raise ValueError(
            f"--contrastive-weight: needs layers of one width, found {student[0].size(-1)} of the student and "
            f"{teacher[0].size(-1)} of the teacher"
        )
    return [(states, teacher[layer - 1]) for states, layer in zip(student, chosen)]


def load_teacher(path, task) -> torch.nn.Module:
    """The model in a checkpoint, in evaluation mode and without gradients.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no checkpoint of this task, or its vocabulary is not the task's.
    """
    state = load_fairseq_state(path)
    cfg = state["cfg"]
    if cfg.task._name != TASK:
        raise ValueError(f"{path}: a checkpoint of task {cfg.task._name}, expected {TASK}")
    stored = ByteLevelBPE.from_state_dict(state["task_state"], name=str(path))
    task.tokenizer.require_equal(stored, "teacher's")
    # not by the task, whose build_model readies the validation of what is trained
    teacher = models.build_model(cfg.model, task, True)
    load_state_dict_strictly(teacher, state["model"], path)
    return teacher.eval().requires_grad_(False)
