"""Where TIMIT (LDC93S1) keeps its sentences, in the LDC's tree and in re-packings of it, and who is in which split.

    TIMIT/TRAIN/DR1/FCJF0/SI1027.{WAV,PHN,WRD,TXT}          the LDC's tree; .WAV files are NIST SPHERE
    data/TRAIN/DR1/FCJF0/SI1027.WAV.wav                     with RIFF copies beside
    timit/train_dr1_fcjf0_si1027.{wav,phn}                  flat

Letters may be of any case. Train are the 462 speakers of the folder train; test is the core test set of the
documentation, 24 speakers, and dev the customary 50 of the other speakers of the folder test. SA1 and SA2, which all
speakers read, are left out.
"""

import os
import re
from pathlib import Path
from typing import NamedTuple

# two men and a woman of each of the eight dialect regions (testset.doc of the corpus)
CORE_TEST = frozenset(
    "mdab0 mwbt0 felc0 mtas1 mwew0 fpas0 mjmp0 mlnt0 fpkt0 mlll0 mtls0 fjlm0"
    " mbpm0 mklt0 fnlp0 mcmj0 mjdh0 fmgd0 mgrt0 mnjm0 fdhc0 mjln0 mpam0 fmld0".split()
)
# Halberstadt's development set (PhD thesis, MIT 1998), the one in common use
DEVELOPMENT = frozenset(
    "faks0 fdac1 fjem0 mgwt0 mjar0 mmdb1 mmdm2 mpdf0 fcmh0 fkms0 mbdg0 mbwm0 mcsh0 fadg0 fdms0 fedw0 mgjf0"
    " mglb0 mrtk0 mtaa0 mtdt0 mthc0 mwjg0 fnmr0 frew0 fsem0 mbns0 mmjr0 mdls0 mdlf0 mdvc0 mers0 fmah0 fdrw0"
    " mrcs0 mrjm4 fcal1 mmwh0 fjsj0 majc0 mjsw0 mreb0 fgjd0 fjmg0 mroa0 mteb0 mjfc0 mrjr0 fmml0 mrws1".split()
)
SIZES = {"train": (462, 3696), "dev": (50, 400), "test": (24, 192)}  # speakers, sentences

_SENTENCE = re.compile(r"(?:^|[/_.-])(train|test)[/_.-](?:.*[/_.-])?([fm][a-z]{3}\d)[/_.-](s[aix]\d+)\.phn$")
_AUDIO = (".wav.wav", ".wav", ".flac", ".sph")  # RIFF copies before the SPHERE files that they are of


class Sentence(NamedTuple):
    """speaker and name are in lower case; audio is a path from the root."""

    split: str
    speaker: str
    name: str
    audio: str
    phones: Path


def find_sentences(root: Path) -> list[Sentence]:
    """The sentences of the three splits, by speaker and name.

    Raises:
        FileNotFoundError: no such folder, no phones in it, or a sentence without audio.
        ValueError: a sentence occurs twice.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder")
    found: dict[tuple[str, str], Sentence] = {}
    for folder, _, names in os.walk(root, followlinks=True):
        files = {name.lower(): name for name in names}
        for lower in sorted(name for name in files if name.endswith(".phn")):
            phones = Path(folder) / files[lower]
            match = _SENTENCE.search(os.path.relpath(phones, root.parent).lower().replace(os.sep, "/"))
            if match is None:
                continue
            part, speaker, name = match.groups()
            split = _split(part, speaker)
            if split is None or name.startswith("sa"):
                continue
            if (speaker, name) in found:
                raise ValueError(f"{phones}: found before, as {found[speaker, name].phones}")
            stem = lower[: -len(".phn")]
            audio = next((files[stem + end] for end in _AUDIO if stem + end in files), None)
            if audio is None:
                raise FileNotFoundError(f"{phones}: no audio of this sentence beside it")
            path = os.path.relpath(Path(folder) / audio, root)
            found[speaker, name] = Sentence(split, speaker, name, path, phones)
    if not found:
        raise FileNotFoundError(
            f"{root}: no sentence of TIMIT below it; expected TRAIN/DR1/FCJF0/SI1027.PHN and so on"
        )
    return [found[key] for key in sorted(found)]


def read_phones(path: Path) -> list[str]:
    """The phones of a file of first sample, end and phone.

    Raises:
        ValueError: names the line that is none.
    """
    phones = []
    for number, line in enumerate(path.read_text(encoding="ascii", errors="replace").splitlines(), start=1):
        fields = line.split()
        if len(fields) != 3 or not (fields[0].isdigit() and fields[1].isdigit()):
            raise ValueError(
                f"{path}, line {number}: expected two sample numbers and a phone, found {line!r}"
            )
        phones.append(fields[2].lower())
    if not phones:
        raise ValueError(f"{path}: expected phones, found an empty file")
    return phones


def _split(part: str, speaker: str):
    if part == "train":
        return "train"
    return "test" if speaker in CORE_TEST else "dev" if speaker in DEVELOPMENT else None
