"""fairseq dictionaries: reading and writing `dict.txt`, and special symbols that lie on any row."""

import io
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Optional

from fairseq.data import Dictionary, data_utils

from fairseq_prune.text.lines import read_lines, write_lines


class Symbols(str):
    """What fairseq shows for tokens; ``symbols`` are those of the dictionary, with spaces between.

    The two differ where fairseq was asked to join symbols to words (``--remove-bpe``).
    """

    symbols: str

    def __new__(cls, text: str, symbols: str):
        found = super().__new__(cls, text)
        found.symbols = symbols
        return found


class SymbolDictionary(Dictionary):
    """A fairseq dictionary whose strings remember their symbols, so that a decoder need not guess."""

    def string(self, tensor, bpe_symbol=None, *args, **options):
        symbols = super().string(tensor, None, *args, **options)
        return Symbols(data_utils.post_process(symbols, bpe_symbol), symbols)


class RowDictionary(SymbolDictionary):
    """A fairseq dictionary whose special symbols lie anywhere; index i is row i of the embedding."""

    def __init__(self, symbols: Sequence[str], bos: str, pad: str, eos: str, unk: str):
        super().__init__(bos=bos, pad=pad, eos=eos, unk=unk)
        self.symbols, self.count, self.indices = [], [], {}  # fairseq has put the special ones first
        for symbol in symbols:
            self.add_symbol(symbol)
        self.bos_index, self.pad_index = self.indices[bos], self.indices[pad]
        self.eos_index, self.unk_index = self.indices[eos], self.indices[unk]
        self.nspecial = 0


def read_dictionary(path) -> Dictionary:
    """Read a fairseq dictionary: a symbol and its count in each line.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: names the file, the line and what is wrong with it.
    """
    lines = read_lines(path, "dictionary")
    dictionary = Dictionary()
    try:
        # not by its name: fairseq would end lines at a lone CR, and keep a byte order mark
        dictionary.add_from_file(io.StringIO("".join(f"{line}\n" for line in lines), newline="\n"))
    except (ValueError, RuntimeError) as error:
        number = _first_bad_line(lines)
        if number is None:
            raise ValueError(f"{path}: not a fairseq dictionary ({' '.join(str(error).split())})") from None
        raise ValueError(
            f"{path}, line {number}: expected a symbol that is new and its count, found {lines[number - 1]!r}"
        ) from None
    return dictionary


def _first_bad_line(lines: Sequence[str]) -> Optional[int]:
    seen = set(Dictionary().symbols)
    for number, line in enumerate(lines, start=1):
        overwrites = line.rstrip().endswith(" #fairseq:overwrite")
        symbol, _, count = line.rstrip().removesuffix(" #fairseq:overwrite").rpartition(" ")
        try:
            int(count)
        except ValueError:
            return number
        if not symbol or (symbol in seen and not overwrites):
            return number
        seen.add(symbol)
    return None


def write_dictionary(path, symbols: Iterable[str], counts: Counter) -> None:
    """Write a fairseq dictionary of ``symbols``, in that order, without the four special ones.

    Raises:
        ValueError: a symbol holds a line break.
    """
    write_lines(path, (f"{symbol} {counts[symbol]}" for symbol in symbols))


def require_same_symbols(mine: Any, theirs: Any, which: str) -> None:
    """Check that ids mean the same in two objects with ``name`` and ``dictionary``.

    Raises:
        ValueError: one line with the sizes and the first symbol that differs.
    """
    ours, others = mine.dictionary.symbols, theirs.dictionary.symbols
    if ours == others:
        return
    first = next((i for i, pair in enumerate(zip(ours, others)) if pair[0] != pair[1]), None)
    if first is None:
        first = min(len(ours), len(others))
    found, expected = (repr(s[first]) if first < len(s) else "nothing" for s in (ours, others))
    raise ValueError(
        f"the {which} dictionary does not fit: {mine.name} has {len(ours)} symbols, {theirs.name} has "
        f"{len(others)}; the first that differs is number {first}: {found} instead of {expected}"
    )
