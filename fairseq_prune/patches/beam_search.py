"""Beam search among the likeliest tokens of each hypothesis, which fairseq looks for among all in several passes.

A step goes on with at most 2 * beam tokens of a hypothesis. On the CPU these are found first, and fairseq's own
generator and search run on them alone. Hypotheses stay the same; among tokens of equal probability others may be
taken. GPUs, other searches and sampling are left as they are.
"""

import functools
from typing import Optional

import torch
from fairseq.search import BeamSearch
from fairseq.sequence_generator import EnsembleModel, SequenceGenerator
from torch import Tensor

BLOCK = 64  # of 16 to 128 the fastest or close to it, with 12,000 to 250,000 tokens and 1 to 160 rows
AT_ONCE = 2**18  # log probabilities, which a processor's cache holds


def install() -> None:
    """Change fairseq's generator; safe to call again."""
    if not hasattr(SequenceGenerator._generate, "among_likeliest"):
        SequenceGenerator._generate = _among_likeliest(SequenceGenerator._generate)
        EnsembleModel.forward_decoder = _normalising_in_place(EnsembleModel.forward_decoder)


def largest(rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """What ``rows.topk(count)`` finds, sorting only the blocks with the largest maxima, where all of it lies.

    Args:
        rows: (rows, columns), of at least ``count`` blocks of columns.

    Returns:
        values, columns: (rows, count), in falling order.
    """
    whole = rows.size(1) // BLOCK * BLOCK
    maxima = rows[:, :whole].unflatten(1, (-1, BLOCK)).amax(2)
    starts = maxima.topk(count, sorted=False).indices.unsqueeze(2) * BLOCK
    rest = torch.arange(whole, rows.size(1)).expand(len(rows), -1)
    columns = torch.cat([(starts + torch.arange(BLOCK)).flatten(1), rest], dim=1)
    values, places = rows.gather(1, columns).topk(count)
    return values, columns.gather(1, places)


class Shortlist:
    """The tokens among which a step chooses.

    Args:
        special: so many, the first of the vocabulary, always.
        count: so many of the others, the likeliest.
    """

    def __init__(self, special: int, count: int):
        self.special, self.count = special, count
        self.tokens: Optional[Tensor] = None  # of the last step, (rows, special + count)

    def __len__(self) -> int:
        return self.special + self.count

    def choose(self, log_probs: Tensor) -> Tensor:
        """(rows, vocabulary) -> (rows, tokens of the shortlist)."""
        values, others = largest(log_probs[:, self.special :], self.count)
        special = torch.arange(self.special).expand(len(log_probs), -1)
        self.tokens = torch.cat([special, others + self.special], dim=1)
        return torch.cat([log_probs[:, : self.special], values], dim=1)

    def at(self, places: Tensor, beams: Tensor) -> Tensor:
        """The tokens at places of the shortlist, (sentences, candidates), of each sentence's given beams."""
        return self.tokens.view(len(places), -1).gather(1, beams * len(self) + places)


class _View:
    """An object with some other attributes; what it does not have is the object's."""

    def __init__(self, viewed, **others):
        self.viewed = viewed
        self.__dict__.update(others)

    def __getattr__(self, name):
        return getattr(self.viewed, name)


def _among_likeliest(generate):
    @functools.wraps(generate)
    def run(self, sample, prefix_tokens=None, constraints=None, bos_token=None):
        viewed = _view(self, sample["net_input"], prefix_tokens)
        return generate(viewed, sample, prefix_tokens, constraints, bos_token)

    run.among_likeliest = True
    return run


def _view(generator: SequenceGenerator, net_input: dict, prefix_tokens: Optional[Tensor]):
    """The generator as it is to be run, since several threads may run it."""
    inputs = [value for value in net_input.values() if isinstance(value, Tensor)]
    if type(generator.search) is not BeamSearch or any(value.device.type != "cpu" for value in inputs):
        return generator
    # which, too, change log probabilities by token before the search; the masks of special tokens alone are cheap
    others = prefix_tokens, generator.lm_model, generator.repeat_ngram_blocker
    alone = all(part is None for part in (*others, generator.token_indices_to_suppress))
    special = max(generator.pad, generator.unk, generator.eos) + 1
    # early: before these masks, where special tokens are the first; the end of Whisper's texts is one of its last
    early = alone and 4 * special <= generator.vocab_size
    # fairseq never takes all candidates there are
    shortlist = Shortlist(special if early else 0, 2 * generator.beam_size + (not early))
    if (generator.vocab_size - shortlist.special) // BLOCK < shortlist.count:
        return generator

    def forward_decoder(*inputs):
        log_probs, attention = generator.model.forward_decoder(*inputs)
        return shortlist.choose(log_probs), attention

    def step(step, log_probs, *others):
        if not early:
            log_probs = shortlist.choose(log_probs.flatten(0, 1)).unflatten(0, log_probs.shape[:2])
        scores, places, beams = generator.search.step(step, log_probs, *others)
        return scores, shortlist.at(places, beams), beams

    search = _View(generator.search, step=step)
    if not early:
        return _View(generator, search=search)
    model = _View(generator.model, forward_decoder=forward_decoder)
    return _View(generator, search=search, model=model, vocab_size=len(shortlist))


def _normalising_in_place(forward_decoder):
    """A copy of all log probabilities takes longer to be given memory than to be computed."""

    @functools.wraps(forward_decoder)
    def forward(self, tokens, encoder_outs, incremental_states, temperature=1.0):
        models = [_View(model, get_normalized_probs=_log_softmax_of(model)) for model in self.models]
        return forward_decoder(
            _View(self, models=models), tokens, encoder_outs, incremental_states, temperature
        )

    return forward


def _log_softmax_of(model):
    def normalise(decoder_out, log_probs, sample=None):
        """In the place of the logits (rows, tokens, vocabulary), which are the generator's alone."""
        logits = decoder_out[0]
        ours = type(model).__module__.startswith(__name__.partition(".")[0])
        if not ours or logits.device.type != "cpu" or logits.dtype != torch.float32:
            return model.get_normalized_probs(decoder_out, log_probs=log_probs, sample=sample)
        for rows in logits.split(max(1, AT_ONCE // logits[0].numel())):
            rows.copy_(rows.log_softmax(-1))
        return logits

    return normalise
