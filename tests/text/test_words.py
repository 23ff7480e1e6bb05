import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_whisper import small_tokenizer

from fairseq_prune.text.words import split_characters, split_words

TOKENIZER = small_tokenizer()


def words(text, language="en"):
    return [TOKENIZER.decode(word) for word in split_words(TOKENIZER, TOKENIZER.encode(text), language)]


@pytest.mark.parametrize(
    "text, expected",
    [
        (" what is the weather?", [" what", " is", " the", " weather?"]),
        (" well-known, isn't it", [" well-known,", " isn't", " it"]),
        (' he said "wake up" (twice).', [" he", " said", ' "wake', ' up"', " (twice)."]),
        (" café über", [" café", " über"]),
        ("?", ["?"]),
        ("", []),
    ],
)
def test_words_keep_their_punctuation(text, expected):
    assert words(text) == expected


def test_languages_without_spaces_are_split_into_characters():
    assert words("今天好。", "zh") == ["今", "天", "好。"]


@given(st.text(max_size=30))
def test_no_token_is_lost(text):
    tokens = TOKENIZER.encode(text)
    for split in (split_characters(TOKENIZER, tokens), split_words(TOKENIZER, tokens)):
        assert [token for group in split for token in group] == tokens
