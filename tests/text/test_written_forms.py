import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairseq_prune.text.written_forms import written, written_forms


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("HE MET MISTER SMITH", " He met Mr. smith."),
        ("wake me up", " Wake me up."),
        ("He met Mr. Smith.", " He met Mr. Smith."),
        ("Is it\u2028late?", " Is it late?"),
    ],
)
def test_a_transcript_as_whisper_writes_it(text, expected):
    assert written(text) == expected


def test_each_word_may_be_a_name():
    assert " He Met Mister Smith" in written_forms("HE MET MISTER SMITH")


@given(st.text())
def test_there_are_always_as_many_forms_and_each_begins_with_a_space(text):
    forms = written_forms(text)
    assert len(forms) == 4 and all(form.startswith(" ") for form in forms)
