"""TIMIT's 61 phones and their folding to 48 and 39 classes.

Lee and Hon, "Speaker-Independent Phone Recognition Using Hidden Markov Models", IEEE Trans. ASSP 37 (1989), table I:
models are trained on up to 48 classes and scored on 39. The glottal stop `q` is left out of both.
"""

from collections.abc import Iterable

GLOTTAL_STOP = "q"
# phones that keep their name in all three sets
_KEPT = (
    "aa ae ah aw ay b ch d dh dx eh er ey f g hh ih iy jh k l m n ng ow oy p r s sh t th uh uw v w y z"
).split()
# class of 48: phones of TIMIT that it takes in, beside the phone of its name
_CLASSES_48 = {
    "ao": "",
    "ax": "ax-h",
    "el": "",
    "en": "",
    "ix": "",
    "zh": "",
    "er": "axr",
    "hh": "hv",
    "m": "em",
    "n": "nx",
    "ng": "eng",
    "uw": "ux",
    "cl": "pcl tcl kcl",  # closures of voiceless stops
    "vcl": "bcl dcl gcl",
    "epi": "",  # epenthetic silence
    "sil": "h# pau",
}
# class of 39: classes of 48 that it takes in
_CLASSES_39 = {"aa": "ao", "ah": "ax", "ih": "ix", "l": "el", "n": "en", "sh": "zh", "sil": "cl vcl epi"}

_SILENCES = ("cl", "vcl", "sil")  # classes that are no phone of TIMIT themselves
_TO_48 = {phone: phone for phone in (*_KEPT, *_CLASSES_48)}
_TO_48.update({phone: name for name, phones in _CLASSES_48.items() for phone in phones.split()})
_TO_39 = {phone: phone for phone in set(_TO_48.values())}
_TO_39.update({phone: name for name, phones in _CLASSES_39.items() for phone in phones.split()})

PHONES = {
    61: tuple(sorted({*_TO_48, GLOTTAL_STOP} - set(_SILENCES))),
    48: tuple(sorted(set(_TO_48.values()))),
    39: tuple(sorted(set(_TO_39.values()))),
}


def fold(phones: Iterable[str], classes: int) -> list[str]:
    """TIMIT's phones, or classes of 48, as 61, 48 or 39 classes. Neighbours that become alike stay two.

    Raises:
        ValueError: names what is no phone of TIMIT.
    """
    phones = list(phones)
    for phone in phones:
        if phone not in _TO_48 and phone != GLOTTAL_STOP:
            raise ValueError(f"{phone!r} is no phone of TIMIT")
    if classes == 61:
        return phones
    folded = [_TO_48[phone] for phone in phones if phone != GLOTTAL_STOP]
    return folded if classes == 48 else [_TO_39[phone] for phone in folded]


def fold_to_39(phones: Iterable[str]) -> list[str]:
    """The classes that are scored, of 61, 48 or 39 classes."""
    return fold(phones, 39)
