import pytest

from fairseq_prune.evaluation.normalizers import normalizer_of, text_normalizer


@pytest.mark.parametrize(
    "text, expected",
    [
        ("Mr. Smith's colour is twenty-one!", "mister smith is color is 21"),
        ("I won't  pay $20 million, you know", "i will not pay $20000000 you know"),
    ],
)
def test_english_is_brought_to_one_form(text, expected):
    assert text_normalizer("english")(text) == expected


def test_other_languages_lose_case_and_punctuation():
    assert text_normalizer("basic")("Straße, „alle“ zwanzig!") == "straße alle zwanzig"


def test_none_changes_nothing():
    assert text_normalizer("none")(" As It Is. ") == "As It Is."


@pytest.mark.parametrize("language, name", [("en", "english"), (None, "english"), ("de", "basic")])
def test_the_language_says_which(language, name):
    assert normalizer_of(language) == name


def test_an_unknown_one_is_refused():
    with pytest.raises(ValueError, match="normalizer 'german': expected one of english, basic, none"):
        text_normalizer("german")
