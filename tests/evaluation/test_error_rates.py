import jiwer
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq_prune.evaluation.error_rates import (
    ErrorRate,
    character_error_rate,
    phone_error_rate,
    word_error_rate,
)

TEXT = st.lists(st.sampled_from("a b cc dd".split()), min_size=1, max_size=8).map(" ".join)
MAYBE_EMPTY = st.one_of(TEXT, st.just(""))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(TEXT, MAYBE_EMPTY), min_size=1, max_size=5))
def test_rates_are_those_of_jiwer(pairs):
    references, hypotheses = map(list, zip(*pairs))
    assert word_error_rate(references, hypotheses).percent == pytest.approx(
        100 * jiwer.wer(references, hypotheses)
    )
    assert character_error_rate(references, hypotheses).percent == pytest.approx(
        100 * jiwer.cer(references, hypotheses)
    )


def test_phones_are_scored_on_39_classes():
    # ix and ih are one class; a closure is silence; q counts nowhere
    assert phone_error_rate(["h# dh ix q kcl k ae tcl"], ["sil dh ih cl k eh sil"]) == ErrorRate(1, 7)


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match="2 references, but 1 hypotheses"):
        word_error_rate(["a", "b"], ["a"])
    with pytest.raises(ValueError, match="without a token"):
        word_error_rate([""], ["a"]).percent  # noqa: B018
    with pytest.raises(ValueError, match="'xx' is no phone of TIMIT"):
        phone_error_rate(["xx"], ["aa"])
