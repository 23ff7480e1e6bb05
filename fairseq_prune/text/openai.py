"""OpenAI's files of Whisper's tokenizers (`gpt2.tiktoken`, `multilingual.tiktoken`) as a tokenizer.json.

A line has a token, in base64, and its rank, which is its id. What they leave out is the same for all models: the
special tokens after the ranks, and that a merge joins the two parts that lower ranks make of a token.
"""

import base64
import binascii
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from fairseq_prune.text.byte_level_bpe import (
    END,
    NO_TIMESTAMPS,
    PAD,
    START,
    TIMESTAMPS,
    UNKNOWN,
    ByteLevelBPE,
)

# in the order of their tokens; large-v3 has the last one too
LANGUAGES = (
    "en zh de es ru ko fr ja pt tr pl ca nl ar sv it id hi fi vi he uk el ms cs ro da hu ta no th ur hr bg lt la mi ml"
    " cy sk te fa lv bn sr az sl kn et mk br eu is hy ne mn bs kk sq sw gl mr pa si km sn yo so af oc ka be tg sd gu am"
    " yi lo uz fo ht ps tk nn mt sa lb my bo tl mg as tt haw ln ha ba jw su yue"
).split()
FEWER_LANGUAGES = len(LANGUAGES) - 1


def read_ranks(path, rows: int) -> ByteLevelBPE:
    """The tokenizer of a file of ranks.

    Args:
        path: of the file.
        rows: of the model's embedding, which tells 99 languages from 100.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not a file of ranks.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such tokenizer")
    ranks = _parse(path)
    letters = _byte_letters()
    written = {token: "".join(letters[byte] for byte in token) for token in ranks}
    vocabulary = {written[token]: rank for token, rank in ranks.items()}
    merges = []
    for token in sorted(ranks, key=ranks.get):
        parts = [written[part] for part in _parts(token, ranks)]
        if len(token) > 1 and len(parts) != 2:
            raise ValueError(
                f"{path}: token {ranks[token]}, {token!r}, is not made of two tokens of lower rank"
            )
        merges += [tuple(parts)] if len(token) > 1 else []
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    others = [f"<|{name}|>" for name in ("translate", "transcribe")]
    others = [*others, PAD, UNKNOWN, "<|nospeech|>", NO_TIMESTAMPS, *TIMESTAMPS]
    languages = min(max(rows - len(ranks) - len(others) - 2, FEWER_LANGUAGES), len(LANGUAGES))
    special = [END, START, *(f"<|{name}|>" for name in LANGUAGES[:languages]), *others]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    return ByteLevelBPE(tokenizer.to_str(), name=str(path))


def _parse(path: Path) -> dict[bytes, int]:
    ranks = {}
    try:
        for line in path.read_bytes().splitlines():
            token, rank = line.split()
            ranks[base64.b64decode(token)] = int(rank)
    except (ValueError, binascii.Error):
        ranks = {}
    if sorted(ranks.values()) != list(range(len(ranks))) or any(
        bytes([byte]) not in ranks for byte in range(256)
    ):
        raise ValueError(
            f"{path}: expected a token in base64 and its rank on every line, as in OpenAI's files"
        )
    return ranks


def _parts(token: bytes, ranks: dict[bytes, int]) -> list[bytes]:
    """What merges of lower rank than the token's own leave of it: two parts, if it is a merge itself."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 1:
        joined = [ranks.get(left + right, len(ranks)) for left, right in zip(parts, parts[1:])]
        first = min(range(len(joined)), key=joined.__getitem__)
        if joined[first] >= ranks[token]:
            break
        parts[first : first + 2] = [parts[first] + parts[first + 1]]
    return parts


def _byte_letters() -> list[str]:
    """The letter that byte-level BPE writes for each byte (GPT-2): itself, or one beyond 255 for those unseen."""
    seen = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    unseen = [byte for byte in range(256) if byte not in seen]
    return [chr(byte) if byte in seen else chr(256 + unseen.index(byte)) for byte in range(256)]
