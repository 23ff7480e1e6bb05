"""From CTC log probabilities to labels: greedily, or by a beam search with a word n-gram model."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Optional

import torch
from fairseq.data import Dictionary
from torch import Tensor

from fairseq_prune.data.labelled_audio import WORD_END, letters
from fairseq_prune.text.lines import read_lines

BLANK = "<s>"  # of fairseq's task audio_finetuning
Decode = Callable[[Tensor, list[int]], list[str]]  # log probs (batch, frames, labels), valid frames -> labels


def greedy(dictionary: Dictionary) -> Decode:
    """A decoder that takes the likeliest label of each frame, without repetitions and blanks."""
    blank, special = dictionary.index(BLANK), dictionary.nspecial

    def decode(log_probs: Tensor, frames: Sequence[int]) -> list[str]:
        texts = []
        for row, n in zip(log_probs.argmax(-1).cpu(), frames):
            path = row[:n].unique_consecutive()
            path = path[(path != blank) & (path >= special)]
            texts.append(" ".join(dictionary[label] for label in path.tolist()))
        return texts

    return decode


def beam_search(
    dictionary: Dictionary,
    model: str,
    lexicon: Optional[str] = None,
    weight: float = 2.0,
    word_score: float = 0.0,
    beam: int = 50,
) -> Decode:
    """A decoder with a word n-gram model: torchaudio's, of flashlight-text and KenLM.

    Args:
        model: of KenLM, ARPA or binary.
        lexicon: a file with a line for each word and its labels: ``OAK O A K |``. Without it, the words are those of
            the ARPA file, in letters.
        weight: of the model's log probability; word_score: added for each word.
        beam: hypotheses that are held.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the extra is not installed; the lexicon is missing, or has a label outside of the dictionary.
    """
    try:
        from torchaudio.models.decoder import ctc_decoder
    except (ImportError, RuntimeError) as error:
        raise ValueError(f"a language model needs: pip install fairseq_prune[lm] ({error})") from None
    if not Path(model).is_file():
        raise FileNotFoundError(f"{model}: no such language model")
    spelled = _read_lexicon(lexicon) if lexicon else {word: letters(word) for word in _arpa_words(model)}
    known = set(dictionary.symbols)
    spelled = {word: labels for word, labels in spelled.items() if known.issuperset(labels.split())}
    if not spelled:
        raise ValueError(f"{lexicon or model}: no word of it can be spelled with the dictionary")
    with tempfile.NamedTemporaryFile("w", suffix=".lexicon", encoding="utf-8") as file:
        file.writelines(f"{word} {labels}\n" for word, labels in spelled.items())
        file.flush()
        try:
            decoder = ctc_decoder(
                lexicon=file.name,
                tokens=dictionary.symbols,
                lm=str(model),
                beam_size=beam,
                lm_weight=weight,
                word_score=word_score,
                blank_token=BLANK,
                sil_token=WORD_END,
            )
        except RuntimeError as error:
            raise ValueError(f"{model}: KenLM cannot read it ({str(error).splitlines()[-1]})") from None

    def decode(log_probs: Tensor, frames: Sequence[int]) -> list[str]:
        found = decoder(log_probs.cpu().contiguous(), torch.tensor(frames, dtype=torch.int32))
        return [letters(" ".join(best[0].words)) if best else "" for best in found]

    return decode


def _read_lexicon(path) -> dict[str, str]:
    spelled = {}
    for number, line in enumerate(read_lines(path, "lexicon"), start=1):
        word, _, labels = " ".join(line.split()).partition(" ")
        if not labels:
            raise ValueError(f"{path}, line {number}: expected a word and its labels, found {line!r}")
        spelled[word] = labels
    return spelled


def _arpa_words(path) -> list[str]:
    """The unigrams of an ARPA file."""
    found = []
    with open(path, encoding="utf-8", errors="replace") as file:
        if not any(line.startswith("\\1-grams:") for line in file):
            raise ValueError(f"{path}: its words cannot be read, as it is no ARPA file; give a lexicon")
        for line in file:
            if line.startswith("\\"):
                break
            fields = line.split()
            if len(fields) > 1 and not fields[1].startswith("<"):
                found.append(fields[1])
    return found
