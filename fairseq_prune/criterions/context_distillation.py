"""A Whisper learns to hear short contexts as it hears 30 s, from audio alone.

The teacher is the model before the training: it hears every clip in 30 s, drops no frames, and writes a text. The
student hears the clip with little silence after it, perhaps with frames dropped. On the teacher's own text its decoder
is to have the teacher's hidden states and distributions. Known as ACFT, fine-tuning for the audio context
(github.com/futo-org/whisper-acft).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Optional

import torch
from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.dataclass import FairseqDataclass
from fairseq.logging import metrics
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from fairseq_prune.criterions.slu_distillation import distribution_loss, load_teacher
from fairseq_prune.modules.frames import TokenPruning
from fairseq_prune.modules.whisper.generation import suppressed_tokens


@dataclass
class ContextDistillationConfig(FairseqDataclass):
    teacher_path: Optional[str] = field(
        default=None,
        metadata={
            "help": "checkpoint of the teacher, which the training starts from; it is not kept in the student's"
        },
    )
    silence_min: float = field(
        default=0.0, metadata={"help": "seconds of silence after the clips of a training batch, at least"}
    )
    silence_max: float = field(
        default=2.0,
        metadata={"help": "seconds of silence, at most; validation hears what --audio-context says"},
    )
    hidden_weight: float = field(
        default=1.0,
        metadata={"help": "weight of the squared distance between hidden states of the decoder's layers"},
    )
    kl_weight: float = field(
        default=1.0,
        metadata={"help": "weight of the divergence from the teacher's distributions over tokens"},
    )
    max_teacher_tokens: int = field(default=200, metadata={"help": "longest text that the teacher writes"})
    cache_teacher: bool = field(
        default=False,
        metadata={
            "help": "keep what the teacher says of each utterance in memory (about 0.3 MB each for whisper-tiny), so "
            "that later epochs do without the teacher; only where training items are not augmented"
        },
    )


class Lesson(NamedTuple):
    """What the teacher says of an utterance.

    tokens: (tokens,), prefix and end included. states: (layers + 1, tokens - 1, dim), the output of each decoder layer
    and of the last norm, at the tokens before the end.
    """

    tokens: Tensor
    states: Tensor


@register_criterion("context_distillation", dataclass=ContextDistillationConfig)
class ContextDistillationCriterion(FairseqCriterion):
    """``hidden_weight * squared distance + kl_weight * KL(teacher || student)``, sums over the teacher's tokens.

    Raises:
        ValueError: an option makes no sense, there is no teacher, or it has another vocabulary or task.
    """

    def __init__(
        self,
        task,
        teacher_path,
        silence_min,
        silence_max,
        hidden_weight,
        kl_weight,
        max_teacher_tokens,
        cache_teacher,
    ):
        super().__init__(task)
        if not 0 <= silence_min <= silence_max <= 30:
            raise ValueError(
                f"--silence-min, --silence-max: found {silence_min} and {silence_max}, expected 0 to 30 s in this order"
            )
        if not teacher_path:
            raise ValueError(
                "--teacher-path: found none, expected the checkpoint that the training starts from"
            )
        if cache_teacher and (
            list(task.cfg.speed_factors) != [1.0] or task.cfg.noise_rate or task.cfg.gain_db
        ):
            raise ValueError(
                "--cache-teacher: found augmented training items, of which every epoch has others"
            )
        self.silence = silence_min, silence_max
        self.hidden_weight, self.kl_weight = hidden_weight, kl_weight
        self.prefix, self.end = task.prefix, task.target_dictionary.eos()
        self.longest = max_teacher_tokens
        self.never, self.never_first = [], []
        if str(task.cfg.suppress_tokens) != "none":
            self.never, self.never_first = suppressed_tokens(task.require_tokenizer())
        # in a list, so that it is no part of this module: neither trained nor saved
        self._teacher = [hears_all(load_teacher(teacher_path, task))]
        self.lessons = {} if cache_teacher else None

    def _apply(self, fn, *args, **kwargs):
        for teacher in self._teacher:  # follows to other devices and types
            teacher._apply(fn, *args, **kwargs)
        return super()._apply(fn, *args, **kwargs)

    def forward(self, model, sample, reduce=True):
        """The loss of a batch, the number it is to be divided by, and what is logged."""
        features, lengths = (sample["net_input"][name] for name in ("src_tokens", "src_lengths"))
        lessons = self._teach(sample["id"], features, lengths)
        tokens = pad_sequence([lesson.tokens for lesson in lessons], True, self.end).to(features.device)
        context = {}
        if self.training:  # fairseq seeds torch before every update
            least, most = self.silence
            context["audio_context"] = f"clip+{least + (most - least) * float(torch.rand(())):.2f}"
        logits, extra = model(features, lengths, tokens[:, :-1], **context)
        taught = pad_sequence([lesson.states.transpose(0, 1) for lesson in lessons], True).to(features.device)
        taught = taught.permute(2, 0, 1, 3)  # (layers + 1, batch, tokens, dim)
        # the places whose next token is the teacher's own choice
        counts = torch.tensor([len(lesson.tokens) - 1 for lesson in lessons], device=features.device)
        place = torch.arange(tokens.size(1) - 1, device=features.device)
        valid = (place >= len(self.prefix) - 1) & (place < counts[:, None])
        pairs = zip(extra["inner_states"][1:], taught[:-1])
        distances = [(own.float() - other.float()).square().mean(-1) for own, other in pairs]
        expected = self._teacher[0].decoder.output_layer(taught[-1])
        losses = {
            "hidden_loss": self.hidden_weight * (torch.stack(distances).mean(0) * valid).sum(),
            "kl_loss": self.kl_weight * distribution_loss(logits, expected, valid, 1.0),
        }
        loss, size = sum(losses.values()), valid.sum()
        log = {
            "loss": loss.data,
            "ntokens": size.data,
            "nsentences": len(lessons),
            "sample_size": size.data,
            "n_agreed": ((logits.argmax(-1) == tokens[:, 1:]) & valid).sum().data,
            **{name: value.data for name, value in losses.items()},
        }
        return loss, size, log

    @torch.no_grad()
    def _teach(self, ids: Tensor, features: Tensor, lengths: Tensor) -> list[Lesson]:
        """The teacher's lesson on each utterance of a batch."""
        # numbers of utterances begin anew in every subset
        keys = [(self.training, *key) for key in zip(ids.tolist(), lengths.tolist())]
        known = self.lessons or {}
        missing = [row for row, key in enumerate(keys) if key not in known]
        lessons = {key: known[key] for key in keys if key in known}
        if missing:
            rows = torch.tensor(missing, device=features.device)
            found = self._lessons(features.index_select(0, rows), lengths.index_select(0, rows))
            lessons.update(zip([keys[row] for row in missing], found))
        if self.lessons is not None:
            self.lessons.update(lessons)
        return [lessons[key] for key in keys]

    def _lessons(self, features: Tensor, lengths: Tensor) -> list[Lesson]:
        [teacher] = self._teacher
        encoded = teacher.encoder(features, lengths)
        tokens = greedy(
            teacher.decoder, encoded, self.prefix, self.end, self.longest, self.never, self.never_first
        )
        last, extra = teacher.decoder(tokens[:, :-1], encoded, features_only=True)
        states = torch.stack([*extra["inner_states"][1:], last], dim=1)  # (batch, layers + 1, tokens, dim)
        written = (tokens[:, len(self.prefix) :] != self.end).sum(1).tolist()
        lessons = []
        for row, own, count in zip(tokens, states, written):
            length = min(len(self.prefix) + count + 1, len(row))
            lessons.append(Lesson(row[:length].clone(), own[:, : length - 1].clone()))
        return lessons

    @classmethod
    def reduce_metrics(cls, logging_outputs) -> None:
        """Aggregate over workers and batches; losses a token, and the share of the teacher's tokens that are chosen."""
        total = {
            name: sum(log.get(name, 0) for log in logging_outputs)
            for name in ("loss", "hidden_loss", "kl_loss", "n_agreed", "sample_size")
        }
        size = total["sample_size"]
        for name in ("loss", "hidden_loss", "kl_loss"):
            metrics.log_scalar(name, total[name] / size, size, round=4)
        metrics.log_scalar("agreement", 100 * total["n_agreed"] / size, size, round=2)

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        return True


def hears_all(teacher):
    """The model, hearing every clip in 30 s without dropping any frames."""
    encoder = teacher.encoder
    encoder.audio_context, encoder.silence_stride, encoder.keeps_silence = "30s", 1, False
    encoder.pruning = TokenPruning([1.0] * len(encoder.layers))
    return teacher


def greedy(
    decoder,
    encoder_out: dict,
    prefix: Sequence[int],
    end: int,
    longest: int,
    never: Sequence[int] = (),
    never_first: Sequence[int] = (),
) -> Tensor:
    """The likeliest next token, again and again, for all utterances of a batch at once.

    Args:
        encoder_out: of the encoder.
        prefix: ids that every text begins with.
        longest: tokens after the prefix, the end included.
        never, never_first: ids that are never written, or not at the beginning.

    Returns:
        (batch, tokens), the prefix first; after its end a text has further ends.
    """
    batch, state = len(encoder_out["encoder_out"][0]), {}
    device = encoder_out["encoder_out"][0].device
    tokens = torch.tensor(prefix, device=device).expand(batch, -1)
    ended = torch.zeros(batch, dtype=torch.bool, device=device)
    longest = min(longest, decoder.max_positions() - len(prefix))
    for step in range(longest):
        scores = decoder(tokens, encoder_out, incremental_state=state)[0][:, -1]
        scores[:, never] = -torch.inf
        if step == 0:
            scores[:, never_first] = -torch.inf
        chosen = scores.argmax(-1).masked_fill(ended, end)
        tokens = torch.cat([tokens, chosen[:, None]], dim=1)
        ended |= chosen == end
        if step % 8 == 7 and ended.all():  # a look waits for the device
            break
    return tokens
