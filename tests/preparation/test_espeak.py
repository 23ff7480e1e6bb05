import ctypes
import sys

import numpy as np
import pytest

from fairseq_prune.preparation.synthesis.espeak import Espeak, _unload

try:
    import espeakng_loader
except ImportError:
    espeakng_loader = None
needs_espeak = pytest.mark.skipif(espeakng_loader is None, reason="espeakng-loader is not installed")
TEXT = "I have seen the old house"


@pytest.fixture(scope="module")
def espeak():
    return Espeak()


@needs_espeak
def test_speech_is_float_within_one(espeak):
    speech = espeak.synthesize(TEXT)
    assert speech.dtype == np.float32
    assert speech.ndim == 1
    assert 1 < len(speech) / espeak.sample_rate < 3
    assert 0.1 < np.abs(speech).max() <= 1


# m1 to f2 are formant voices, of which f2 has breath and echo; Reed and klatt are Klatt voices
@needs_espeak
@pytest.mark.parametrize("voice", ["en-us", "en-gb-scotland+m1", "en-gb+f2", "en-us+whisper", "en-us+Reed"])
def test_speech_does_not_depend_on_what_was_spoken_before(espeak, voice):
    first = espeak.synthesize(TEXT, voice)
    for other in ("en-gb", "en-us+f3", "en-us+klatt2"):
        espeak.synthesize("and now for something else", other, rate=120, pitch=80)
    assert np.array_equal(espeak.synthesize(TEXT, voice), first)
    assert np.array_equal(Espeak().synthesize(TEXT, voice), first)


@needs_espeak
def test_voice_rate_and_pitch_change_the_speech(espeak):
    plain = espeak.synthesize(TEXT, "en-us", 150, 50)
    assert len(espeak.synthesize(TEXT, "en-us", 190, 50)) < 0.9 * len(plain)
    for voice, pitch in (("en-us", 60), ("en-gb", 50), ("en-us+f1", 50)):
        assert not np.array_equal(espeak.synthesize(TEXT, voice, 150, pitch), plain)


@needs_espeak
def test_higher_pitch_sounds_higher(espeak):
    def fundamental(pitch):  # Hz, of the strongest repetition between 60 and 400 Hz
        speech = espeak.synthesize(TEXT, "en-us", 120, pitch)
        power = np.abs(np.fft.rfft(speech, 2 * len(speech))) ** 2
        lags = np.arange(espeak.sample_rate // 400, espeak.sample_rate // 60)
        return espeak.sample_rate / lags[np.fft.irfft(power)[lags].argmax()]

    assert fundamental(80) > 1.2 * fundamental(20)


@needs_espeak
def test_british_english_goes_by_its_tag(espeak):
    assert "en-gb" in espeak.voices
    assert np.array_equal(espeak.synthesize(TEXT, "en-GB"), espeak.synthesize(TEXT, "en-gb"))


@needs_espeak
@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"voice": "en-xx"}, "voice 'en-xx': espeak-ng has no 'en-xx'; its English voices: .*en-us"),
        ({"voice": "en-us+f99"}, r"voice 'en-us\+f99': espeak-ng has no variant 'f99'"),
        ({"voice": "en-us+"}, r"voice 'en-us\+': espeak-ng has no variant ''"),
        ({"rate": 79}, "rate 79: expected 80 to 450"),
        ({"rate": 451}, "rate 451: expected 80 to 450"),
        ({"pitch": 100}, "pitch 100: expected 0 to 99"),
        ({"text": "  "}, "no sound of the text '  '"),
    ],
)
def test_bad_arguments_are_refused(espeak, arguments, message):
    with pytest.raises(ValueError, match=message):
        espeak.synthesize(**{"text": TEXT, **arguments})


@needs_espeak
def test_data_below_a_long_path_is_found(tmp_path, monkeypatch, espeak):
    # espeak-ng keeps 160 characters of the path
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    data = deep / "espeak-ng-data"
    data.symlink_to(espeakng_loader.get_data_path())
    monkeypatch.setattr(espeakng_loader, "get_data_path", lambda: str(data))
    assert np.array_equal(Espeak().synthesize(TEXT), espeak.synthesize(TEXT))


@needs_espeak
def test_library_without_its_data_is_refused(tmp_path, monkeypatch):
    (tmp_path / "espeak-ng-data" / "voices" / "!v").mkdir(parents=True)
    monkeypatch.setattr(espeakng_loader, "get_data_path", lambda: str(tmp_path / "espeak-ng-data"))
    with pytest.raises(RuntimeError, match="espeak-ng does not start with its data"):
        Espeak()


@needs_espeak
def test_state_of_other_code_is_refused(espeak):
    library = ctypes.CDLL(espeakng_loader.get_library_path())
    try:
        with pytest.raises(RuntimeError, match="other code in this process holds espeak-ng open"):
            espeak.synthesize(TEXT)
    finally:
        _unload(library)
    assert espeak.synthesize(TEXT).any()


def test_missing_package_is_named_with_its_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(ImportError, match=r"espeakng-loader: pip install fairseq-prune\[demo\]"):
        Espeak()
