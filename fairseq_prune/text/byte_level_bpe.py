"""Byte-level BPE as Whisper has it, with a fairseq dictionary in the order of the embedding rows."""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Optional, Union

import torch

from fairseq_prune.text.dictionaries import RowDictionary, require_same_symbols
from fairseq_prune.text.lines import read_text
from fairseq_prune.text.tokenizer_json import build_tokenizer, read_description
from fairseq_prune.text.vocab_and_merges import VOCABULARY, tokenizer_json_of

START = "<|startoftranscript|>"
END = "<|endoftext|>"
NO_TIMESTAMPS = "<|notimestamps|>"
# fairseq needs a padding and an unknown symbol that no text has. Whisper's padding is its end of text, on which
# fairseq would then compute no loss; of these two, Whisper itself never writes either, and bytes are never unknown.
PAD = "<|startoflm|>"
UNKNOWN = "<|startofprev|>"
SPACE = "\u0120"
LANGUAGE = re.compile(r"<\|[a-z]{2,3}\|>")
TIMESTAMPS = [f"<|{hundredths / 50:.2f}|>" for hundredths in range(1501)]  # seconds, in steps of 0.02


class ByteLevelBPE:
    """Text to token ids and back; ids are rows of the embedding and indices of ``dictionary``.

    Names of special tokens in a text are text like any other: nobody can write an end of text by saying it.

    Args:
        text: content of a ``tokenizer.json`` of the library `tokenizers`
        name: what error messages call it

    Raises:
        ValueError: not a byte-level BPE, a gap in the ids, or one of Whisper's special tokens is missing.
    """

    def __init__(self, text: str, name: str = "tokenizer"):
        self.name = name
        content = read_description(text, name)
        for part in ("pre_tokenizer", "decoder"):
            found = content.get(part)
            if '"type": "ByteLevel"' not in json.dumps(found):  # alone, or in a sequence
                kind = found.get("type") if isinstance(found, dict) else found
                raise ValueError(f"{name}: expected a byte-level BPE, found BPE with {part} {kind}")
        for token in content["added_tokens"]:
            # the published files call timestamps ordinary text
            token["special"] = token["special"] or re.fullmatch(r"<\|.*\|>", token["content"]) is not None
        self._json = json.dumps(content, ensure_ascii=False)
        self.tokenizer, symbols = build_tokenizer(content, name)
        ids = {symbol: index for index, symbol in enumerate(symbols)}
        missing = [symbol for symbol in (START, END, NO_TIMESTAMPS, PAD, UNKNOWN) if symbol not in ids]
        if missing:
            raise ValueError(f"{name}: has no token {missing[0]}, which Whisper's tokenizers have")
        self.special = {
            token["content"]: ids[token["content"]] for token in content["added_tokens"] if token["special"]
        }
        self._special_ids = frozenset(self.special.values())
        # fairseq strings symbols together with spaces: one within a label is written as byte-level BPE writes it
        symbols = [symbol.replace(" ", SPACE) for symbol in symbols]
        self.dictionary = RowDictionary(symbols, bos=START, pad=PAD, eos=END, unk=UNKNOWN)
        self._id_of_symbol = dict(
            self.dictionary.indices
        )  # fairseq adds the words of texts to its dictionary

    @classmethod
    def load(cls, path) -> "ByteLevelBPE":
        """Read a ``tokenizer.json``, or that of a folder, which may have ``vocab.json`` and ``merges.txt`` instead.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is no tokenizer of Whisper.
        """
        path = Path(path)
        if path.is_dir() and not (path / "tokenizer.json").is_file() and (path / VOCABULARY).is_file():
            return cls(tokenizer_json_of(path), name=str(path / VOCABULARY))
        path = path / "tokenizer.json" if path.is_dir() else path
        return cls(read_text(path, "tokenizer"), name=str(path))

    def to_json(self) -> str:
        """The content of its ``tokenizer.json``."""
        return self._json

    def state_dict(self) -> dict[str, str]:
        """What checkpoints keep: a string, which every ``weights_only`` loader takes."""
        return {"tokenizer": self._json}

    @classmethod
    def from_state_dict(cls, state: dict[str, Any], name: str = "tokenizer") -> "ByteLevelBPE":
        """The inverse of :meth:`state_dict`."""
        return cls(state["tokenizer"], name)

    def with_tokens(self, tokens: Iterable[str], special: bool = False) -> "ByteLevelBPE":
        """One with further tokens, which get the ids after the last, in their order."""
        content = json.loads(self._json)
        flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        for index, token in enumerate(tokens, start=len(self)):
            content["added_tokens"].append({"id": index, "content": token, **flags, "special": special})
        return ByteLevelBPE(json.dumps(content), self.name)

    def for_rows(self, rows: int) -> "ByteLevelBPE":
        """This one; with the timestamps at the end if an embedding of so many rows has them and the file has not."""
        if rows != len(self) + len(TIMESTAMPS) or TIMESTAMPS[0] in self.special:
            return self
        return self.with_tokens(TIMESTAMPS, special=True)

    def __len__(self) -> int:
        return len(self.dictionary)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without special tokens; every text comes back from :meth:`decode` as it was."""
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of many texts; quicker than one by one."""
        return [found.ids for found in self.tokenizer.encode_batch(list(texts), add_special_tokens=False)]

    def encode_pieces(self, text: str) -> list[str]:
        """The symbols of a text in the dictionary."""
        return [self.dictionary[index] for index in self.encode(text)]

    def decode(self, tokens: Union[torch.Tensor, Sequence[int], str]) -> str:
        """Text of token ids ``(tokens,)``, or of their symbols with spaces between; special tokens are skipped."""
        if isinstance(tokens, str):
            symbols = tokens.split()
            if not all(symbol in self._id_of_symbol for symbol in symbols):
                # each letter stands for a byte, wherever fairseq has joined the symbols
                return self.tokenizer.decoder.decode(symbols)
            tokens = [self._id_of_symbol[symbol] for symbol in symbols]
        elif isinstance(tokens, torch.Tensor):
            tokens = tokens.tolist()  # one by one each would wait for the device
        ids = [index for index in map(int, tokens) if index not in self._special_ids]
        return self.tokenizer.decode(ids, skip_special_tokens=False)

    def prefix(self, language: Optional[str] = None, task: str = "transcribe") -> list[int]:
        """The ids that a decoder's input begins with, and that generation forces.

        Args:
            language: such as "en"; None for English-only models, which know neither language nor task.
            task: "transcribe" or "translate" (to English).

        Raises:
            ValueError: the tokenizer has no such language or task.
        """
        names = [START, NO_TIMESTAMPS]
        if language is not None:
            if language not in self.languages:
                codes = ", ".join(self.languages)
                known = f"one of the codes {codes}" if codes else "none: the model is English-only"
                raise ValueError(f"{self.name}: language {language!r}: no such language, expected {known}")
            names[1:1] = [f"<|{language}|>", f"<|{task}|>"]
        for name in names:
            if name not in self.special:
                raise ValueError(f"{self.name}: has no token {name}: no such task")
        return [self.special[name] for name in names]

    @property
    def languages(self) -> list[str]:
        """Codes of the languages that there is a token for, as "en"."""
        return [name[2:-2] for name in self.special if LANGUAGE.fullmatch(name)]

    def require_equal(self, other: "ByteLevelBPE", which: str) -> None:
        """Raise ValueError unless ids mean the same in both."""
        require_same_symbols(self, other, which)
