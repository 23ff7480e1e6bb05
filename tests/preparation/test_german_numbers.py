import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairseq_prune.preparation.synthesis.german_numbers import (
    ENGLISH_DIGITS,
    english_digits,
    german_number,
    german_pair,
    german_pairs,
)

UNITS = {"ein": 1, "zwei": 2, "drei": 3, "vier": 4, "fünf": 5, "sechs": 6, "sieben": 7, "acht": 8, "neun": 9}
TENS = {"zwanzig": 20, "dreißig": 30, "vierzig": 40, "fünfzig": 50, "sechzig": 60, "siebzig": 70}
TENS.update({"achtzig": 80, "neunzig": 90})


@pytest.mark.parametrize(
    "number, word",
    [(0, "null"), (1, "eins"), (6, "sechs"), (7, "sieben"), (10, "zehn"), (11, "elf"), (12, "zwölf")]
    + [(13, "dreizehn"), (16, "sechzehn"), (17, "siebzehn"), (19, "neunzehn"), (20, "zwanzig")]
    + [
        (21, "einundzwanzig"),
        (30, "dreißig"),
        (36, "sechsunddreißig"),
        (60, "sechzig"),
        (66, "sechsundsechzig"),
    ]
    + [(70, "siebzig"), (77, "siebenundsiebzig"), (99, "neunundneunzig")],
)
def test_numbers_as_germans_write_them(number, word):
    assert german_number(number) == word


@pytest.mark.parametrize("number", [n for n in range(21, 100) if n % 10])
def test_units_come_before_tens(number):
    units, tens = german_number(number).split("und")
    assert TENS[tens] + UNITS[units] == number


def test_every_number_has_its_own_word():
    assert len({german_number(number) for number in range(100)}) == 100


@pytest.mark.parametrize(
    "digits, words",
    [((4, 7), "siebenundvierzig"), ((0, 7), "null sieben"), ((1, 7), "siebzehn"), ((7, 0), "siebzig")]
    + [((0, 0), "null null"), ((0, 1), "null eins"), ((1, 0), "zehn"), ((2, 1), "einundzwanzig")],
)
def test_pairs_of_digits(digits, words):
    assert german_pair(*digits) == words


@given(st.lists(st.integers(0, 9), max_size=6).map(lambda half: half + half[::-1]))
def test_a_string_is_its_pairs_in_order(digits):
    pairs = zip(digits[::2], digits[1::2])
    assert german_pairs(digits).split() == [word for pair in pairs for word in german_pair(*pair).split()]


def test_english_digits_are_one_word_each():
    assert english_digits(range(10)).split() == list(ENGLISH_DIGITS)
    assert english_digits([4, 7]) == "four seven"


@pytest.mark.parametrize("number", [-1, 100])
def test_number_out_of_range_is_refused(number):
    with pytest.raises(ValueError, match=f"number {number}: expected 0 to 99"):
        german_number(number)


def test_digit_out_of_range_is_refused():
    with pytest.raises(ValueError, match="digit 10: expected 0 to 9"):
        german_pair(10, 1)


def test_odd_number_of_digits_is_refused():
    with pytest.raises(ValueError, match="3 digits"):
        german_pairs([1, 2, 3])
