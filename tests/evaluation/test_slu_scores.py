"""Scores against values computed by hand from the published definitions, and against jiwer."""

import jiwer
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq_prune.evaluation.slu_scores import (
    CORPORA,
    Counts,
    character_distance,
    intervals,
    slurp_counts,
    stop_counts,
    total,
    word_distance,
)
from fairseq_prune.text.meanings import Meaning, parse


def meaning(*entities, intent=("alarm", "set")):
    return Meaning(*intent, entities)


def f1(name, gold, predicted):
    return 100 * slurp_counts(gold, predicted)[name].f1


def test_equal_entities_count_fully():
    gold = meaning(("time", "nine am"), ("date", "today"))
    assert [f1(name, gold, gold) for name in ("entity_f1", "word_f1", "char_f1", "slu_f1")] == [100] * 4


def test_a_filler_with_a_wrong_word_counts_by_its_distance():
    """ "nine am" for "ten am": 1 of 2 words; "nine am" to "ten am": 3 edits of 7 characters."""
    gold, found = meaning(("time", "ten am")), meaning(("time", "nine am"))
    assert slurp_counts(gold, found)["word_f1"] == Counts(1, 0.5, 0.5)
    assert f1("word_f1", gold, found) == pytest.approx(100 * 2 / 3)
    assert character_distance("ten am", "nine am") == pytest.approx(3 / 7)
    # both counts together: TP 2, FP and FN 1/2 + 3/7
    assert f1("slu_f1", gold, found) == pytest.approx(100 * 4 / (4 + 2 * (1 / 2 + 3 / 7)))
    assert f1("entity_f1", gold, found) == 0


def test_missing_and_invented_entities_count_whole():
    gold, found = meaning(("time", "nine"), ("date", "today")), meaning(("time", "nine"), ("person", "bob"))
    for name in ("word_f1", "char_f1"):
        assert slurp_counts(gold, found)[name] == Counts(1, 1, 1)
    assert f1("slu_f1", gold, found) == pytest.approx(50)


def test_a_predicted_entity_takes_the_nearest_of_its_type():
    gold = meaning(("date", "next week"), ("date", "monday"))
    found = meaning(("date", "monday"), ("date", "next weak"))
    assert slurp_counts(gold, found)["word_f1"] == Counts(2, 0.5, 0.5)
    assert slurp_counts(gold, meaning(("date", "a"), ("date", "b"), ("date", "c")))["word_f1"].fp > 1


def test_a_word_distance_may_exceed_one_as_published():
    assert word_distance("nine", "at half past nine") == 3
    assert slurp_counts(meaning(("time", "nine")), meaning(("time", "at half past nine")))[
        "word_f1"
    ] == Counts(1, 3, 3)


def test_intent_needs_scenario_and_action():
    gold, found = meaning(intent=("play", "music")), meaning(intent=("play", "radio"))
    counts = slurp_counts(gold, found)
    assert [counts[f"{name}_accuracy"].f1 for name in ("scenario", "action", "intent")] == [1, 0, 0]


def test_micro_averaged_f1_of_labels_is_their_accuracy():
    pairs = [(meaning(intent=("a", x)), meaning(intent=("a", y))) for x, y in ("bb", "bc", "cc", "dd")]
    assert total(slurp_counts(*pair) for pair in pairs)["intent_accuracy"].f1 == pytest.approx(3 / 4)


def test_what_could_not_be_read_is_wrong():
    assert CORPORA["slurp"].read_or_none("[IN:alarm_set [SL:time") is None
    counts = slurp_counts(meaning(("time", "nine")), None)
    assert counts["intent_accuracy"] == Counts(0, 1, 1)
    assert counts["slu_f1"] == Counts(0, 0, 2)
    assert stop_counts(parse("[IN:A [SL:B x ] ]"), None)["label_f1"] == Counts(0, 0, 2)


WORDS = st.lists(st.sampled_from("nine ten am pm at".split()), min_size=1, max_size=5).map(" ".join)


@settings(max_examples=60, deadline=None)
@given(WORDS, WORDS)
def test_distances_are_those_of_jiwer(gold, found):
    assert word_distance(gold, found) == pytest.approx(jiwer.wer(gold, found))
    longest = max(len(gold), len(found))
    assert character_distance(gold, found) == pytest.approx(jiwer.cer(gold, found) * len(gold) / longest)


@pytest.mark.parametrize(
    "found, exact, tree, labels",
    [
        ("[IN:A play [SL:B x ] ]", 1, 1, 1),
        ("[IN:A play [SL:B y ] ]", 0, 1, 1),
        ("[IN:A play [SL:C x ] ]", 0, 0, 0.5),
        ("[IN:A play ]", 0, 0, 2 / 3),
        ("[IN:A [SL:B x ] [SL:B z ] ]", 0, 0, 0.8),
    ],
)
def test_scores_of_stop(found, exact, tree, labels):
    counts = stop_counts(parse("[IN:A play [SL:B x ] ]"), parse(found))
    assert counts["exact_match"].f1 == exact
    assert counts["tree_match"].f1 == tree
    assert counts["label_f1"].f1 == pytest.approx(labels)


@pytest.mark.parametrize(
    "found, accepted",
    [
        ("[IN:A [SL:C y ] please [SL:B x z ] ]", 1),
        ("[IN:A [SL:B x z ] ]", 0),
        ("[IN:A [SL:B x ] [SL:C y ] ]", 0),
        ("[IN:A [SL:B x z ] [SL:C y ] [SL:C y ] ]", 0),
        ("[IN:D [SL:B x z ] [SL:C y ] ]", 0),
    ],
)
def test_a_command_is_accepted_when_intent_and_all_slots_are_right_in_any_order(found, accepted):
    gold = "[IN:A [SL:B x z ] play [SL:C y ] ]"
    assert stop_counts(parse(gold), parse(found))["acceptance"].f1 == accepted
    as_slurp = [Meaning.from_parse(parse(text.replace("IN:", "IN:s_"))) for text in (gold, found)]
    assert slurp_counts(*as_slurp)["acceptance"].f1 == accepted


def test_intervals_by_speaker_are_wider_where_a_speaker_is_right_or_wrong_as_a_whole():
    right, wrong = (stop_counts(parse("[IN:A ]"), parse(text)) for text in ("[IN:A ]", "[IN:B ]"))
    counts, speakers = [right] * 30 + [wrong] * 30, [place // 10 for place in range(60)]
    low, high = intervals(counts)["acceptance"]
    assert 35 < low < 45 and 55 < high < 65  # 50 +- 1.96 * 100 * sqrt(0.25 / 60) = 37 to 63
    low, high = intervals(counts, speakers)["acceptance"]
    assert low < 20 and high > 80
    assert intervals(counts, range(60)) == intervals(counts)
