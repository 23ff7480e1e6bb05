"""Our vocabularies as what fairseq calls a BPE: text to symbols and back, for fairseq-generate."""

from typing import Union

from fairseq_prune.text.byte_level_bpe import ByteLevelBPE
from fairseq_prune.text.sentencepiece import SentencePieceVocabulary


class FairseqBPE:
    """A vocabulary with fairseq's interface of a BPE; symbols have spaces between them."""

    def __init__(self, vocabulary: Union[ByteLevelBPE, SentencePieceVocabulary]):
        self.vocabulary = vocabulary

    def encode(self, text: str) -> str:
        return " ".join(self.vocabulary.encode_pieces(text))

    def decode(self, symbols: str) -> str:
        return self.vocabulary.decode(symbols)
