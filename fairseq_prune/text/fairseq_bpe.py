"""Our vocabularies as what fairseq calls a BPE: text to symbols and back, for fairseq-generate."""

from typing import Union

from fairseq_prune.text.byte_level_bpe import SPACE, ByteLevelBPE
from fairseq_prune.text.dictionaries import Symbols
from fairseq_prune.text.sentencepiece import WORD_START, SentencePieceVocabulary


class FairseqBPE:
    """A vocabulary with fairseq's interface of a BPE; symbols have spaces between them."""

    def __init__(self, vocabulary: Union[ByteLevelBPE, SentencePieceVocabulary]):
        self.vocabulary = vocabulary
        self.mark = SPACE if isinstance(vocabulary, ByteLevelBPE) else WORD_START

    def encode(self, text: str) -> Symbols:
        symbols = " ".join(self.vocabulary.encode_pieces(text))
        return Symbols(symbols, symbols)

    def decode(self, symbols: str) -> str:
        """The text of symbols; text that fairseq has already made of them (``--remove-bpe``) stays text."""
        if isinstance(symbols, Symbols):
            return self.vocabulary.decode(symbols.symbols)
        # a string from elsewhere holds symbols if it has the mark of a word's beginning, which texts do not have
        return self.vocabulary.decode(symbols) if self.mark in symbols else symbols
