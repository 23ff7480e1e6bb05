"""Segments are read in place, at any file rate, and equal the same slice of the whole file."""

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq_prune.data.audio import audio_info, read_audio, resample, resampled_length


def noise(length, channels=1, seed=0):
    return np.random.default_rng(seed).uniform(-0.5, 0.5, (length, channels)).astype(np.float32)


@pytest.fixture(scope="module")
def wavs(tmp_path_factory):
    """1.5 s of noise at several rates, by rate."""
    folder = tmp_path_factory.mktemp("audio")
    paths = {}
    for rate in (8000, 16000, 22050, 44100, 48000):
        paths[rate] = folder / f"{rate}.wav"
        soundfile.write(paths[rate], noise(rate * 3 // 2), rate, subtype="FLOAT")
    return paths


@given(
    rate=st.sampled_from([8000, 16000, 22050, 44100, 48000]),
    offset=st.integers(0, 23999),
    n_frames=st.integers(1, 24000),
)
@settings(max_examples=60, deadline=None)
def test_segment_equals_slice_of_whole_file(wavs, rate, offset, n_frames):
    n_frames = min(n_frames, 24000 - offset)
    segment = read_audio(wavs[rate], offset, n_frames)
    assert segment.dtype == np.float32
    assert segment.shape == (n_frames,)
    np.testing.assert_allclose(segment, read_audio(wavs[rate])[offset : offset + n_frames], atol=2e-6)


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_resampled_tone_keeps_its_frequency_and_level(tmp_path, rate):
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate)
    soundfile.write(tmp_path / "tone.wav", tone, rate, subtype="FLOAT")
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    found = read_audio(tmp_path / "tone.wav")
    np.testing.assert_allclose(found[200:-200], expected[200:-200], atol=5e-3)


def test_16_bit_file_at_16_khz_is_read_exactly(tmp_path):
    samples = np.random.default_rng(0).integers(-32768, 32767, 1000, dtype=np.int16, endpoint=True)
    soundfile.write(tmp_path / "a.wav", samples, 16000, subtype="PCM_16")
    np.testing.assert_array_equal(
        read_audio(tmp_path / "a.wav", 10, 500), samples[10:510] / np.float32(32768)
    )


def test_channels_are_averaged(tmp_path):
    stereo = noise(1000, channels=2)
    soundfile.write(tmp_path / "a.wav", stereo, 16000, subtype="FLOAT")
    np.testing.assert_allclose(read_audio(tmp_path / "a.wav"), stereo.mean(axis=1), atol=1e-7)
    assert audio_info(tmp_path / "a.wav").channels == 2


def test_flac_is_read_like_wav(tmp_path):
    soundfile.write(tmp_path / "a.wav", noise(3000), 16000, subtype="PCM_16")
    soundfile.write(tmp_path / "a.flac", soundfile.read(tmp_path / "a.wav")[0], 16000, subtype="PCM_16")
    np.testing.assert_array_equal(
        read_audio(tmp_path / "a.flac", 700, 900), read_audio(tmp_path / "a.wav", 700, 900)
    )


@given(
    length=st.integers(1, 40_000_000),
    rates=st.sampled_from([(8, 16), (441, 160), (3, 1), (11, 10), (9, 10)]),
)
def test_resampled_length_is_the_rounded_up_ratio(length, rates):
    old, new = rates
    found = resampled_length(length, old, new)
    assert (found - 1) * old < length * new <= found * old


@pytest.mark.parametrize("length", [1, 2, 11, 999, 16001])
@pytest.mark.parametrize("rates", [(9, 10), (11, 10), (441, 160)])
def test_resample_returns_the_promised_length(length, rates):
    assert resample(noise(length)[:, 0], *rates).shape == (resampled_length(length, *rates),)


def test_audio_info_counts_samples_at_16_khz(wavs):
    assert {rate: audio_info(path).n_samples for rate, path in wavs.items()} == dict.fromkeys(wavs, 24000)
    assert audio_info(wavs[44100]).file_rate == 44100


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.wav: no such audio file"):
        read_audio(tmp_path / "absent.wav")


def test_text_file_is_refused(tmp_path):
    (tmp_path / "a.wav").write_text("this is no audio")
    with pytest.raises(ValueError, match=r"a\.wav: expected an audio file, found 16 bytes"):
        audio_info(tmp_path / "a.wav")


def test_file_of_zero_bytes_is_refused(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"")
    with pytest.raises(ValueError, match=r"a\.wav: expected an audio file, found 0 bytes"):
        audio_info(tmp_path / "a.wav")


def test_file_of_zero_samples_is_refused(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(0, dtype=np.float32), 16000)
    with pytest.raises(ValueError, match=r"a\.wav: expected audio, found a file of 0 samples"):
        audio_info(tmp_path / "a.wav")


def test_truncated_wav_names_expected_and_found(tmp_path):
    soundfile.write(tmp_path / "a.wav", noise(2000), 16000, subtype="PCM_16")
    whole = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "a.wav").write_bytes(whole[:-2000])
    with pytest.raises(ValueError, match=r"a\.wav: expected samples 500 to 1500 .*, found 1000 samples"):
        read_audio(tmp_path / "a.wav", 500, 1000)


def test_truncated_flac_names_expected_and_found(tmp_path):
    soundfile.write(tmp_path / "a.flac", noise(20000), 16000, subtype="PCM_16")
    whole = (tmp_path / "a.flac").read_bytes()
    (tmp_path / "a.flac").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"a\.flac: truncated or damaged: expected 20000 samples .*, found"):
        read_audio(tmp_path / "a.flac")


@pytest.mark.parametrize(("offset", "n_frames"), [(-1, 10), (0, 0), (990, 11), (2000, -1)])
def test_segment_outside_its_file_is_refused(tmp_path, offset, n_frames):
    soundfile.write(tmp_path / "a.wav", noise(1000), 16000)
    with pytest.raises(ValueError, match="found 1000 samples"):
        read_audio(tmp_path / "a.wav", offset, n_frames)
