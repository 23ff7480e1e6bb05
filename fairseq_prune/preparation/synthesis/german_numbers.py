"""Number words: English digits, German numbers below 100, and the German for a pair of digits."""

from collections.abc import Sequence

ENGLISH_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

# fmt: off
_BELOW_TWENTY = (
    "null", "eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun",
    "zehn", "elf", "zwölf", "dreizehn", "vierzehn", "fünfzehn", "sechzehn", "siebzehn",
    "achtzehn", "neunzehn",
)
# fmt: on
_TENS = ("zehn", "zwanzig", "dreißig", "vierzig", "fünfzig", "sechzig", "siebzig", "achtzig", "neunzig")


def german_number(number: int) -> str:
    """The German word for a number from 0 to 99 as it is counted: 47 is siebenundvierzig.

    Raises `ValueError` outside this range.
    """
    if not 0 <= number <= 99:
        raise ValueError(f"number {number}: expected 0 to 99")
    if number < 20:
        return _BELOW_TWENTY[number]
    tens, units = divmod(number, 10)
    if units == 0:
        return _TENS[tens - 1]
    before = "ein" if units == 1 else _BELOW_TWENTY[units]  # eins loses its s before und
    return f"{before}und{_TENS[tens - 1]}"


def german_pair(first: int, second: int) -> str:
    """Two digits as Germans read them aloud: 4 7 is siebenundvierzig, 0 7 is null sieben."""
    for digit in (first, second):
        if not 0 <= digit <= 9:
            raise ValueError(f"digit {digit}: expected 0 to 9")
    if first == 0:
        return f"{german_number(0)} {german_number(second)}"
    return german_number(10 * first + second)


def english_digits(digits: Sequence[int]) -> str:
    """Digits as English words: (4, 7) is "four seven"."""
    return " ".join(ENGLISH_DIGITS[digit] for digit in digits)


def german_pairs(digits: Sequence[int]) -> str:
    """Digits taken two by two as German number words: (4, 7, 0, 1) is "siebenundvierzig null eins".

    Raises `ValueError` for an odd number of digits.
    """
    if len(digits) % 2:
        raise ValueError(f"{len(digits)} digits: pairs need an even number")
    return " ".join(german_pair(digits[i], digits[i + 1]) for i in range(0, len(digits), 2))
