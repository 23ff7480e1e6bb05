"""Speech is found by its level; noises and rooms are as loud as they should be."""

import numpy as np
import pytest

from fairseq_prune.data.acoustics import MARGIN, add_noise, babble, in_room, pink_noise, speech_span

RATE = 16000


def command(seed=0):
    """A second of silence, a second of a tone that comes and goes, and two seconds of silence."""
    rng = np.random.default_rng(seed)
    time = np.arange(RATE) / RATE
    tone = 0.3 * np.sin(2 * np.pi * 300 * time) * (0.6 + 0.4 * np.sin(2 * np.pi * 4 * time))
    silence = 1e-4 * rng.standard_normal(4 * RATE)
    silence[RATE : 2 * RATE] += tone
    return silence.astype(np.float32)


def power(waveform):
    return np.square(waveform, dtype=np.float64).mean()


@pytest.mark.parametrize("gain", [1.0, 0.01])
def test_the_span_of_speech_is_found_at_any_level(gain):
    start, stop = speech_span(command() * np.float32(gain))
    assert abs(start - (RATE - MARGIN)) < 1600 and abs(stop - (2 * RATE + MARGIN)) < 1600


def test_the_span_is_found_in_steady_noise():
    waveform = command()
    heard = add_noise(waveform, pink_noise(len(waveform), np.random.default_rng(1)), 12)
    start, stop = speech_span(heard)
    assert start <= RATE and stop >= 2 * RATE
    assert stop - start < 0.6 * len(waveform)


@pytest.mark.parametrize("waveform", [np.zeros(0), np.zeros(100), np.zeros(RATE)])
def test_where_no_speech_is_all_stays(waveform):
    assert speech_span(waveform.astype(np.float32)) == (0, len(waveform))


def test_pink_noise_falls_by_3_db_an_octave():
    noise = pink_noise(16 * RATE, np.random.default_rng(0))
    spectrum = np.square(np.abs(np.fft.rfft(noise)))
    octaves = [spectrum[16 * low : 32 * low].mean() for low in (250, 500, 1000, 2000)]
    assert np.diff(10 * np.log10(octaves)) == pytest.approx([-3.01] * 3, abs=0.3)
    assert power(noise) == pytest.approx(1)


def test_babble_has_unit_power_and_all_its_talkers():
    rng = np.random.default_rng(0)
    talkers = [
        gain * np.random.default_rng(place).standard_normal(3000) for place, gain in enumerate((1, 50))
    ]
    heard = babble(talkers, 10_000, rng)
    assert heard.shape == (10_000,) and power(heard) == pytest.approx(1)
    for talker in talkers:  # both are there, at equal power, whatever their level was
        ring = np.fft.irfft(np.fft.rfft(heard[:3000]) * np.conj(np.fft.rfft(talker)), 3000)
        assert ring.max() / np.sqrt(3000 * power(talker) * 3000) == pytest.approx(np.sqrt(0.5), abs=0.1)


@pytest.mark.parametrize("snr", [0, 6, 24])
def test_the_ratio_is_that_of_speech_alone_to_noise(snr):
    waveform = command()
    heard = add_noise(waveform, pink_noise(len(waveform), np.random.default_rng(0)), snr)
    scale = np.dot(heard, waveform) / np.dot(waveform, waveform)  # it may have been made quieter
    noise = heard / scale - waveform
    start, stop = speech_span(waveform)
    assert 10 * np.log10(power(waveform[start:stop]) / power(noise)) == pytest.approx(snr, abs=0.5)
    assert np.abs(heard).max() <= 0.99 + 1e-6 and heard.dtype == np.float32


def test_a_room_keeps_the_level_and_fades_as_long_as_it_should():
    click = np.zeros(RATE, dtype=np.float32)
    click[100] = 0.5
    heard = in_room(click, 0.4, 0.0, np.random.default_rng(0))
    assert power(heard) == pytest.approx(power(click), rel=1e-4) and len(heard) == RATE
    assert not np.abs(heard[:100]).max() > 1e-6  # nothing before the sound
    direct, echoes = heard[100] ** 2, np.square(heard[101:], dtype=np.float64)
    assert 10 * np.log10(direct / echoes.sum()) == pytest.approx(0, abs=0.1)
    early, late = echoes[:1600].sum(), echoes[3200:4800].sum()
    assert 10 * np.log10(early / late) == pytest.approx(60 * 0.2 / 0.4, abs=2)
