"""Label-smoothed cross-entropy, with CTC on the encoder and translation of the transcript beside it."""

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from fairseq.criterions import register_criterion
from fairseq.criterions.label_smoothed_cross_entropy_with_ctc import (
    LabelSmoothedCrossEntropyWithCtcCriterion,
    LabelSmoothedCrossEntropyWithCtcCriterionConfig,
)
from fairseq.logging import metrics
from torch import Tensor


@dataclass
class SpeechTranslationCriterionConfig(LabelSmoothedCrossEntropyWithCtcCriterionConfig):
    ctc_weight: float = field(
        default=0.0,
        metadata={
            "help": "weight of the CTC loss on the encoder; needs --ctc-text of the task. Where pruning leaves an "
            "utterance fewer frames than its CTC text needs, its loss is 0: ctc_infeasible is the logged share"
        },
    )
    mt_loss_weight: float = field(
        default=0.0,
        metadata={
            "help": "weight of the loss of translating the transcript; needs --text-encoder of the model"
        },
    )


@register_criterion("speech_translation", dataclass=SpeechTranslationCriterionConfig)
class SpeechTranslationCriterion(LabelSmoothedCrossEntropyWithCtcCriterion):
    """fairseq's criterion plus ``mt_loss_weight`` times the loss of the transcript through the same decoder."""

    def __init__(
        self,
        task,
        sentence_avg,
        label_smoothing,
        ignore_prefix_size,
        report_accuracy,
        ctc_weight,
        mt_loss_weight,
    ):
        super().__init__(task, sentence_avg, label_smoothing, ignore_prefix_size, report_accuracy, ctc_weight)
        if ctc_weight > 0 and task.ctc_dictionary is None:
            raise ValueError("--ctc-weight: a CTC loss needs --ctc-text source or target")
        if mt_loss_weight > 0 and task.transcript_dictionary is None:
            raise ValueError("--mt-loss-weight: the data's config.yaml has no 'source' vocabulary")
        self.mt_loss_weight = mt_loss_weight
        if mt_loss_weight > 0:
            task.needs_transcripts = True

    def forward(self, model, sample, reduce=True):
        """The loss of a batch, the number it is to be divided by, and what is logged: tensors, which nobody waits for.

        The text goes through the same call of the model: DistributedDataParallel overlooks what is used after it.
        """
        inputs = sample["net_input"]
        if self.mt_loss_weight > 0:
            text = {name: sample[name] for name in ("transcript", "transcript_lengths")}
            inputs = {**inputs, **text}
        net_output = model(**inputs)
        loss, nll_loss = self.compute_loss(model, net_output, sample, reduce=reduce)
        sample_size = sample["target"].size(0) if self.sentence_avg else sample["ntokens"]
        log = {
            "nll_loss": nll_loss.data,
            "ctc_loss": torch.zeros_like(nll_loss.data),
            "ntokens": sample["ntokens"],
            "nsentences": sample["target"].size(0),
            "sample_size": sample_size,
        }
        if self.ctc_weight > 0:
            log_probabilities, frames = model.get_ctc_output(net_output, sample)
            target, lengths = model.get_ctc_target(sample)
            reduction = "sum" if reduce else "none"
            ctc_loss = self.ctc_weight * F.ctc_loss(
                log_probabilities, target, frames, lengths, reduction=reduction, zero_infinity=True
            )
            loss = loss + ctc_loss
            log["ctc_loss"] = ctc_loss.data
            log["ctc_infeasible"] = infeasible(target, lengths, frames).sum()
        if self.mt_loss_weight > 0:
            mt_loss, _ = self.compute_loss(model, net_output[1]["text"], sample, reduce=reduce)
            mt_loss = self.mt_loss_weight * mt_loss
            loss = loss + mt_loss
            log["mt_loss"] = mt_loss.data
        log["loss"] = loss.data
        if self.report_accuracy:
            log["n_correct"], log["total"] = self.compute_accuracy(model, net_output, sample)
        return loss, sample_size, log

    def compute_accuracy(self, model, net_output, sample):
        """Right tokens and all tokens, 0-dim each; fairseq's own waits for the device."""
        log_probabilities, target = self.get_lprobs_and_target(model, net_output, sample)
        valid = target.ne(self.padding_idx)
        return (log_probabilities.argmax(1).eq(target) & valid).sum(), valid.sum()

    @classmethod
    def reduce_metrics(cls, logging_outputs) -> None:
        """Aggregate over workers and batches; losses in bits a token."""
        super().reduce_metrics(logging_outputs)
        if any("ctc_infeasible" in log for log in logging_outputs):
            total = sum(log.get("ctc_infeasible", 0) for log in logging_outputs)
            sentences = sum(log.get("nsentences", 0) for log in logging_outputs)
            metrics.log_scalar("ctc_infeasible", total / sentences, sentences, round=4)
        if any("mt_loss" in log for log in logging_outputs):
            total = sum(log.get("mt_loss", 0) for log in logging_outputs)
            sample_size = sum(log.get("sample_size", 0) for log in logging_outputs)
            metrics.log_scalar("mt_loss", total / sample_size / math.log(2), sample_size, round=3)


def infeasible(target: Tensor, lengths: Tensor, frames: Tensor) -> Tensor:
    """Whether no CTC path fits (Graves et al. 2006): a frame a token, and a blank between equal neighbours.

    Args:
        target: tokens (batch, tokens), right-padded
        lengths: their numbers (batch,)
        frames: of the encoder (batch,)

    Returns:
        (batch,) of bool
    """
    places = torch.arange(1, target.size(1), device=target.device)
    repeats = (target[:, 1:] == target[:, :-1]) & (places < lengths[:, None])
    return lengths + repeats.sum(1) > frames
