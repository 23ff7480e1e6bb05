"""Segments are read in place, at any file rate, and equal the same slice of the whole file.

Over 300 lines: each way in which a file can be bad has a test.
"""

import logging
import os
import struct
import tracemalloc

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq_prune.data import audio as audio_module
from fairseq_prune.data.audio import audio_info, inspect_audio, read_audio, resample, resampled_length

RATES = (8000, 16000, 22050, 44100, 48000, 96000)


def noise(length, channels=1, seed=0):
    return np.random.default_rng(seed).uniform(-0.5, 0.5, (length, channels)).astype(np.float32)


@pytest.fixture(scope="module")
def wavs(tmp_path_factory):
    """1.5 s of noise at several rates, by rate."""
    folder = tmp_path_factory.mktemp("audio")
    paths = {}
    for rate in RATES:
        paths[rate] = folder / f"{rate}.wav"
        soundfile.write(paths[rate], noise(rate * 3 // 2), rate, subtype="FLOAT")
    return paths


@given(
    rate=st.sampled_from(RATES),
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


@pytest.mark.parametrize("rate", [8000, 22050, 22254, 44100, 44101, 48000])
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


@pytest.mark.parametrize("rate", [22254, 44101])
def test_rates_without_a_common_factor_need_little_time_and_memory(tmp_path, rate):
    """torchaudio's kernel took 2.8 GiB for half a second at 22,254 Hz, and had no end at 44,101 Hz."""
    soundfile.write(tmp_path / "a.wav", noise(3 * rate), rate, subtype="FLOAT")
    tracemalloc.start()
    whole = read_audio(tmp_path / "a.wav")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(whole) == 48000 and peak < 8 * 2**20
    np.testing.assert_allclose(read_audio(tmp_path / "a.wav", 20000, 9000), whole[20000:29000], atol=1e-5)


def test_nothing_above_the_new_rate_folds_back():
    tone = np.sin(2 * np.pi * 11_000 * np.arange(48_000) / 48_000).astype(np.float32)
    assert np.abs(resample(tone, 48_000, 16_000)[200:-200]).max() < 1e-4


@pytest.mark.parametrize("rate", [16000, 44100, 48000])
def test_an_mp3_is_as_long_as_what_is_decoded(tmp_path, rate):
    soundfile.write(tmp_path / "a.mp3", noise(2 * rate), rate)
    length = len(read_audio(tmp_path / "a.mp3"))
    assert abs(length - 32000) < 2000
    assert audio_info(tmp_path / "a.mp3").n_samples == inspect_audio(tmp_path / "a.mp3").n_samples == length


def test_an_mp3_whose_header_counts_padding_is_read(monkeypatch, tmp_path):
    """Encoders that note their padding make the header's count up to two frames and a half too large."""
    soundfile.write(tmp_path / "a.mp3", noise(32000), 16000)

    class Padded(soundfile.SoundFile):
        @property
        def frames(self):
            return super().frames + 852

    monkeypatch.setattr(soundfile, "SoundFile", Padded)
    assert audio_info(tmp_path / "a.mp3").n_samples == len(read_audio(tmp_path / "a.mp3")) == 32000


def test_truncated_mp3_is_refused(tmp_path):
    soundfile.write(tmp_path / "a.mp3", noise(32000), 16000)
    whole = (tmp_path / "a.mp3").read_bytes()
    (tmp_path / "a.mp3").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"a\.mp3: truncated or damaged"):
        audio_info(tmp_path / "a.mp3")


# -- what the samples hold


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("read", [read_audio, inspect_audio])
def test_a_sample_that_is_not_finite_is_named(tmp_path, read, value):
    samples = noise(2000, channels=2)
    samples[1234, 1] = value
    soundfile.write(tmp_path / "a.wav", samples, 16000, subtype="FLOAT")
    with pytest.raises(ValueError, match=rf"a\.wav: expected finite samples, found {value} at sample 1234"):
        read(tmp_path / "a.wav")


@pytest.mark.parametrize("read", [read_audio, inspect_audio])
def test_floats_in_16_bit_scale_are_refused(tmp_path, read):
    soundfile.write(tmp_path / "a.wav", noise(2000) * 32768, 16000, subtype="FLOAT")
    with pytest.raises(ValueError, match=r"a\.wav: .* -1 to 1, found a peak of 16,\d+, .* divided by 32768"):
        read(tmp_path / "a.wav")


def test_floats_somewhat_above_1_are_read(tmp_path):
    soundfile.write(tmp_path / "a.wav", noise(2000) * 6, 16000, subtype="FLOAT")
    assert read_audio(tmp_path / "a.wav").max() > 2.5


def test_a_bad_sample_outside_a_segment_does_not_hinder_it(tmp_path):
    samples = noise(2000)
    samples[1500] = np.nan
    soundfile.write(tmp_path / "a.wav", samples, 16000, subtype="FLOAT")
    assert len(read_audio(tmp_path / "a.wav", 0, 1500)) == 1500


@pytest.fixture
def warnings_of(caplog):
    """The warnings that reading a file logs."""
    audio_module._warn_once.cache_clear()

    def read(path, *segment):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            read_audio(path, *segment)
        return [record.getMessage() for record in caplog.records]

    return read


def test_digital_silence_is_warned_of_once(tmp_path, warnings_of):
    soundfile.write(tmp_path / "a.wav", np.zeros(1000), 16000)
    assert warnings_of(tmp_path / "a.wav") == [f"{tmp_path / 'a.wav'}: digital silence: every sample is zero"]
    assert warnings_of(tmp_path / "a.wav", 10, 20) == []
    assert "digital silence" in inspect_audio(tmp_path / "a.wav").silence


def test_channels_that_cancel_out_are_warned_of(tmp_path, warnings_of):
    left = noise(1000)
    soundfile.write(tmp_path / "a.wav", np.hstack([left, -left]), 16000, subtype="PCM_16")
    assert "cancel each other out" in warnings_of(tmp_path / "a.wav")[0]
    assert "cancel each other out" in inspect_audio(tmp_path / "a.wav").silence


def test_one_silent_channel_is_no_reason_to_warn(tmp_path, warnings_of):
    left = noise(1000)
    soundfile.write(tmp_path / "a.wav", np.hstack([left, 0 * left]), 16000)
    assert warnings_of(tmp_path / "a.wav") == [] and inspect_audio(tmp_path / "a.wav").silence == ""


@pytest.mark.parametrize("channels", [1, 2])
def test_a_file_of_many_blocks_is_read_as_one(tmp_path, monkeypatch, channels):
    soundfile.write(tmp_path / "a.wav", noise(5000, channels), 8000, subtype="FLOAT")
    whole, info = read_audio(tmp_path / "a.wav"), inspect_audio(tmp_path / "a.wav")
    monkeypatch.setattr(audio_module, "BLOCK", 999)
    np.testing.assert_array_equal(read_audio(tmp_path / "a.wav"), whole)
    assert inspect_audio(tmp_path / "a.wav") == info == audio_info(tmp_path / "a.wav")


# -- what headers promise


def flac_that_promises(path, samples):
    """A FLAC whose STREAMINFO has another number of samples, 36 bits from byte 21 on."""
    soundfile.write(path, noise(4000), 16000, subtype="PCM_16")
    content = bytearray(path.read_bytes())
    content[21] = content[21] & 0xF0 | samples >> 32
    content[22:26] = struct.pack(">I", samples & 0xFFFFFFFF)
    path.write_bytes(content)


@pytest.mark.parametrize("read", [audio_info, inspect_audio, read_audio])
def test_a_header_that_promises_the_impossible_is_refused(tmp_path, read):
    flac_that_promises(tmp_path / "a.flac", 2**36 - 1)
    with pytest.raises(ValueError, match=r"a\.flac: damaged: its header promises 68,719,476,735 samples"):
        read(tmp_path / "a.flac")


@pytest.mark.parametrize("read", [inspect_audio, read_audio])
def test_memory_follows_the_file_and_not_its_header(tmp_path, read):
    """A promise that the file's size does not rule out: 32 million samples, 128 MB."""
    flac_that_promises(tmp_path / "a.flac", 32_000_000)
    assert audio_info(tmp_path / "a.flac").n_samples == 32_000_000
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"a\.flac: truncated or damaged: expected 32000000 samples"):
        read(tmp_path / "a.flac")
    assert tracemalloc.get_traced_memory()[1] < 40e6
    tracemalloc.stop()


@pytest.mark.parametrize("rate", [1, 1999, 2**31 - 1])
def test_a_sample_rate_that_nothing_records_at_is_refused(tmp_path, rate):
    soundfile.write(tmp_path / "a.wav", noise(4000), 16000, subtype="PCM_16")
    content = bytearray((tmp_path / "a.wav").read_bytes())
    content[24:28] = struct.pack("<I", rate)
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.wav: damaged: expected a sample rate of"):
        audio_info(tmp_path / "a.wav")


def test_a_pipe_and_a_folder_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    with pytest.raises(ValueError, match=r"pipe\.wav: expected an audio file, found a special file"):
        read_audio(tmp_path / "pipe.wav")
    with pytest.raises(ValueError, match="expected an audio file, found a folder"):
        audio_info(tmp_path)
