"""Cutting a `tokenizer.json` of byte-pair encoding (the library tokenizers; Whisper has one)."""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import AddedToken
from tokenizers.pre_tokenizers import ByteLevel

from fairseq_prune.pruning.vocabulary import Subwords, VocabularyCut, bpe_parts, prune_merges
from fairseq_prune.text.tokenizer_json import build_tokenizer, read_description

TIMESTAMP = re.compile(r"<\|\d+\.\d\d\|>")  # Whisper has one each 20 ms


class CuttableBPE:
    """A byte-level BPE tokenizer (or one that falls back on bytes) whose token ids are the embedding rows.

    Args:
        content: text of `tokenizer.json`.
        name: of the file, for errors.

    Raises:
        ValueError: the text is no such tokenizer, or its ids leave gaps.
    """

    def __init__(self, content: str, name: str = "tokenizer.json"):
        self.name = name
        self.description = read_description(content, name)
        model = self.description["model"]
        if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
            raise ValueError(f"{name}: expected BPE without prefixes and suffixes of its tokens")
        self.processor, self.symbols = build_tokenizer(self.description, name)
        ids = set(self.symbols)
        self.merges = [tuple(merge.split(" ")) for merge in model["merges"]]
        alphabets = ByteLevel.alphabet(), [f"<0x{byte:02X}>" for byte in range(256)]
        self.bytes = next((found for found in alphabets if all(byte in ids for byte in found)), None)
        if self.bytes is None:
            raise ValueError(
                f"{name}: expected a token for each of the 256 bytes, which this tokenizer has not"
            )

    def __len__(self) -> int:
        return len(self.symbols)

    def subwords(self, keep_timestamps: bool = False) -> Subwords:
        """What `choose_tokens` needs: bytes, special and added tokens, and how tokens are merged.

        Args:
            keep_timestamps: keep Whisper's timestamps too.
        """
        ids = {token: index for index, token in enumerate(self.symbols)}
        added = [token["content"] for token in self.description["added_tokens"]]
        unknown = self.description["model"].get("unk_token")
        required = {ids[token] for token in [*self.bytes, *added, *([unknown] if unknown else [])]}
        if not keep_timestamps:
            required -= {index for index in required if TIMESTAMP.fullmatch(self.symbols[index])}
        ranks = {pair: rank for rank, pair in enumerate(self.merges)}
        return Subwords(
            self.symbols,
            frozenset(required),
            lambda token: bpe_parts(token, lambda left, right: ranks.get((left, right))),
        )

    def encode(self, texts: Iterable[str]) -> list[list[int]]:
        """Token ids of each text, without the special tokens that a post-processor adds."""
        return [found.ids for found in self.processor.encode_batch(list(texts), add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, of which the special ones are skipped."""
        return self.processor.decode(list(ids))

    def with_labels(self, labels: Iterable[str]) -> "CuttableBPE":
        """With further tokens at the end, which texts are cut out at before they are merged."""
        return self._rebuilt(self.symbols, self.merges, list(labels))

    def cut(self, cut: VocabularyCut) -> "CuttableBPE":
        """The tokenizer of the rows that `VocabularyCut.rows` leaves."""
        kept = [self.symbols[index] for index in cut.kept]
        return self._rebuilt(kept, prune_merges(self.merges, kept), list(cut.labels))

    def _rebuilt(self, symbols: Sequence[str], merges, labels: list[str]) -> "CuttableBPE":
        ids = {token: index for index, token in enumerate([*symbols, *labels])}
        new = json.loads(json.dumps(self.description))
        model = new["model"]
        model["vocab"] = {token: ids[token] for token in model["vocab"] if token in ids}
        model["merges"] = [" ".join(pair) for pair in merges]
        template = AddedToken("", normalized=False, special=False)
        flags = {
            flag: getattr(template, flag)
            for flag in ("single_word", "lstrip", "rstrip", "normalized", "special")
        }
        new["added_tokens"] = [
            {**token, "id": ids[token["content"]]} for token in new["added_tokens"] if token["content"] in ids
        ]
        new["added_tokens"] += [{"id": ids[label], "content": label, **flags} for label in labels]
        _renumber(new.get("post_processor"), ids, self.name)
        if new.get("padding"):
            new["padding"]["pad_id"] = ids[new["padding"]["pad_token"]]
        rebuilt = CuttableBPE(json.dumps(new, ensure_ascii=False), self.name)
        if rebuilt.symbols != list(ids):
            raise ValueError(f"{self.name}: tokenizers numbers the tokens that are left in another order")
        for label in labels:
            if rebuilt.encode([label]) != [[ids[label]]] or rebuilt.decode([ids[label]]) != label:
                raise ValueError(f"{self.name}: label {label!r} cannot be a token")
        return rebuilt

    def to_json(self) -> str:
        """Text of `tokenizer.json`."""
        return json.dumps(self.description, ensure_ascii=False)

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json` into a folder."""
        (folder / "tokenizer.json").write_text(self.to_json(), encoding="utf-8")


def _renumber(processor, ids: dict[str, int], name: str) -> None:
    """Give the special tokens of a post-processor their new ids, in place."""
    kind = processor["type"] if processor else None
    if kind == "Sequence":
        for part in processor["processors"]:
            _renumber(part, ids, name)
    elif kind == "TemplateProcessing":
        for token in processor["special_tokens"].values():
            token["ids"] = [ids[content] for content in token["tokens"]]
    elif kind not in (None, "ByteLevel"):
        raise ValueError(f"{name}: its post-processor {kind} is not known here")
