import numpy as np
import pytest

from fairseq_prune.preparation.synthesis import demo_grammar
from fairseq_prune.preparation.synthesis.demo_grammar import all_sentences, draw_sentences


@pytest.fixture(scope="module")
def sentences():
    return list(all_sentences())


@pytest.fixture(scope="module")
def german(sentences):
    return dict(sentences)


@pytest.mark.parametrize(
    "english, translation",
    [
        ("she has found the key", "sie hat den Schlüssel gefunden"),
        ("they have found the key", "sie haben den Schlüssel gefunden"),
        ("have you seen my red car", "hast du mein rotes Auto gesehen"),
        ("the man must sell an old table", "der Mann muss einen alten Tisch verkaufen"),
        ("I can see the man", "ich kann den Mann sehen"),
        ("will my child buy two books", "wird mein Kind zwei Bücher kaufen"),
        ("tomorrow we will paint a small flower", "morgen werden wir eine kleine Blume malen"),
        ("today you must find three keys", "heute musst du drei Schlüssel finden"),
        ("yesterday the woman bought six white cats", "gestern hat die Frau sechs weiße Katzen gekauft"),
        ("yesterday I saw a big man", "gestern habe ich einen großen Mann gesehen"),
        ("he can sell the bottle at ten", "er kann um zehn die Flasche verkaufen"),
        ("we know she sold my new house", "wir wissen, dass sie mein neues Haus verkauft hat"),
        ("I know they painted the old woman", "ich weiß, dass sie die alte Frau gemalt haben"),
    ],
)
def test_translations_that_a_reader_checked(german, english, translation):
    assert german[english] == translation


def test_an_english_sentence_has_one_translation(sentences, german):
    assert len(german) == len(sentences) > 100_000


def test_vocabularies_are_small(sentences):
    english = {word for sentence in sentences for word in sentence.english.split()}
    german = {word for sentence in sentences for word in sentence.german.split()}
    assert 60 <= len(english) <= 120
    assert 60 <= len(german) <= 120


def test_sentences_are_short_and_have_no_marks_to_be_guessed(sentences):
    for english, german in sentences:
        assert 2 <= len(english.split()) <= demo_grammar.LONGEST
        assert english.replace(" ", "").isalpha()
        assert german.replace(" ", "").replace(",", "").isalpha()


@pytest.mark.parametrize("unwanted", [" a old ", " an big ", " an small ", "my man", "my woman", "red man"])
def test_english_is_well_formed(sentences, unwanted):
    assert not [english for english, _ in sentences if unwanted in f" {english} "]


def test_subject_and_person_seen_differ(sentences):
    for noun in ("man", "woman", "child"):
        assert not [english for english, _ in sentences if english.split().count(noun) > 1]


def test_german_verbs_end_the_sentence(sentences):
    infinitives = {verb.german for verb in demo_grammar.VERBS}
    participles = {verb.german_participle for verb in demo_grammar.VERBS}
    for _, german in sentences:
        words = german.split()
        if "dass" in words:
            assert words[-2] in participles
            assert words[-1] in demo_grammar.HAVE.german
        else:
            assert words[-1] in infinitives | participles
            # the finite verb is first in a question and second in a statement
            finite = {form for each in (demo_grammar.HAVE, *demo_grammar.MODALS) for form in each.german}
            assert words[0] in finite or words[1] in finite or words[2] in finite


def test_drawn_sentences_are_distinct_and_avoid_others(sentences):
    rng = np.random.default_rng(0)
    first = draw_sentences(400, (), rng)
    second = draw_sentences(400, first, rng)
    assert len(set(first) | set(second)) == 800
    assert set(first) | set(second) <= set(sentences)


def test_sentences_of_every_pattern_are_drawn():
    words = {
        word
        for sentence in draw_sentences(500, (), np.random.default_rng(0))
        for word in sentence.english.split()
    }
    assert {"have", "must", "tomorrow", "at", "yesterday", "know"} <= words


def test_more_sentences_than_there_are_is_refused(monkeypatch):
    monkeypatch.setattr(demo_grammar, "LONGEST", 4)
    monkeypatch.setattr(demo_grammar, "PATIENCE", 50)
    with pytest.raises(ValueError, match="100000 sentences are too many: the grammar gave out after"):
        draw_sentences(100_000, (), np.random.default_rng(0))
