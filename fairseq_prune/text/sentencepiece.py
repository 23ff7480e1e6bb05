"""A sentencepiece model and a fairseq dictionary as one thing that maps text to token ids and back."""

import base64
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Optional, Union

import numpy as np
import sentencepiece
import torch
from fairseq.data import Dictionary

from fairseq_prune.text.dictionaries import SymbolDictionary, read_dictionary, require_same_symbols
from fairseq_prune.text.sentencepiece_model import open_model, rows_of_pieces

MODEL_TYPES = ("unigram", "bpe", "char")
WORD_START = "\u2581"  # what sentencepiece writes for a space


class SentencePieceVocabulary:
    """Text to token ids and back.

    Token ids are rows of the fairseq dictionary, which begins with bos, pad, eos and unk. In vocabularies
    trained here a piece's id is the same in the sentencepiece model; in others they are matched by symbol.

    Args:
        model: serialised sentencepiece model
        symbols: all symbols of the dictionary in order, the four special ones included
        name: what error messages call this vocabulary

    Raises:
        ValueError: the model is not one, or has a piece that the dictionary lacks (it would turn into unk).
    """

    def __init__(self, model: bytes, symbols: Sequence[str], name: str = "vocabulary"):
        self.name = name
        self.model = model
        self.processor = open_model(model, name)
        self.dictionary = SymbolDictionary()
        specials = self.dictionary.symbols[:]
        if list(symbols[: len(specials)]) != specials:
            raise ValueError(f"{name}: expected {specials} first, found {list(symbols[: len(specials)])}")
        for symbol in symbols[len(specials) :]:
            self.dictionary.add_symbol(symbol)
        rows = rows_of_pieces(self.processor, self.dictionary.indices, self.dictionary.unk(), name)
        self._token_of_piece = np.array(rows, dtype=np.int64)  # (pieces,)

    @classmethod
    def load(cls, sentencepiece_path, dictionary_path) -> "SentencePieceVocabulary":
        """Read a sentencepiece model and a fairseq ``dict.txt``, e.g. DeltaLM's own pair."""
        for path in (sentencepiece_path, dictionary_path):
            if not Path(path).is_file():
                raise FileNotFoundError(f"{path}: no such vocabulary file")
        symbols = read_dictionary(dictionary_path).symbols
        return cls(
            Path(sentencepiece_path).read_bytes(),
            symbols,
            name=f"{sentencepiece_path} with {dictionary_path}",
        )

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        size: Optional[int] = None,
        model_type: str = "unigram",
        casefold: bool = False,
        name: str = "vocabulary",
    ) -> "SentencePieceVocabulary":
        """Train on texts.

        Args:
            size: number of symbols, the four special ones included; None only for ``char``, whose size is
                that of the alphabet
            model_type: ``unigram``, ``bpe`` or ``char``
            casefold: let the model ignore case, for auxiliary losses

        Raises:
            ValueError: the texts do not allow this size; says the smallest or the largest that they do.
        """
        if model_type not in MODEL_TYPES:
            raise ValueError(
                f"{name}: model type must be one of {', '.join(MODEL_TYPES)}, found {model_type!r}"
            )
        if size is None and model_type != "char":
            raise ValueError(f"{name}: a {model_type} vocabulary needs a size")
        texts = [text for text in texts if text.strip()]
        if not texts:
            raise ValueError(f"{name}: there is no text to train it on")
        special = Dictionary()
        model = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(texts),
                model_writer=model,
                model_type=model_type,
                # the char model takes the whole alphabet below this limit
                vocab_size=size if model_type != "char" else 1 << 20,
                character_coverage=1.0,
                normalization_rule_name="nmt_nfkc_cf" if casefold else "nmt_nfkc",
                max_sentence_length=1 << 20,  # bytes; longer lines would be left out silently
                bos_id=special.bos(),
                pad_id=special.pad(),
                eos_id=special.eos(),
                unk_id=special.unk(),
                minloglevel=2,
            )
        except RuntimeError as error:
            raise ValueError(f"{name}: {_explain_size(str(error), size)}") from None
        processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
        symbols = [processor.id_to_piece(i) for i in range(processor.get_piece_size())]
        return cls(model.getvalue(), symbols, name)

    def save(self, sentencepiece_path, dictionary_path) -> None:
        """Write the sentencepiece model and the fairseq dictionary."""
        Path(sentencepiece_path).write_bytes(self.model)
        self.dictionary.save(str(dictionary_path))

    def state_dict(self) -> dict[str, str]:
        """The vocabulary as strings only, which every ``weights_only`` loader takes (bytes are not)."""
        return {
            "symbols": "\n".join(self.dictionary.symbols),
            "sentencepiece": base64.b64encode(self.model).decode("ascii"),
        }

    @classmethod
    def from_state_dict(cls, state: dict[str, Any], name: str = "vocabulary") -> "SentencePieceVocabulary":
        """The inverse of :meth:`state_dict`."""
        return cls(base64.b64decode(state["sentencepiece"]), state["symbols"].split("\n"), name)

    def __len__(self) -> int:
        return len(self.dictionary)

    def encode_pieces(self, text: str) -> list[str]:
        """The sentencepiece pieces of a text."""
        return self.processor.encode(text, out_type=str)

    def encode(self, text: str) -> torch.LongTensor:
        """Token ids ``(tokens,)`` of a text, without bos and eos."""
        return torch.from_numpy(self._token_of_piece[np.array(self.processor.encode(text), dtype=np.int64)])

    def encode_all(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Token ids of many texts, int32 ``(tokens,)`` each; quicker than one by one."""
        table = self._token_of_piece.astype(np.int32)
        return [table[np.array(ids, dtype=np.int64)] for ids in self.processor.encode(list(texts))]

    def decode(self, tokens: Union[torch.Tensor, Sequence[int], str], unk: Optional[str] = None) -> str:
        """Text of token ids ``(tokens,)`` or of a string of pieces.

        Special tokens are skipped, save for unk, which becomes ``unk`` or else what sentencepiece shows for it.
        """
        if not isinstance(tokens, str):
            tokens = self.dictionary.string(
                torch.as_tensor(tokens).cpu(),
                extra_symbols_to_ignore=[self.dictionary.pad()],
                unk_string=unk,
            )
        return self.processor.decode([piece for piece in tokens.split(" ") if piece])

    def require_equal(self, other: "SentencePieceVocabulary", which: str) -> None:
        """Check that ids mean the same in both vocabularies.

        Raises:
            ValueError: one line with the sizes and the first symbol that differs.
        """
        require_same_symbols(self, other, which)


def _explain_size(message: str, size: Optional[int]) -> str:
    """One line from sentencepiece's check of the vocabulary size."""
    too_large = re.search(r"set it to a value <= (\d+)", message)
    if too_large:
        return f"the texts allow at most {too_large.group(1)} symbols, asked for {size}"
    too_small = re.search(r"smaller than required_chars\. \d+ vs (\d+)", message)
    if too_small:
        return f"the alphabet of the texts needs at least {too_small.group(1)} symbols, asked for {size}"
    return f"sentencepiece: {message}"
