"""Whether a Whisper's encoder hears its full length in every frame, and how to make it do so."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

FULL = {"audio_context": "30s", "silence_stride": 1, "keeps_silence": False}  # attributes of the encoder


def full_settings(encoder) -> dict[str, Any]:
    """The attributes with which an encoder hears everything and drops nothing."""
    return {**FULL, "pruning": replace(encoder.pruning, keep_ratios=[1.0] * len(encoder.layers))}


def hears_less(model) -> bool:
    """Whether the encoder hears less than a clip filled up with silence to its full length, or drops frames."""
    encoder = model.encoder
    if not encoder.pruning.keeps_all:
        return True
    return any(getattr(encoder, name) != value for name, value in FULL.items())


@contextmanager
def full_context(model, whole: bool = True) -> Iterator[None]:
    """Within, the encoder hears everything and drops nothing; unless ``whole`` is False."""
    encoder = model.encoder
    settings = full_settings(encoder) if whole else {}
    before = {name: getattr(encoder, name) for name in settings}
    try:
        for name, value in settings.items():
            setattr(encoder, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(encoder, name, value)
