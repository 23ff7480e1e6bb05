"""Bracketed parses, and SLURP's annotations in them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from slu_corpus import slurp_row, write_jsonl

from fairseq_prune.evaluation.slu_scores import Counts, slurp_counts
from fairseq_prune.text.meanings import Meaning, Node, labels, parse, read_slurp

WEATHER = "[IN:GET_WEATHER what is the weather [SL:DATE_TIME tomorrow ] ]"
NESTED = "[IN:SEND [SL:TO mom ] [SL:TEXT that [IN:GET [SL:WHEN now ] ] ] ]"
WORD = st.text(st.characters(blacklist_categories=("Z", "C"), blacklist_characters="[]"), min_size=1)
NAME = st.from_regex(r"[a-z]{1,6}", fullmatch=True)


def trees(depth):
    children = st.lists(WORD if depth == 0 else WORD | trees(depth - 1), max_size=3)
    return st.builds(Node, st.builds("{}{}".format, st.sampled_from(["IN:", "SL:"]), NAME), children)


@settings(max_examples=50, deadline=None)
@given(trees(2))
def test_every_tree_is_read_from_what_it_writes(tree):
    assert parse(str(tree)) == tree


def test_a_parse_has_labels_words_and_a_tree_without_words():
    tree = parse(WEATHER)
    assert str(tree) == WEATHER
    assert tree.words() == "what is the weather tomorrow".split()
    assert str(tree.without_words()) == "[IN:GET_WEATHER [SL:DATE_TIME ] ]"
    assert labels([tree, parse(NESTED)])[:2] == ["[IN:GET", "[IN:GET_WEATHER"]


def test_a_tree_as_json():
    assert parse(WEATHER).to_dict() == {
        "intent": "GET_WEATHER",
        "slots": [{"slot": "DATE_TIME", "value": "tomorrow"}],
    }
    text = parse(NESTED).to_dict()["slots"][1]
    inner = {"intent": "GET", "slots": [{"slot": "WHEN", "value": "now"}]}
    assert text == {"slot": "TEXT", "value": "that now", "intents": [inner]}


@pytest.mark.parametrize(
    "text, problem",
    [
        ("", "found no token"),
        ("play music", "token 1 ('play')"),
        ("[IN:A play", "[IN:A is not closed"),
        ("[IN:A ] ]", "token 3 (']')"),
        ("[IN:A ] play", "token 3 ('play')"),
        ("[IN:A now] ]", "a bracket within a word"),
        ("[XX:A now ]", "expected a label"),
        ("[IN: now ]", "expected a label"),
        ("] [IN:A ]", "not open"),
    ],
)
def test_a_malformed_parse_is_refused_in_one_line(text, problem):
    with pytest.raises(ValueError, match="malformed parse") as error:
        parse(text)
    assert problem in str(error.value)
    assert "\n" not in str(error.value)


ENTITIES = st.lists(st.tuples(NAME, st.lists(WORD, min_size=1, max_size=3).map(" ".join)), max_size=3)


@settings(max_examples=50, deadline=None)
@given(NAME, st.from_regex(r"[a-z]{1,4}(_[a-z]{1,4})?", fullmatch=True), ENTITIES)
def test_every_meaning_of_slurp_comes_back_from_its_parse(scenario, action, entities):
    meaning = Meaning(scenario, action, tuple(entities))
    assert Meaning.from_parse(parse(str(meaning.to_parse()))) == meaning


@pytest.mark.parametrize(
    "meaning",
    [
        Meaning("a_b", "c"),
        Meaning("", "c"),
        Meaning("a", "b c"),
        Meaning("a", "b", (("date", ""),)),
        Meaning("a", "b", (("date", "[x"),)),
        Meaning("a", "b", (("the date", "x"),)),
    ],
)
def test_what_a_parse_cannot_hold_is_refused(meaning):
    with pytest.raises(ValueError, match="cannot be written"):
        meaning.to_parse()


@pytest.mark.parametrize(
    "text", ["[SL:a_b x ]", "[IN:calendar ]", "[IN:a_b [SL:c [SL:d x ] ] ]", "[IN:a_b [SL:c ] ]"]
)
def test_parses_that_are_none_of_slurp_are_refused(text):
    with pytest.raises(ValueError, match="expected"):
        Meaning.from_parse(parse(text))


def test_words_outside_of_slots_are_no_part_of_a_meaning():
    found = Meaning.from_parse(parse("[IN:alarm_set wake me [SL:time at nine ] please ]"))
    assert found == Meaning("alarm", "set", (("time", "at nine"),))


def test_gold_and_predicted_rows_mean_the_same():
    gold = Meaning.from_row(slurp_row(1, "Wake me at Nine", "alarm", "set", [("time", 2, 3)]))
    assert gold == Meaning("alarm", "set", (("time", "at nine"),))
    assert Meaning.from_row(gold.to_row()) == gold


def test_a_capital_in_a_predicted_filler_stays_and_counts_as_an_error():
    """The published evaluation lower-cases the gold side alone."""
    row = {"scenario": "alarm", "action": "set", "entities": [{"type": "time", "filler": "Nine"}]}
    predicted = Meaning.from_row(row)
    assert predicted == Meaning("alarm", "set", (("time", "Nine"),))
    gold = Meaning("alarm", "set", (("time", "nine"),))
    assert slurp_counts(gold, predicted)["entity_f1"] == Counts(0, 1, 1)


@pytest.mark.parametrize(
    "row, problem",
    [
        ({"scenario": "a", "action": "b"}, "entities"),
        (slurp_row(1, "one two", "a", "b", [("time", 1, 2)]), "a span has token 2, the sentence has 0 to 1"),
        ({**slurp_row(1, "one", "a", "b"), "entities": [{"span": [-1], "type": "t"}]}, "a span has token -1"),
        ({**slurp_row(1, "one", "a", "b"), "entities": [{"span": [0], "type": None}]}, "as text, found None"),
        (
            {"scenario": "a", "action": "b", "entities": [{"type": "t", "filler": None}]},
            "as text, found None",
        ),
        ([1], "expected a JSON object"),
    ],
)
def test_a_bad_row_of_slurp_is_named_with_its_line(row, problem, tmp_path):
    path = write_jsonl(tmp_path / "x.jsonl", [slurp_row(1, "one", "a", "b"), row])
    with pytest.raises(ValueError, match=r"x\.jsonl, line 2: ") as error:
        list(read_slurp(path))
    assert problem in str(error.value)
