"""Whether a Whisper's encoder hears its full length, and how to make it do so."""

from collections.abc import Iterator
from contextlib import contextmanager

FULL = "30s"


def hears_less(model) -> bool:
    """Whether the encoder hears less than a clip filled up with silence to its full length."""
    return str(model.encoder.audio_context) != FULL


@contextmanager
def full_context(model, whole: bool = True) -> Iterator[None]:
    """Within, the encoder hears its full length; unless ``whole`` is False."""
    encoder, before = model.encoder, model.encoder.audio_context
    if whole:
        encoder.audio_context = FULL
    try:
        yield
    finally:
        encoder.audio_context = before
