"""Opening a sentencepiece model, and matching its pieces with the symbols of a fairseq dictionary."""

from collections.abc import Mapping

import sentencepiece


def open_model(model: bytes, name: str) -> sentencepiece.SentencePieceProcessor:
    """The processor of a serialised model.

    Raises:
        ValueError: the bytes are no model; ``name`` says where they are from.
    """
    try:
        # the library takes no bytes for no model, and fails later
        processor = sentencepiece.SentencePieceProcessor(model_proto=model) if model else None
    except RuntimeError:
        processor = None
    if processor is None:
        raise ValueError(f"{name}: expected a sentencepiece model, found {len(model)} bytes that are not one")
    return processor


def rows_of_pieces(
    processor: sentencepiece.SentencePieceProcessor, rows: Mapping[str, int], unknown: int, name: str
) -> list[int]:
    """The row in the dictionary of each piece of the model.

    Args:
        rows: of the dictionary, by symbol.
        unknown: row of control pieces that are no symbol.
        name: of the files, for errors.

    Raises:
        ValueError: a piece that texts are cut into is no symbol: it would turn into unk.
    """
    pieces = [processor.id_to_piece(index) for index in range(processor.get_piece_size())]
    missing = [
        piece
        for index, piece in enumerate(pieces)
        if piece not in rows
        and not (processor.is_control(index) or processor.is_unknown(index) or processor.is_unused(index))
    ]
    if missing:
        raise ValueError(
            f"{name}: the sentencepiece model and the dictionary do not fit: {len(missing)} of {len(pieces)} pieces "
            f"are not among the {len(rows)} symbols, the first is {missing[0]!r}"
        )
    return [rows.get(piece, unknown) for piece in pieces]
