"""A small grammar of English sentences with their German translations, for the demo's corpus.

The order of words changes with every sentence: German puts participles and infinitives last ("she has found
the key": "sie hat den Schlüssel gefunden"), the verb second after a time ("tomorrow we will": "morgen werden
wir"), the whole verb last after "dass", and times before objects. Gender, case and number show in the endings
of articles and adjectives. Sentences are written without capitals at the start and without a final period.
"""

from collections.abc import Collection, Iterator, Sequence
from typing import Any, Callable, NamedTuple

import numpy as np

LONGEST = 7  # English words in a sentence
PATIENCE = 1000  # draws in a row without a new sentence


class Sentence(NamedTuple):
    english: str
    german: str


class Noun(NamedTuple):
    english: str
    english_plural: str
    german: str
    german_plural: str
    gender: str  # m, f or n


class Verb(NamedTuple):
    base: str
    past: str
    participle: str
    german: str
    german_participle: str


class Auxiliary(NamedTuple):
    english: tuple[str, ...]  # by person
    german: tuple[str, ...]


class Subject(NamedTuple):
    english: str
    german: str
    person: int  # column of the tables of auxiliaries


Choose = Callable[[Sequence[Any]], Any]

THINGS = (
    Noun("dog", "dogs", "Hund", "Hunde", "m"),
    Noun("table", "tables", "Tisch", "Tische", "m"),
    Noun("key", "keys", "Schlüssel", "Schlüssel", "m"),
    Noun("cat", "cats", "Katze", "Katzen", "f"),
    Noun("flower", "flowers", "Blume", "Blumen", "f"),
    Noun("bottle", "bottles", "Flasche", "Flaschen", "f"),
    Noun("house", "houses", "Haus", "Häuser", "n"),
    Noun("book", "books", "Buch", "Bücher", "n"),
    Noun("car", "cars", "Auto", "Autos", "n"),
)
PERSONS = (
    Noun("man", "men", "Mann", "Männer", "m"),
    Noun("woman", "women", "Frau", "Frauen", "f"),
    Noun("child", "children", "Kind", "Kinder", "n"),
)
VERBS = (
    Verb("see", "saw", "seen", "sehen", "gesehen"),
    Verb("find", "found", "found", "finden", "gefunden"),
    Verb("paint", "painted", "painted", "malen", "gemalt"),
    Verb("buy", "bought", "bought", "kaufen", "gekauft"),
    Verb("sell", "sold", "sold", "verkaufen", "verkauft"),
)
VERBS_OF_PERSONS = VERBS[:3]
ADJECTIVES = (
    ("old", "alt"),
    ("big", "groß"),
    ("small", "klein"),
    ("new", "neu"),
    ("red", "rot"),
    ("white", "weiß"),
)
ADJECTIVES_OF_PERSONS = ADJECTIVES[:3]
NUMBERS = (("two", "zwei"), ("three", "drei"), ("six", "sechs"), ("ten", "zehn"))
ARTICLES = ("the", "a", "my")

# accusative, by gender
ARTICLE_FORMS = {
    "the": {"m": "den", "f": "die", "n": "das"},
    "a": {"m": "einen", "f": "eine", "n": "ein"},
    "my": {"m": "meinen", "f": "meine", "n": "mein"},
}
WEAK_ENDING = {"m": "en", "f": "e", "n": "e"}  # after the
MIXED_ENDING = {"m": "en", "f": "e", "n": "es"}  # after a and my
PLURAL_ENDING = "e"  # strong, after a number

PRONOUNS = (
    Subject("I", "ich", 0),
    Subject("you", "du", 1),
    Subject("he", "er", 2),
    Subject("she", "sie", 2),
    Subject("we", "wir", 3),
    Subject("they", "sie", 3),
)
SUBJECTS = PRONOUNS + (
    Subject("the man", "der Mann", 2),
    Subject("the woman", "die Frau", 2),
    Subject("the child", "das Kind", 2),
    Subject("my child", "mein Kind", 2),
)
HAVE = Auxiliary(("have", "have", "has", "have"), ("habe", "hast", "hat", "haben"))
MODALS = (
    Auxiliary(("will",) * 4, ("werde", "wirst", "wird", "werden")),
    Auxiliary(("can",) * 4, ("kann", "kannst", "kann", "können")),
    Auxiliary(("must",) * 4, ("muss", "musst", "muss", "müssen")),
)
DAYS = (("today", "heute"), ("tomorrow", "morgen"))
KNOWERS = ((PRONOUNS[0], "weiß"), (PRONOUNS[4], "wissen"))


def _object(choose: Choose, noun: Noun) -> tuple[str, str]:
    """An accusative in English and German: article or number, perhaps an adjective, noun."""
    person = noun in PERSONS
    articles = ARTICLES[:2] if noun.german in ("Mann", "Frau") else ARTICLES  # "mein Mann" is my husband
    article = choose(articles if person else (*articles, "number"))
    if article == "number":
        english, german = choose(NUMBERS)
        ending = PLURAL_ENDING
        english_noun, german_noun = noun.english_plural, noun.german_plural
    else:
        english, german = article, ARTICLE_FORMS[article][noun.gender]
        ending = (WEAK_ENDING if article == "the" else MIXED_ENDING)[noun.gender]
        english_noun, german_noun = noun.english, noun.german
    if not choose((False, True)):
        return f"{english} {english_noun}", f"{german} {german_noun}"
    adjective, german_adjective = choose(ADJECTIVES_OF_PERSONS if person else ADJECTIVES)
    if english == "a" and adjective[0] in "aeiou":
        english = "an"
    return f"{english} {adjective} {english_noun}", f"{german} {german_adjective}{ending} {german_noun}"


def _action(choose: Choose, subject: Subject) -> tuple[Verb, str, str]:
    """What the subject does: a verb, and its object in English and in German."""
    noun = choose(THINGS + tuple(noun for noun in PERSONS if noun.english not in subject.english))
    verb = choose(VERBS_OF_PERSONS if noun in PERSONS else VERBS)
    return (verb, *_object(choose, noun))


def _statement(choose: Choose) -> Sentence:
    subject = choose(SUBJECTS)
    auxiliary = choose((HAVE, *MODALS))
    verb, english, german = _action(choose, subject)
    english_verb, german_verb = _non_finite(verb, auxiliary)
    return Sentence(
        f"{subject.english} {auxiliary.english[subject.person]} {english_verb} {english}",
        f"{subject.german} {auxiliary.german[subject.person]} {german} {german_verb}",
    )


def _question(choose: Choose) -> Sentence:
    subject = choose(SUBJECTS)
    auxiliary = choose((HAVE, *MODALS))
    verb, english, german = _action(choose, subject)
    english_verb, german_verb = _non_finite(verb, auxiliary)
    return Sentence(
        f"{auxiliary.english[subject.person]} {subject.english} {english_verb} {english}",
        f"{auxiliary.german[subject.person]} {subject.german} {german} {german_verb}",
    )


def _non_finite(verb: Verb, auxiliary: Auxiliary) -> tuple[str, str]:
    return (verb.participle, verb.german_participle) if auxiliary is HAVE else (verb.base, verb.german)


def _day(choose: Choose) -> Sentence:
    day, german_day = choose(DAYS)
    subject = choose(SUBJECTS)
    modal = choose(MODALS)
    verb, english, german = _action(choose, subject)
    return Sentence(
        f"{day} {subject.english} {modal.english[subject.person]} {verb.base} {english}",
        f"{german_day} {modal.german[subject.person]} {subject.german} {german} {verb.german}",
    )


def _clock(choose: Choose) -> Sentence:
    hour, german_hour = choose(NUMBERS)
    subject = choose(SUBJECTS)
    modal = choose(MODALS)
    verb, english, german = _action(choose, subject)
    return Sentence(
        f"{subject.english} {modal.english[subject.person]} {verb.base} {english} at {hour}",
        f"{subject.german} {modal.german[subject.person]} um {german_hour} {german} {verb.german}",
    )


def _yesterday(choose: Choose) -> Sentence:
    subject = choose(SUBJECTS)
    verb, english, german = _action(choose, subject)
    return Sentence(
        f"yesterday {subject.english} {verb.past} {english}",
        f"gestern {HAVE.german[subject.person]} {subject.german} {german} {verb.german_participle}",
    )


def _knowing(choose: Choose) -> Sentence:
    knower, german_know = choose(KNOWERS)
    subject = choose(tuple(subject for subject in SUBJECTS if subject != knower))
    verb, english, german = _action(choose, subject)
    return Sentence(
        f"{knower.english} know {subject.english} {verb.past} {english}",
        f"{knower.german} {german_know}, dass {subject.german} {german} {verb.german_participle} "
        f"{HAVE.german[subject.person]}",
    )


PATTERNS = (_statement, _question, _day, _clock, _yesterday, _knowing)


def sentence(choose: Choose) -> Sentence:
    """Builds one sentence; `choose` picks from a sequence each time that the grammar leaves a choice."""
    return choose(PATTERNS)(choose)


def short_enough(candidate: Sentence) -> bool:
    return len(candidate.english.split()) <= LONGEST


def all_sentences() -> Iterator[Sentence]:
    """Every sentence of the grammar, by going through all sequences of choices (some seconds)."""
    taken: list[list[int]] = []  # [which option, of how many] at each choice so far
    while True:
        depth = 0

        def choose(options: Sequence[Any]) -> Any:
            nonlocal depth
            if depth == len(taken):
                taken.append([0, len(options)])
            depth += 1
            return options[taken[depth - 1][0]]

        candidate = sentence(choose)
        if short_enough(candidate):
            yield candidate
        while taken and taken[-1][0] + 1 == taken[-1][1]:
            taken.pop()
        if not taken:
            return
        taken[-1][0] += 1


def draw_sentences(number: int, avoid: Collection[Sentence], rng: np.random.Generator) -> list[Sentence]:
    """Draws distinct sentences, none of them in `avoid`.

    Raises `ValueError` when new ones have become too rare to be drawn.
    """
    seen = set(avoid)
    drawn: list[Sentence] = []
    fruitless = 0
    while len(drawn) < number:
        candidate = sentence(lambda options: options[rng.integers(len(options))])
        if short_enough(candidate) and candidate not in seen:
            seen.add(candidate)
            drawn.append(candidate)
            fruitless = 0
        else:
            fruitless += 1
            if fruitless == PATIENCE:
                raise ValueError(f"{number} sentences are too many: the grammar gave out after {len(drawn)}")
    return drawn
