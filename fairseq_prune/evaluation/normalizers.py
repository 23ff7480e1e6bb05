"""Texts as Whisper's paper compares them (Radford et al. 2022, arXiv 2212.04356, appendix C).

English: numbers, contractions and spelling are brought to one form. Other languages: lower case without punctuation
and diacritics. Both are the library whisper-normalizer's, which has them from openai/whisper.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Optional

from whisper_normalizer.basic import BasicTextNormalizer
from whisper_normalizer.english import EnglishTextNormalizer

NORMALIZERS = ("english", "basic", "none")


def normalizer_of(language: Optional[str]) -> str:
    """The one for a language: "english" for "en" and for models that know one language alone, else "basic"."""
    return "english" if language in (None, "en") else "basic"


@lru_cache(maxsize=len(NORMALIZERS))
def text_normalizer(name: str) -> Callable[[str], str]:
    """One of `NORMALIZERS`.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in NORMALIZERS:
        raise ValueError(f"normalizer {name!r}: expected one of {', '.join(NORMALIZERS)}")
    if name == "none":
        return str.strip
    normalize = EnglishTextNormalizer() if name == "english" else BasicTextNormalizer()
    return lambda text: " ".join(normalize(text).split())
