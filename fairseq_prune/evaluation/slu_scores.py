"""Scores of spoken language understanding: those of STOP on parses, and those of SLURP on intents and entities.

Every score is the F1 of counts that are summed over utterances (micro average). An accuracy is one too, as in SLURP's
own evaluation: what is not right is a false positive and a false negative.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Optional

import editdistance
import numpy as np

from fairseq_prune.evaluation.bootstrap import interval, resample
from fairseq_prune.text.meanings import SLOT, Meaning, Node, parse


@dataclass
class Counts:
    """True positives, false positives and false negatives; of distances too, so they need not be whole."""

    tp: float = 0.0
    fp: float = 0.0
    fn: float = 0.0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(self.tp + other.tp, self.fp + other.fp, self.fn + other.fn)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; 0 where nothing was right."""
        return 2 * self.tp / (2 * self.tp + self.fp + self.fn) if self.tp else 0.0

    @classmethod
    def of_equality(cls, gold: Any, predicted: Any) -> "Counts":
        """Of one label, or of anything that is right or wrong as a whole."""
        return cls(1, 0, 0) if gold == predicted else cls(0, 1, 1)

    @classmethod
    def of_items(cls, gold: Iterable, predicted: Iterable) -> "Counts":
        """Of two multisets."""
        gold, predicted = Counter(gold), Counter(predicted)
        tp = sum((gold & predicted).values())
        return cls(tp, sum(predicted.values()) - tp, sum(gold.values()) - tp)


# -- SLURP


def word_distance(gold: str, predicted: str) -> float:
    """Word error rate of a filler; more than 1 where many words are inserted."""
    words = gold.split()
    return editdistance.eval(words, predicted.split()) / max(1, len(words))


def character_distance(gold: str, predicted: str) -> float:
    """Levenshtein distance of two fillers over the length of the longer one, 0 to 1."""
    return editdistance.eval(gold, predicted) / max(1, len(gold), len(predicted))


def distance_counts(gold: Meaning, predicted: Meaning, distance: Callable[[str, str], float]) -> Counts:
    """Entities of equal type match; the distance of their fillers is a false positive and a false negative.

    Predicted entities take, in their order, the nearest gold entity that is left (Bastianelli et al. 2020).
    """
    counts, left = Counts(), list(gold.entities)
    for kind, filler in predicted.entities:
        distances = [
            (distance(entity[1], filler), place) for place, entity in enumerate(left) if entity[0] == kind
        ]
        if not distances:
            counts += Counts(0, 1, 0)
            continue
        nearest, place = min(distances)
        counts += Counts(1, nearest, nearest)
        left.pop(place)
    return counts + Counts(0, 0, len(left))


def slurp_counts(gold: Meaning, predicted: Optional[Meaning]) -> dict[str, Counts]:
    """Of an utterance; None is a prediction that could not be read, and all wrong.

    ``slu_f1`` adds the counts of the word and the character distance (Bastianelli et al. 2020, SLU-F1).
    ``acceptance`` is the share of commands that would be carried out right: intent and every entity, in any order.
    """
    found = predicted or Meaning("", "")
    words = distance_counts(gold, found, word_distance)
    characters = distance_counts(gold, found, character_distance)
    return {
        "scenario_accuracy": Counts.of_equality(gold.scenario, found.scenario),
        "action_accuracy": Counts.of_equality(gold.action, found.action),
        "intent_accuracy": Counts.of_equality(gold.intent, found.intent),
        "entity_f1": Counts.of_items(gold.entities, found.entities),
        "word_f1": words,
        "char_f1": characters,
        "slu_f1": words + characters,
        "acceptance": Counts.of_equality(
            (gold.intent, sorted(gold.entities)), (found.intent, sorted(found.entities))
        ),
    }


# -- STOP


def command(node: Node) -> tuple:
    """What a parse asks for: its intents, and its slots with their words, in any order; other words do not count."""
    words = tuple(node.words()) if node.label.startswith(SLOT) else ()
    return node.label, words, sorted(command(child) for child in node.children if isinstance(child, Node))


def stop_counts(gold: Node, predicted: Optional[Node]) -> dict[str, Counts]:
    """Of an utterance; None is a prediction that could not be read, and wrong.

    ``exact_match`` is of the whole parse, ``tree_match`` of the parse without its words (EM and EM-tree of Tomasello
    et al. 2022), ``label_f1`` of its intents and slots, as a multiset. ``acceptance`` is that of `slurp_counts`.
    """
    tree = predicted.without_words() if predicted else None
    return {
        "exact_match": Counts.of_equality(gold, predicted),
        "tree_match": Counts.of_equality(gold.without_words(), tree),
        "label_f1": Counts.of_items(
            (node.label for node in gold.nodes()),
            (node.label for node in predicted.nodes()) if predicted else (),
        ),
        "acceptance": Counts.of_equality(command(gold), predicted and command(predicted)),
    }


# -- corpora


class Corpus(NamedTuple):
    """How a corpus reads a parse, and what it counts of an utterance."""

    read: Callable[[str], Any]
    counts: Callable[[Any, Any], dict[str, Counts]]

    def read_or_none(self, hypothesis: str) -> Any:
        """What a model has written, or None where it is no parse: models may write anything."""
        try:
            return self.read(hypothesis)
        except ValueError:
            return None


CORPORA = {
    "slurp": Corpus(lambda text: Meaning.from_parse(parse(text)), slurp_counts),
    "stop": Corpus(parse, stop_counts),
}


def read_gold(name: str, text: str, where: str, option: str = "{}") -> Any:
    """A parse of the gold side.

    Args:
        name: of the corpus, a key of `CORPORA`.
        where: what the error begins with.
        option: how to ask for another corpus, with a place for its name.

    Raises:
        ValueError: the corpus cannot read it; names a corpus that can.
    """
    try:
        return CORPORA[name].read(text)
    except ValueError as error:
        others = [option.format(other) for other in CORPORA if CORPORA[other].read_or_none(text) is not None]
        hint = f" ({' or '.join(others)} scores such parses)" if others else ""
        raise ValueError(f"{where}: {error}{hint}") from None


def total(counts: Iterable[dict[str, Counts]]) -> dict[str, Counts]:
    """The sums over utterances."""
    sums: dict[str, Counts] = {}
    for row in counts:
        for name, value in row.items():
            sums[name] = sums.get(name, Counts()) + value
    return sums


def intervals(
    counts: Sequence[dict[str, Counts]], speakers: Optional[Sequence[str]] = None
) -> dict[str, tuple[float, float]]:
    """95 % intervals of all scores, in percent, by drawing utterances with replacement.

    Args:
        counts: (utterances,) of each
        speakers: (utterances,) who speaks; with them, speakers are drawn with all they said
    """
    speakers = range(len(counts)) if speakers is None else speakers
    place = np.unique(speakers, return_inverse=True)[1]
    found = {}
    for name in counts[0]:
        parts = np.zeros((place.max() + 1, 3))
        np.add.at(parts, place, [(row[name].tp, row[name].fp, row[name].fn) for row in counts])
        found[name] = interval([100 * Counts(*draw).f1 for draw in resample(parts)])
    return found
