"""Where speech is in a recording, and how it would sound in a room and in noise: float32 waveforms at 16 kHz."""

from collections.abc import Sequence

import numpy as np

from fairseq_prune.constants import SAMPLE_RATE

FRAME = SAMPLE_RATE // 50  # 20 ms
SMOOTHING = 5  # frames
FLOOR, PEAK = 0.1, 0.95  # quantiles of the levels of frames: of silence, and of speech
ABOVE_FLOOR = 0.35  # of the way from the one to the other begins speech,
BELOW_PEAK = 40.0  # dB; but what is further below the peak is none
MARGIN = 3 * SAMPLE_RATE // 10  # samples that stay on each side of speech
LOUDEST = 0.99  # a mixture that would be louder is made quieter as a whole


def speech_span(waveform: np.ndarray) -> tuple[int, int]:
    """The first sample of speech and the one after its last, with 0.3 s on each side; by the level alone.

    In noise that is as loud as speech, or changes as much, this is most of the recording or all of it.
    """
    frames = len(waveform) // FRAME
    if frames <= SMOOTHING:
        return 0, len(waveform)
    power = np.square(waveform[: frames * FRAME].reshape(frames, FRAME)).mean(axis=1)
    power = np.convolve(power, np.full(SMOOTHING, 1 / SMOOTHING), mode="same")
    level = 10 * np.log10(power + 1e-12)
    floor, peak = np.quantile(level, [FLOOR, PEAK])
    loud = np.flatnonzero(level >= max(floor + ABOVE_FLOOR * (peak - floor), peak - BELOW_PEAK)) * FRAME
    return max(0, int(loud[0]) - MARGIN), min(len(waveform), int(loud[-1]) + FRAME + MARGIN)


def pink_noise(samples: int, rng: np.random.Generator) -> np.ndarray:
    """Noise ``(samples,)`` whose power falls with the frequency, 3 dB an octave, with a mean power of 1."""
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    spectrum[1:] /= np.sqrt(np.arange(1, len(spectrum)))
    spectrum[0] = 0
    return _of_unit_power(np.fft.irfft(spectrum, samples))


def babble(talkers: Sequence[np.ndarray], samples: int, rng: np.random.Generator) -> np.ndarray:
    """Talkers ``(any,)`` who speak at once, equally loud on average, each from a random place: power 1, ``(samples,)``.

    A recording that ends begins again.
    """
    total = np.zeros(samples)
    for talker in talkers:
        start = int(rng.integers(len(talker)))
        total += _of_unit_power(np.take(talker, np.arange(start, start + samples), mode="wrap"))
    return _of_unit_power(total)


def add_noise(waveform: np.ndarray, noise: np.ndarray, snr: float) -> np.ndarray:
    """The sum ``(samples,)`` at a ratio of signal to noise of ``snr`` dB.

    The signal's power is that of its speech alone (`speech_span`), not of the silence around it; the noise has unit
    power. The sum is made quieter where it would clip.
    """
    start, stop = speech_span(waveform)
    level = np.sqrt(np.square(waveform[start:stop], dtype=np.float64).mean()) * 10 ** (-snr / 20)
    return _within(waveform + level * noise)


def in_room(waveform: np.ndarray, decay: float, direct: float, rng: np.random.Generator) -> np.ndarray:
    """The waveform ``(samples,)`` as a room would have it, as loud as before.

    The room's impulse response is the direct sound, and noise that decays exponentially (Polack's model).

    Args:
        decay: seconds in which the echoes lose 60 dB (RT60)
        direct: power of the direct sound over that of the echoes, in dB
    """
    time = np.arange(1, int(decay * SAMPLE_RATE)) / SAMPLE_RATE
    echoes = rng.standard_normal(len(time)) * 10 ** (-3 * time / decay)
    echoes *= 10 ** (-direct / 20) / np.sqrt(np.square(echoes).sum())
    response, length = np.concatenate([[1.0], echoes]), len(waveform) + len(echoes)
    heard = np.fft.irfft(np.fft.rfft(waveform, length) * np.fft.rfft(response, length), length)
    heard = heard[: len(waveform)]
    return _within(heard * np.sqrt(np.square(waveform, dtype=np.float64).sum() / np.square(heard).sum()))


def _of_unit_power(waveform: np.ndarray) -> np.ndarray:
    return waveform / max(np.sqrt(np.square(waveform, dtype=np.float64).mean()), 1e-9)


def _within(waveform: np.ndarray) -> np.ndarray:
    return (waveform * min(1.0, LOUDEST / np.abs(waveform).max())).astype(np.float32)
