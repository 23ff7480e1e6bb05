"""Tokens of byte-level BPE as words: for the times of words, and for captions."""

from collections.abc import Sequence

from fairseq_prune.text.byte_level_bpe import ByteLevelBPE

WITHOUT_SPACES = frozenset("zh ja th lo my yue".split())  # languages that write no spaces between words
OPENING = frozenset("\"'“¿([{-")  # these belong to the word after them
CLOSING = frozenset("\"'.。,，!！?？:：”)]}、")  # and these to the word before
BROKEN = "\ufffd"  # what a part of a character is decoded to
LONGEST_CHARACTER = 4  # bytes, each of which may be a token


def split_characters(tokenizer: ByteLevelBPE, tokens: Sequence[int]) -> list[list[int]]:
    """The smallest groups of tokens that are whole characters: a token may be a part of one."""
    groups: list[list[int]] = []
    unfinished = False
    for token in tokens:
        if unfinished:
            groups[-1].append(token)
        else:
            groups.append([token])
        unfinished = BROKEN in tokenizer.decode(groups[-1]) and len(groups[-1]) < LONGEST_CHARACTER
    return groups


def split_words(tokenizer: ByteLevelBPE, tokens: Sequence[int], language: str = "en") -> list[list[int]]:
    """Groups of tokens that are words, with the punctuation that belongs to them.

    Args:
        tokens: of the text, without special ones.
        language: in those of `WITHOUT_SPACES` each character is a word.
    """
    words: list[list[int]] = []
    opened = False  # the last word is a sign that waits for its word
    for group in split_characters(tokenizer, tokens):
        text = tokenizer.decode(group)
        spaced = text.startswith(" ")
        alone = language in WITHOUT_SPACES and not CLOSING.issuperset(text)
        if words and (opened or not (spaced or alone)):
            words[-1].extend(group)
        else:
            words.append(list(group))
        opened = (spaced or alone or len(words) == 1) and text.strip() in OPENING
    return words
