"""A Whisper learns to hear short contexts as it hears 30 s, from audio alone.

The teacher is the model before the training: it hears every clip in 30 s, drops no frames, and writes a text. The
student hears the clip with little silence after it, perhaps with frames dropped. On the teacher's own text its decoder
is to have the teacher's hidden states and distributions. Known as ACFT, fine-tuning for the audio context
(github.com/futo-org/whisper-acft).
"""

from dataclasses import dataclass, field

import torch
from fairseq.criterions import register_criterion

from fairseq_prune.criterions.teacher_text import TeacherTextConfig, TeacherTextCriterion
from fairseq_prune.modules.frames import TokenPruning


@dataclass
class ContextDistillationConfig(TeacherTextConfig):
    silence_min: float = field(
        default=0.0, metadata={"help": "seconds of silence after the clips of a training batch, at least"}
    )
    silence_max: float = field(
        default=2.0,
        metadata={"help": "seconds of silence, at most; validation hears what --audio-context says"},
    )


@register_criterion("context_distillation", dataclass=ContextDistillationConfig)
class ContextDistillationCriterion(TeacherTextCriterion):
    """``hidden_weight * squared distance + kl_weight * KL(teacher || student)``, sums over the teacher's tokens.

    Raises:
        ValueError: an option makes no sense, there is no teacher, or it has another vocabulary or task.
    """

    def __init__(self, cfg: ContextDistillationConfig, task):
        if not 0 <= cfg.silence_min <= cfg.silence_max <= 30:
            raise ValueError(
                f"--silence-min, --silence-max: found {cfg.silence_min} and {cfg.silence_max}, expected 0 to 30 s in "
                "this order"
            )
        super().__init__(cfg, task)
        self.silence = cfg.silence_min, cfg.silence_max
        hears_all(self._teacher[0])

    def forward(self, model, sample, reduce=True):
        """The loss of a batch, the number it is to be divided by, and what is logged."""
        texts, context = self.texts(sample), {}
        if self.training:  # fairseq seeds torch before every update
            least, most = self.silence
            context["audio_context"] = f"clip+{least + (most - least) * float(torch.rand(())):.2f}"
        inputs = (sample["net_input"][name] for name in ("src_tokens", "src_lengths"))
        logits, extra = model(*inputs, texts.tokens[:, :-1], **context)
        losses = self.decoder_losses(logits, extra["inner_states"], texts)
        return sum(losses.values()), texts.valid.sum(), self.logged(losses, logits, texts)


def hears_all(teacher) -> None:
    """Let the model hear every clip in 30 s without dropping any frames."""
    encoder = teacher.encoder
    encoder.audio_context, encoder.silence_stride, encoder.keeps_silence = "30s", 1, False
    encoder.pruning = TokenPruning([1.0] * len(encoder.layers))
