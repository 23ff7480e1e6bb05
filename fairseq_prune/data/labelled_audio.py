"""Data of fairseq's task ``audio_finetuning``: waveform manifests with labels.

A split is SPLIT.tsv (`waveform_manifest`), SPLIT.wrd with its words and SPLIT.ltr with its letters, a line an
utterance; dict.ltr.txt is the fairseq dictionary. Labels may be others than letters, in files of another ending
(`phn`: phones).
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, Optional

from fairseq_prune.data.waveform_manifest import (
    WaveformManifest,
    read_waveform_manifest,
    write_waveform_manifest,
)
from fairseq_prune.text.lines import read_lines, require_line, write_lines

WORD_END = "|"  # the label after every word
# of the published recognisers; in the order of their frequency in LibriSpeech, as in their dict.ltr.txt
ENGLISH_LETTERS = "|ETAONIHSRDLUMWCFGYPBVK'XJQZ"


class Labelled(NamedTuple):
    """An utterance: its file, as a path from the manifest's folder; samples at 16 kHz; labels, with spaces between."""

    path: str
    samples: int
    labels: str
    words: Optional[str] = None


class RecognitionSplit(NamedTuple):
    """audio: of the manifest. labels: a string an utterance, as in SPLIT.ltr."""

    audio: WaveformManifest
    labels: list[str]


def letters(text: str) -> str:
    """Labels of a text: ``"AN OAK"`` -> ``"A N | O A K |"``."""
    return " ".join(letter for word in text.split() for letter in (*word, WORD_END))


def words(labels: str) -> str:
    """The text of letters: ``"A N | O A K |"`` -> ``"AN OAK"``."""
    return " ".join(labels.replace(" ", "").replace(WORD_END, " ").split())


def count_labels(utterances: Iterable[Labelled]) -> Counter:
    """How often each label occurs."""
    return Counter(label for utterance in utterances for label in utterance.labels.split())


def check_labels(names: Sequence[str], labels: Sequence[str], known: Iterable[str]) -> None:
    """Refuse labels that a dictionary lacks: fairseq would take them for <unk> and say nothing.

    Args:
        names: of the utterances, for the error.

    Raises:
        ValueError: names the first utterance with such a label, and all of these labels.
    """
    known = set(known)
    for name, line in zip(names, labels):
        if not known.issuperset(line.split()):
            unknown = set().union(*(text.split() for text in labels)) - known
            first = next(label for label in line.split() if label not in known)
            raise ValueError(
                f"{name}: label {first!r} is not in the dictionary, which lacks {' '.join(sorted(unknown))}"
            )


def write_split(folder: Path, split: str, root, utterances: Sequence[Labelled], kind: str = "ltr") -> None:
    """Write SPLIT.tsv, SPLIT.``kind``, and SPLIT.wrd where the utterances have words.

    Args:
        root: folder that the utterances' paths start from.

    Raises:
        ValueError: there is no utterance, or one that is empty or cannot be expressed.
    """
    if not utterances:
        raise ValueError(f"{split}: expected an utterance or more, found none")
    for utterance in utterances:
        if not require_line(utterance.labels, f"{utterance.path}: the text").strip():
            raise ValueError(f"{utterance.path}: expected a line of text, found {utterance.labels!r}")
    paths, samples, labels, texts = zip(*utterances)
    write_waveform_manifest(folder / f"{split}.tsv", root, paths, samples)
    write_lines(folder / f"{split}.{kind}", labels)
    if None not in texts:
        write_lines(folder / f"{split}.wrd", texts)


def read_split(folder, split: str, kind: str = "ltr") -> RecognitionSplit:
    """Read what `write_split`, or fairseq's own scripts, wrote.

    Raises:
        FileNotFoundError: there is no such split, or files of it are missing.
        ValueError: names the file, and what is wrong with it.
    """
    audio = read_waveform_manifest(Path(folder) / f"{split}.tsv")
    path = Path(folder) / f"{split}.{kind}"
    labels = read_lines(path, "file of labels")
    if len(labels) != len(audio.paths):
        raise ValueError(f"{path}: expected {len(audio.paths)} lines as in {split}.tsv, found {len(labels)}")
    return RecognitionSplit(audio, labels)
