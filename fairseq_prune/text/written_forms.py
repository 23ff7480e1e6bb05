"""How Whisper writes what is said: a space before it, capitals, stops, digits. Transcripts are often without.

A vocabulary that is cut to transcripts as they stand has lost tokens that the model writes: " He" and "." of "HE".
"""

from collections.abc import Sequence

# tokens of any text, whatever it is about
ALWAYS = (
    *(mark + end for mark in (".", ",", "?", "!", ":", ";", "-", "'", '"', "...", "--") for end in ("", " ")),
    *(f" {mark}" for mark in ('"', "'", "-", "--", "...")),
    *(
        '."',
        ',"',
        '?"',
        '!"',
        ".'",
        "'s",
        "'t",
        "'re",
        "'ve",
        "'m",
        "'ll",
        "'d",
        "%",
        "$",
        " $",
        "\u00a3",
        " &",
    ),
    *(f"{space}{number}" for number in range(101) for space in ("", " ")),
)
# words that Whisper shortens
SHORT = {
    "mister": "Mr.",
    "missus": "Mrs.",
    "doctor": "Dr.",
    "saint": "St.",
    "professor": "Prof.",
    "versus": "vs.",
}
STOPS = ".?!,:;\"'"


def written(text: str) -> str:
    """A transcript as Whisper would most likely write it: " He met Mr. Smith." of "HE MET MISTER SMITH"."""
    words = " ".join(text.split())
    if words == words.upper() or words == words.lower():
        words = _capital(words.lower())
    words = " ".join(SHORT.get(word.lower(), word) for word in words.split(" "))
    return f" {words}{'' if words[-1:] in STOPS else '.'}"


def written_forms(text: str) -> Sequence[str]:
    """The forms, always as many, among which Whisper may choose for each word."""
    words = " ".join(text.split())
    small = words.lower()
    names = " ".join(_capital(word) for word in small.split(" "))
    return [written(text), *(f" {form}" for form in (words, small, names))]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
