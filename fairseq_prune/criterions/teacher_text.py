"""What a Whisper learns of another one on audio alone: the labels are the text that the teacher writes, greedily."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Optional

import torch
from fairseq.criterions import FairseqCriterion
from fairseq.dataclass import FairseqDataclass
from fairseq.logging import metrics
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from fairseq_prune.criterions.slu_distillation import distribution_loss, load_teacher
from fairseq_prune.modules.whisper.generation import suppressed_tokens


@dataclass
class TeacherTextConfig(FairseqDataclass):
    teacher_path: Optional[str] = field(
        default=None,
        metadata={"help": "checkpoint of the teacher; it is not kept in the student's"},
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
            "help": "keep what the teacher says of each utterance in memory (about 0.3 MB each for whisper-tiny, 3 MB "
            "where the encoder is learned too), so that later epochs do without the teacher; only where training items "
            "are not augmented"
        },
    )


class Lesson(NamedTuple):
    """What the teacher says of an utterance.

    tokens: (tokens,), prefix and end included. states: (layers + 1, tokens - 1, dim), the output of each decoder layer
    and of the last norm, at the tokens before the end. heard: (layers, frames, dim), what is to be learned of the
    encoder; None: nothing.
    """

    tokens: Tensor
    states: Tensor
    heard: Optional[Tensor]


class Texts(NamedTuple):
    """The lessons of a batch.

    tokens: (batch, tokens). valid: (batch, tokens - 1), True where the next token is the teacher's own choice. states:
    (layers + 1, batch, tokens - 1, dim). heard: (layers, batch, frames, dim), or None.
    """

    tokens: Tensor
    valid: Tensor
    states: Tensor
    heard: Optional[Tensor]


class TeacherTextCriterion(FairseqCriterion):
    """What criterions of this kind share: the teacher, its lessons, and the losses of the decoder.

    Raises:
        ValueError: an option makes no sense, there is no teacher, or it has another vocabulary or task.
    """

    losses = ("hidden_loss", "kl_loss")  # that are logged

    def __init__(self, cfg: TeacherTextConfig, task):
        super().__init__(task)
        if not cfg.teacher_path:
            raise ValueError("--teacher-path: found none, expected a checkpoint of the teacher")
        if cfg.cache_teacher and (
            list(task.cfg.speed_factors) != [1.0] or task.cfg.noise_rate or task.cfg.gain_db
        ):
            raise ValueError(
                "--cache-teacher: found augmented training items, of which every epoch has others"
            )
        self.hidden_weight, self.kl_weight = cfg.hidden_weight, cfg.kl_weight
        self.prefix, self.end = task.prefix, task.target_dictionary.eos()
        self.longest = cfg.max_teacher_tokens
        self.never, self.never_first = [], []
        if str(task.cfg.suppress_tokens) != "none":
            self.never, self.never_first = suppressed_tokens(task.require_tokenizer())
        # in a list, so that it is no part of this module: neither trained nor saved
        self._teacher = [load_teacher(cfg.teacher_path, task)]
        self.lessons = {} if cfg.cache_teacher else None

    def _apply(self, fn, *args, **kwargs):
        for teacher in self._teacher:  # follows to other devices and types
            teacher._apply(fn, *args, **kwargs)
        return super()._apply(fn, *args, **kwargs)

    def heard_states(self, encoded: dict) -> list[Tensor]:
        """What is to be learned of the encoder's states, each (batch, frames, dim); nothing by default."""
        return []

    def texts(self, sample) -> Texts:
        """What the teacher says of a batch."""
        features, lengths = (sample["net_input"][name] for name in ("src_tokens", "src_lengths"))
        lessons = self._teach(sample["id"], features, lengths)
        tokens = pad_sequence([lesson.tokens for lesson in lessons], True, self.end).to(features.device)
        states = pad_sequence([lesson.states.transpose(0, 1) for lesson in lessons], True)
        counts = torch.tensor([len(lesson.tokens) - 1 for lesson in lessons], device=features.device)
        place = torch.arange(tokens.size(1) - 1, device=features.device)
        valid = (place >= len(self.prefix) - 1) & (place < counts[:, None])
        heard = None
        if lessons[0].heard is not None:
            heard = pad_sequence([lesson.heard.transpose(0, 1) for lesson in lessons], True)
            heard = heard.to(features.device).permute(2, 0, 1, 3)
        return Texts(tokens, valid, states.to(features.device).permute(2, 0, 1, 3), heard)

    def decoder_losses(self, logits: Tensor, inner_states: list[Tensor], texts: Texts) -> dict[str, Tensor]:
        """Sums over the teacher's tokens, of what the student's decoder says of them."""
        pairs = zip(inner_states[1:], texts.states[:-1])
        distances = [(own.float() - other.float()).square().mean(-1) for own, other in pairs]
        expected = self._teacher[0].decoder.output_layer(texts.states[-1])
        return {
            "hidden_loss": self.hidden_weight * (torch.stack(distances).mean(0) * texts.valid).sum(),
            "kl_loss": self.kl_weight * distribution_loss(logits, expected, texts.valid, 1.0),
        }

    def logged(self, losses: dict[str, Tensor], logits: Tensor, texts: Texts) -> dict:
        """What all criterions of this kind log; all to be divided by the number of tokens."""
        size = texts.valid.sum()
        return {
            "loss": sum(losses.values()).detach(),
            "ntokens": size,
            "nsentences": len(texts.tokens),
            "sample_size": size,
            "n_agreed": ((logits.argmax(-1) == texts.tokens[:, 1:]) & texts.valid).sum(),
            **{name: value.detach() for name, value in losses.items()},
        }

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
        encoded = teacher.encoder(features, lengths, return_all_hiddens=True)
        tokens = greedy(
            teacher.decoder, encoded, self.prefix, self.end, self.longest, self.never, self.never_first
        )
        last, extra = teacher.decoder(tokens[:, :-1], encoded, features_only=True)
        states = torch.stack([*extra["inner_states"][1:], last], dim=1)  # (batch, layers + 1, tokens, dim)
        written = (tokens[:, len(self.prefix) :] != self.end).sum(1).tolist()
        heard: list[Optional[Tensor]] = [None] * len(tokens)
        learned = self.heard_states(encoded)
        if learned:
            frames = [learned[0].size(1)] * len(tokens)
            for padding in encoded["encoder_padding_mask"]:
                frames = (~padding).sum(1).tolist()
            heard = [row[:, :count].clone() for row, count in zip(torch.stack(learned, dim=1), frames)]
        lessons = []
        for row, own, count, encoder in zip(tokens, states, written, heard):
            length = min(len(self.prefix) + count + 1, len(row))
            lessons.append(Lesson(row[:length].clone(), own[:, : length - 1].clone(), encoder))
        return lessons

    @classmethod
    def reduce_metrics(cls, logging_outputs) -> None:
        """Aggregate over workers and batches; losses a token, and the share of the teacher's tokens that are chosen."""
        names = [name for name in ("loss", *cls.losses) if any(name in log for log in logging_outputs)]
        total = {
            name: sum(log.get(name, 0) for log in logging_outputs)
            for name in (*names, "n_agreed", "sample_size")
        }
        size = total["sample_size"]
        for name in names:
            metrics.log_scalar(name, total[name] / size, size, round=4)
        metrics.log_scalar("agreement", 100 * total["n_agreed"] / size, size, round=2)

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        return True


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
