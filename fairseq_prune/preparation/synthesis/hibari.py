"""Text to speech with the package `hibari-tts`: the one of its neural voices that needs no download."""

import numpy as np

from fairseq_prune.data.audio import resample

VOICE = "hibari"
NORMAL_RATE, NORMAL_PITCH = 175, 50  # of espeak-ng, in whose units rate and pitch are given
OCTAVE = 100  # steps of pitch


class Hibari:
    """Raises `ImportError` when the package is missing."""

    sample_rate = 24000  # samples per second

    def __init__(self) -> None:
        try:
            import hibari
        except ImportError:
            raise ImportError(
                f"the voice {VOICE!r} needs the package hibari-tts: pip install hibari-tts"
            ) from None
        self._speak = hibari.Hibari(threads=1)

    def synthesize(self, text: str, voice: str = VOICE, rate: int = 175, pitch: int = 50) -> np.ndarray:
        """Speaks a text: returns float32 samples in [-1, 1], shape `(samples,)`, at 24,000 Hz.

        rate: words per minute. pitch: 0 to 99; it moves the formants too: 50 is the voice as it is, others sound like
        smaller or larger people.
        """
        shift = 2 ** ((pitch - NORMAL_PITCH) / OCTAVE)
        waveform = self._speak(text, speed=rate / NORMAL_RATE / shift, seed=0)
        return resample(waveform, round(shift * self.sample_rate), self.sample_rate)
