"""Text to speech with espeak-ng, from the `espeakng-loader` package, through ctypes."""

import ctypes
import os
import tempfile
import threading
from pathlib import Path

import numpy as np

# espeak-ng/speak_lib.h
AUDIO_OUTPUT_SYNCHRONOUS = 2
INITIALIZE_DONT_EXIT = 0x8000
CHARS_UTF8 = 1
RATE, PITCH = 1, 3  # espeak_PARAMETER
RATES = range(80, 451)  # words per minute
PITCHES = range(100)

_SYNTH_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
_one_at_a_time = threading.Lock()  # the library's state is global to the process


class _Voice(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char_p),
        ("languages", ctypes.POINTER(ctypes.c_char)),  # a priority byte, then the language tag
        ("identifier", ctypes.c_char_p),
        ("gender", ctypes.c_ubyte),
        ("age", ctypes.c_ubyte),
        ("variant", ctypes.c_ubyte),
        ("xx1", ctypes.c_ubyte),
        ("score", ctypes.c_int),
        ("spare", ctypes.c_void_p),
    ]


def check_ranges(rates: "tuple[int, int]", pitches: "tuple[int, int]") -> tuple:
    """(lowest, highest) of --rate and of --pitch; raises `ValueError` for what espeak-ng does not take."""
    for option, (low, high), allowed in (("--rate", rates, RATES), ("--pitch", pitches, PITCHES)):
        if not allowed[0] <= low <= high <= allowed[-1]:
            raise ValueError(f"{option} {low} {high}: expected {allowed[0]} <= MIN <= MAX <= {allowed[-1]}")
    return tuple(rates), tuple(pitches)


class Espeak:
    """The espeak-ng synthesiser. Equal arguments give equal samples, whatever was spoken before.

    espeak-ng keeps static state (phase, flutter, noise) from one utterance to the next that nothing in its
    interface resets, so the library is loaded anew for each utterance (about 4 ms).

    Raises `ImportError` when the package is missing and `RuntimeError` when its library does not start.
    """

    sample_rate = 22050  # samples per second

    def __init__(self) -> None:
        try:
            import espeakng_loader
        except ImportError:
            raise ImportError(
                "speech synthesis needs the package espeakng-loader: pip install fairseq-prune[demo]"
            ) from None
        self._library_path = espeakng_loader.get_library_path()
        data = Path(espeakng_loader.get_data_path())
        # espeak-ng cuts long data paths short without an error, so it gets a short one
        self._home = tempfile.TemporaryDirectory(prefix="espeak-")
        os.symlink(data, Path(self._home.name) / data.name)
        self.variants = sorted(path.name for path in (data / "voices" / "!v").iterdir())
        with _one_at_a_time:
            library = self._open()
            self._identifiers = _list_voices(library)
            self._close(library)

    @property
    def voices(self) -> list[str]:
        """The language tags that name a voice, such as en-us; each takes a variant too, as in en-us+f2."""
        return sorted(self._identifiers)

    def check_voice(self, voice: str) -> str:
        """Returns espeak's identifier of a voice; raises `ValueError` for a voice that does not exist.

        espeak-ng itself takes an unknown variant silently for none.
        """
        language, _, variant = voice.partition("+")
        if language.lower() not in self._identifiers:
            english = " ".join(tag for tag in self.voices if tag.startswith("en"))
            raise ValueError(f"voice {voice!r}: espeak-ng has no {language!r}; its English voices: {english}")
        if "+" in voice and variant not in self.variants:
            raise ValueError(
                f"voice {voice!r}: espeak-ng has no variant {variant!r}; it has {' '.join(self.variants)}"
            )
        return self._identifiers[language.lower()] + voice[len(language) :]

    def synthesize(self, text: str, voice: str = "en-us", rate: int = 175, pitch: int = 50) -> np.ndarray:
        """Speaks a text: returns float32 samples in [-1, 1], shape `(samples,)`, at 22,050 Hz.

        voice: a language tag and perhaps a variant: en-us, en-gb-scotland+m3.
        rate: words per minute, 80 to 450. pitch: 0 to 99.
        Raises `ValueError` for an unknown voice, a rate or pitch out of range, or a text without sound.
        """
        identifier = self.check_voice(voice)
        if rate not in RATES:
            raise ValueError(f"rate {rate}: expected {RATES[0]} to {RATES[-1]} words per minute")
        if pitch not in PITCHES:
            raise ValueError(f"pitch {pitch}: expected {PITCHES[0]} to {PITCHES[-1]}")
        chunks: list[bytes] = []

        @_SYNTH_CALLBACK
        def collect(samples, count, events):
            if samples and count > 0:
                chunks.append(ctypes.string_at(samples, 2 * count))
            return 0  # go on

        encoded = text.encode() + b"\0"
        with _one_at_a_time:
            library = self._open()
            try:
                library.espeak_SetSynthCallback(collect)
                library.espeak_ng_SetRandSeed(ctypes.c_long(1))  # or breath begins from the clock
                ctypes.CDLL(None).srand(1)  # the Klatt voices take their breath from libc
                _check(library.espeak_SetVoiceByName(identifier.encode()), f"set the voice {voice}")
                _check(library.espeak_SetParameter(RATE, int(rate), 0), f"set the rate {rate}")
                _check(library.espeak_SetParameter(PITCH, int(pitch), 0), f"set the pitch {pitch}")
                _check(
                    library.espeak_Synth(encoded, len(encoded), 0, 0, 0, CHARS_UTF8, None, None),
                    f"speak {text!r}",
                )
            finally:
                self._close(library)
        waveform = np.frombuffer(b"".join(chunks), dtype=np.int16).astype(np.float32) / 32768
        if not waveform.any():
            raise ValueError(f"espeak-ng makes no sound of the text {text!r}")
        return waveform

    def _open(self) -> ctypes.CDLL:
        if _is_loaded(self._library_path):
            raise RuntimeError("other code in this process holds espeak-ng open, and with it its state")
        try:
            library = ctypes.CDLL(self._library_path)
        except OSError as error:
            raise RuntimeError(f"espeak-ng does not load: {error}") from None
        library.espeak_ListVoices.restype = ctypes.POINTER(ctypes.POINTER(_Voice))
        library.espeak_Synth.argtypes = [
            ctypes.c_char_p,
            ctypes.c_size_t,
            ctypes.c_uint,
            ctypes.c_int,
            ctypes.c_uint,
            ctypes.c_uint,
            ctypes.c_void_p,
            ctypes.c_void_p,
        ]
        home = os.fsencode(self._home.name)
        rate = library.espeak_Initialize(AUDIO_OUTPUT_SYNCHRONOUS, 0, home, INITIALIZE_DONT_EXIT)
        if rate != self.sample_rate:
            self._close(library)  # or it stays loaded, with its state
            raise RuntimeError(
                f"espeak-ng does not start with its data in {self._home.name} "
                f"(it answers {rate}, expected {self.sample_rate} Hz)"
            )
        return library

    @staticmethod
    def _close(library: ctypes.CDLL) -> None:
        library.espeak_Terminate()
        _unload(library)


def _unload(library: ctypes.CDLL) -> None:
    dlclose = ctypes.CDLL(None).dlclose
    dlclose.argtypes = [ctypes.c_void_p]
    dlclose(library._handle)


def _is_loaded(path: str) -> bool:
    try:
        library = ctypes.CDLL(path, mode=os.RTLD_NOLOAD | os.RTLD_LAZY)
    except OSError:
        return False
    _unload(library)
    return True


def _list_voices(library: ctypes.CDLL) -> dict[str, str]:
    """Language tag to identifier: SetVoiceByName knows British English as gmw/en, not as en-gb."""
    listed = library.espeak_ListVoices(None)
    identifiers: dict[str, str] = {}
    index = 0
    while listed[index]:
        voice = listed[index].contents
        tag = ctypes.string_at(ctypes.addressof(voice.languages.contents) + 1).decode()
        identifiers.setdefault(tag, voice.identifier.decode())
        index += 1
    return identifiers


def _check(status: int, action: str) -> None:
    if status != 0:
        raise RuntimeError(f"espeak-ng could not {action} (status {status})")
