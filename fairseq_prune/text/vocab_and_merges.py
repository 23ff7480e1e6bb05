"""The older files of a byte-level BPE: vocab.json and merges.txt (GPT-2), as a tokenizer.json."""

import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from fairseq_prune.text.lines import read_lines, read_text

VOCABULARY, MERGES = "vocab.json", "merges.txt"
ADDED, CONFIG = "added_tokens.json", "tokenizer_config.json"


def tokenizer_json_of(folder: Path) -> str:
    """The text of the tokenizer.json that the older files of a folder amount to.

    Tokens that are not in vocab.json are those of added_tokens.json, or else of tokenizer_config.json.

    Raises:
        FileNotFoundError: vocab.json or merges.txt is missing.
        ValueError: names the file that is none of these, or the token whose id leaves a gap.
    """
    vocabulary = _ids(folder / VOCABULARY)
    merges = [
        tuple(line.split(" "))
        for line in read_lines(folder / MERGES)
        if line and not line.startswith("#version")
    ]
    wrong = next((merge for merge in merges if len(merge) != 2 or "".join(merge) not in vocabulary), None)
    if wrong is not None:
        raise ValueError(
            f"{folder / MERGES}: expected two parts of a token of {VOCABULARY}, found {' '.join(wrong)!r}"
        )
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    added = _added(folder)
    within = {token: index for token, index in vocabulary.items() if _is_special(token)}
    # the library numbers added tokens on; those that the vocabulary has already keep their ids
    for token, index in [*within.items(), *sorted(added.items(), key=lambda item: item[1])]:
        tokenizer.add_tokens([AddedToken(token, normalized=False, special=_is_special(token))])
        if tokenizer.token_to_id(token) != index:
            raise ValueError(
                f"{folder}: token {token!r} has id {index}, expected the next one, {tokenizer.token_to_id(token)}"
            )
    return tokenizer.to_str()


def _is_special(token: str) -> bool:
    return token.startswith("<|") and token.endswith("|>")


def _ids(path: Path) -> dict[str, int]:
    try:
        ids = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not readable as JSON ({error})") from None
    if not isinstance(ids, dict) or not all(type(index) is int for index in ids.values()):
        raise ValueError(f"{path}: expected an object of tokens and their ids")
    return ids


def _added(folder: Path) -> dict[str, int]:
    if (folder / ADDED).is_file():
        return _ids(folder / ADDED)
    if not (folder / CONFIG).is_file():
        return {}
    try:
        listed = json.loads(read_text(folder / CONFIG)).get("added_tokens_decoder") or {}
        return {token["content"]: int(index) for index, token in listed.items()}
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ValueError(f"{folder / CONFIG}: expected an object with added_tokens_decoder") from None
