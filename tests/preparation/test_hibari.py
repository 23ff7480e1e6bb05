"""The neural voice of make_speech.py; the package itself is not needed here."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from fairseq_prune.preparation.synthesis.hibari import Hibari


class Voice:
    """Stands for the package: a tone of 200 Hz, a second long at speed 1."""

    def __init__(self, threads):
        pass

    def __call__(self, text, speed, seed):
        return np.sin(2 * np.pi * 200 / 24000 * np.arange(round(24000 / speed))).astype(np.float32)


def test_rate_and_pitch_are_apart(monkeypatch):
    monkeypatch.setitem(sys.modules, "hibari", SimpleNamespace(Hibari=Voice))
    for rate, pitch, seconds, hertz in ((175, 50, 1, 200), (350, 50, 0.5, 200), (175, 75, 1, 237.8)):
        waveform = Hibari().synthesize("hello", rate=rate, pitch=pitch)
        assert len(waveform) / 24000 == pytest.approx(seconds, abs=0.01)
        peak = np.argmax(np.abs(np.fft.rfft(waveform))) / (len(waveform) / 24000)
        assert peak == pytest.approx(hertz, abs=2.5)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "hibari", None)
    with pytest.raises(ImportError, match="pip install hibari-tts"):
        Hibari()
