"""Word, character and phone error rates: edit distances summed over utterances, per reference token."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import editdistance

from fairseq_prune.evaluation.timit_phones import fold_to_39


class ErrorRate(NamedTuple):
    """errors: substitutions, deletions and insertions. tokens: of the references."""

    errors: int
    tokens: int

    @property
    def percent(self) -> float:
        """Errors of 100 tokens; more than 100 where much is inserted.

        Raises:
            ValueError: the references are empty.
        """
        if not self.tokens:
            raise ValueError("an error rate of references without a token")
        return 100 * self.errors / self.tokens


def error_rate(
    references: Iterable[str], hypotheses: Iterable[str], tokens: Callable[[str], Sequence] = str.split
) -> ErrorRate:
    """Error rate of texts; ``tokens`` splits a text.

    Raises:
        ValueError: there are more of one than of the other.
    """
    references, hypotheses = list(references), list(hypotheses)
    if len(references) != len(hypotheses):
        raise ValueError(f"{len(references)} references, but {len(hypotheses)} hypotheses")
    references = [tokens(text) for text in references]
    distances = (editdistance.eval(tokens(text), gold) for gold, text in zip(references, hypotheses))
    return ErrorRate(sum(distances), sum(map(len, references)))


def word_error_rate(references: Iterable[str], hypotheses: Iterable[str]) -> ErrorRate:
    """WER of texts."""
    return error_rate(references, hypotheses)


def character_error_rate(references: Iterable[str], hypotheses: Iterable[str]) -> ErrorRate:
    """CER of texts; a space between words is a character."""
    return error_rate(references, hypotheses, lambda text: " ".join(text.split()))


def phone_error_rate(references: Iterable[str], hypotheses: Iterable[str]) -> ErrorRate:
    """PER of TIMIT on 39 classes (Lee and Hon, 1989), of labels of 61, 48 or 39 phones.

    Raises:
        ValueError: a label is no phone of TIMIT.
    """
    return error_rate(references, hypotheses, lambda text: fold_to_39(text.split()))
