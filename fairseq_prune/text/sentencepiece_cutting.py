"""Cutting a sentencepiece model together with its fairseq dictionary, the pair that DeltaLM has.

The model is a protobuf message (sentencepiece_model.proto), of which only the list of pieces changes. Its wire
format is read here, since sentencepiece's own Python classes for it need protobuf, which it does not install.
"""

import struct
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from fairseq.data import Dictionary

from fairseq_prune.pruning.vocabulary import Subwords, VocabularyCut, bpe_parts
from fairseq_prune.text.sentencepiece_model import open_model, rows_of_pieces

# numbers of the fields of ModelProto, and of the enumerations of types
PIECES, TRAINER_SPEC, SELF_TEST_DATA = 1, 2, 4
MODEL_TYPE, VOCAB_SIZE = 3, 4
NORMAL, USER_DEFINED = 1, 4
UNIGRAM, BPE = 1, 2


class Piece(NamedTuple):
    """A piece of the model, and the field of the message that it is."""

    text: str
    score: float
    kind: int
    field: bytes


class CuttableSentencePiece:
    """A sentencepiece model and the symbols of a fairseq dictionary, which are the embedding rows.

    Args:
        model: serialised sentencepiece model.
        symbols: of the dictionary in order, the four special ones included.
        name: of the files, for errors.

    Raises:
        ValueError: the model is not one, or has pieces that the dictionary lacks.
    """

    def __init__(self, model: bytes, symbols: Sequence[str], name: str = "vocabulary"):
        self.model, self.symbols, self.name = model, list(symbols), name
        self.processor = open_model(model, name)
        self.pieces = [_piece(value, field) for number, value, field in _fields(model) if number == PIECES]
        spec = b"".join(value for number, value, _ in _fields(model) if number == TRAINER_SPEC)
        self.model_type = next((v for number, v, _ in _fields(spec) if number == MODEL_TYPE), UNIGRAM)
        rows = {symbol: row for row, symbol in enumerate(self.symbols)}
        self._row_of_piece = rows_of_pieces(self.processor, rows, self.unknown, name)

    def __len__(self) -> int:
        return len(self.symbols)

    def subwords(self) -> Subwords:
        """What `choose_tokens` needs: special symbols, bytes, and how pieces are made of others.

        The lowest and the highest score stay too: sentencepiece derives from them what an unknown character costs
        and what a label is worth, which must not change.
        """
        normal = [index for index, piece in enumerate(self.pieces) if piece.kind == NORMAL]
        fixed = [index for index, piece in enumerate(self.pieces) if piece.kind != NORMAL]
        if normal:
            fixed += [choice(normal, key=lambda index: self.pieces[index].score) for choice in (min, max)]
        required = {self._row_of_piece[index] for index in fixed} | set(range(Dictionary().nspecial))
        scores = {self.pieces[index].text: self.pieces[index].score for index in normal}

        def rank(left, right):
            return -scores[left + right] if left + right in scores else None

        def parts(token):
            return bpe_parts(token, rank) if self.model_type == BPE else set(token)

        return Subwords(self.symbols, frozenset(required), parts)

    def encode(self, texts: Iterable[str]) -> list[list[int]]:
        """Rows of the embedding for each text, without bos and eos."""
        return [[self._row_of_piece[i] for i in ids] for ids in self.processor.encode(list(texts))]

    def decode(self, rows: Sequence[int]) -> str:
        """The text of rows, of which the special ones are skipped."""
        specials = Dictionary().nspecial
        return self.processor.decode([self.symbols[row] for row in rows if row >= specials])

    @property
    def unknown(self) -> int:
        """The row of characters that no piece has."""
        return Dictionary().unk()

    def with_labels(self, labels: Iterable[str]) -> "CuttableSentencePiece":
        """With further symbols at the end, which texts are cut out at before they are cut into pieces.

        Raises:
            ValueError: sentencepiece would not give a label back as it is.
        """
        return self._rebuilt(self.pieces, self.symbols, list(labels))

    def cut(self, cut: VocabularyCut) -> "CuttableSentencePiece":
        """The vocabulary of the rows that `VocabularyCut.rows` leaves."""
        symbols = [self.symbols[row] for row in cut.kept]
        kept = set(cut.kept)
        pieces = [piece for piece, row in zip(self.pieces, self._row_of_piece) if row in kept]
        return self._rebuilt(pieces, symbols, list(cut.labels))

    def _rebuilt(self, pieces, symbols, labels):
        kept = [piece.field for piece in pieces]
        kept += [_length_delimited(PIECES, _new_piece(label)) for label in labels]
        others = [field for number, _, field in _fields(self.model) if number not in (PIECES, SELF_TEST_DATA)]
        # a message that comes again is merged into the first one
        size = _length_delimited(TRAINER_SPEC, _varint(VOCAB_SIZE << 3) + _varint(len(kept)))
        rebuilt = CuttableSentencePiece(b"".join([*kept, *others, size]), [*symbols, *labels], self.name)
        for row, label in enumerate(labels, start=len(symbols)):
            [ids] = rebuilt.encode([label])
            if row not in ids or rebuilt.decode(ids) != label:
                raise ValueError(f"{self.name}: label {label!r} cannot be a symbol of a sentencepiece model")
        return rebuilt

    def dictionary(self) -> Dictionary:
        """The symbols as a fairseq dictionary."""
        dictionary = Dictionary()
        for symbol in self.symbols[dictionary.nspecial :]:
            dictionary.add_symbol(symbol)
        return dictionary

    def save(self, folder: Path) -> None:
        """Write ``spm.model`` and ``dict.txt`` into a folder."""
        (folder / "spm.model").write_bytes(self.model)
        self.dictionary().save(str(folder / "dict.txt"))


def _fields(message: bytes) -> Iterator[tuple]:
    """(number, value, the whole field) of each field of a protobuf message; values are int or bytes."""
    place = 0
    while place < len(message):
        start = place
        key, place = _read_varint(message, place)
        wire_type = key & 7
        if wire_type == 0:
            value, place = _read_varint(message, place)
        elif wire_type in (1, 5):
            size = 8 if wire_type == 1 else 4
            value, place = message[place : place + size], place + size
        elif wire_type == 2:
            size, place = _read_varint(message, place)
            value, place = message[place : place + size], place + size
        else:
            raise ValueError(f"sentencepiece model: wire type {wire_type}, expected 0, 1, 2 or 5")
        yield key >> 3, value, message[start:place]


def _read_varint(message: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
        shift += 7


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _length_delimited(number: int, value: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _piece(value: bytes, field: bytes) -> Piece:
    content = {number: v for number, v, _ in _fields(value)}  # 1: piece, 2: score, 3: type
    [score] = struct.unpack("<f", content.get(2, bytes(4)))
    return Piece(content[1].decode("utf-8"), score, content.get(3, NORMAL), field)


def _new_piece(label: str) -> bytes:
    return _length_delimited(1, label.encode("utf-8")) + _varint(3 << 3) + _varint(USER_DEFINED)
