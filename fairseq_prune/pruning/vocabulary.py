"""Vocabulary pruning: which tokens stay, and the rows of embedding and output projection that go with them.

A tokenizer is described by `Subwords`, whatever its file format. Two facts make the cut safe (tests hold them):

- BPE never splits what it has merged. So a text whose tokens all stay is merged as before by the merges that build
  these tokens, and `choose_tokens` keeps every token on the way to one that stays.
- A unigram model takes the best path. Without the pieces that the best path does not use, it is still the best.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Optional

import torch
from torch import Tensor


@dataclass(frozen=True)
class Subwords:
    """A tokenizer, as far as cutting its vocabulary needs to know it.

    Args:
        tokens: of the embedding rows, in their order.
        required: ids of tokens that always stay: special tokens, bytes.
        parts: from a token to all tokens that must be there for the tokenizer to make it, and to spell it.
    """

    tokens: Sequence[str]
    required: frozenset[int]
    parts: Callable[[str], Iterable[str]]


@dataclass(frozen=True)
class VocabularyCut:
    """What is left of a vocabulary of ``size`` tokens: ``kept`` in their old order, then new labels.

    Args:
        size: tokens before.
        kept: old ids of the tokens that stay, ascending.
        labels: from a new token to the old ids whose embeddings it starts as the mean of.
        keep_extra: keep embedding rows after the vocabulary, for which there are no tokens.
    """

    size: int
    kept: Sequence[int]
    labels: Mapping[str, Sequence[int]] = field(default_factory=dict)
    keep_extra: bool = False

    def __len__(self) -> int:
        return len(self.kept) + len(self.labels)

    def rows(self, table: Tensor) -> Tensor:
        """Rows of an embedding, an output projection (rows, dim) or its bias (rows,) after the cut, copied.

        Raises:
            ValueError: the table has fewer rows than the vocabulary has tokens.
        """
        if len(table) < self.size:
            raise ValueError(
                f"weights and tokenizer do not fit: {len(table)} embedding rows, {self.size} tokens"
            )
        parts = [table[torch.tensor(self.kept, dtype=torch.long)]]
        parts += [
            table[torch.tensor(ids)].float().mean(0, keepdim=True).to(table) for ids in self.labels.values()
        ]
        if self.keep_extra:
            parts.append(table[self.size :])
        return torch.cat(parts)

    def renumber(self, ids: Iterable[int]) -> list[int]:
        """New ids of old tokens; those that are gone are left out."""
        new = {old: index for index, old in enumerate(self.kept)}
        return [new[i] for i in ids if i in new]


def choose_tokens(
    subwords: Subwords,
    counts: Mapping[int, int],
    min_count: int = 1,
    labels: Optional[Mapping[str, Sequence[int]]] = None,
    keep_extra: bool = False,
) -> VocabularyCut:
    """Keep the tokens that a corpus uses ``min_count`` times, those that build them, and the required ones.

    Args:
        counts: how often the corpus uses each token id.
        labels: new tokens, and the ids of the pieces that each is made of so far.
        keep_extra: see `VocabularyCut`.

    Raises:
        ValueError: the corpus has no token, or a label is a token already or made of no piece.
    """
    labels = dict(labels or {})
    if not any(counts.values()):
        raise ValueError("the corpus has no text")
    ids = {token: index for index, token in enumerate(subwords.tokens)}
    for label, pieces in labels.items():
        if label in ids or not pieces:
            raise ValueError(f"label {label!r}: {'is a token already' if label in ids else 'is empty'}")
    kept = set(subwords.required)
    for index in {index for index, count in counts.items() if count} - subwords.required:
        token = subwords.tokens[index]
        frequent = counts[index] >= min_count
        # what is too rare to stay falls apart, at the worst into characters
        parts = subwords.parts(token) if frequent else token
        kept.update(ids[part] for part in parts if part in ids)
        if frequent:
            kept.add(index)
    return VocabularyCut(len(subwords.tokens), sorted(kept), labels, keep_extra)


def bpe_parts(symbols: Sequence[str], rank: Callable[[str, str], Optional[float]]) -> set[str]:
    """All tokens that byte-pair encoding (Sennrich et al. 2016, arXiv 1508.07909) makes of ``symbols``.

    Args:
        symbols: what merging begins with, e.g. the characters of one token.
        rank: of a pair to be merged, the lowest first and the leftmost among equals; None: never.
    """
    symbols, parts = list(symbols), set(symbols)
    while True:
        ranks = [(rank(*pair), place) for place, pair in enumerate(zip(symbols, symbols[1:]))]
        ranks = [found for found in ranks if found[0] is not None]
        if not ranks:
            return parts
        place = min(ranks)[1]
        symbols[place : place + 2] = ["".join(symbols[place : place + 2])]
        parts.add(symbols[place])


def prune_merges(merges: Iterable[tuple[str, str]], kept: Iterable[str]) -> list[tuple[str, str]]:
    """The merges, in their order, whose two parts and whose result are kept: no token that is gone can arise."""
    kept = set(kept)
    return [
        (left, right) for left, right in merges if left in kept and right in kept and left + right in kept
    ]


class Coverage(NamedTuple):
    """Of held-out texts: share of their tokens that stay, and of the texts that have no other tokens."""

    tokens: float
    texts: float


def coverage(encoded: Sequence[Sequence[int]], cut: VocabularyCut) -> Coverage:
    """How much of texts, as the uncut tokenizer encodes them, the cut leaves as it is.

    Args:
        encoded: old token ids of each text; labels are numbered from ``cut.size`` on.
    """
    kept = {*cut.kept, *range(cut.size, cut.size + len(cut.labels))}
    counts = Counter(i for ids in encoded for i in ids)
    total = sum(counts.values())
    covered = sum(count for i, count in counts.items() if i in kept)
    whole = sum(all(i in kept for i in ids) for ids in encoded)
    return Coverage(covered / total if total else 1.0, whole / len(encoded) if encoded else 1.0)
