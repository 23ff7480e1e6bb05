"""Reading a `tokenizer.json` of byte-pair encoding (the library tokenizers)."""

import json
from typing import Any

from tokenizers import Tokenizer


def read_description(text: str, name: str) -> dict[str, Any]:
    """The content of a tokenizer.json: ``added_tokens`` is a list, and each merge a string, as old versions read it.

    Args:
        text: of the file.
        name: of the file, for errors.

    Raises:
        ValueError: it is none, or of another model than byte-pair encoding.
    """
    try:
        content = json.loads(text)
        model, decoder = content["model"], (content.get("decoder") or {}).get("type")
        kind = model.get("type", "BPE")
        if kind == "BPE":
            model["merges"] = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
        added = content["added_tokens"] = content.get("added_tokens") or []
        named = all(isinstance(token["content"], str) and "special" in token for token in added)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ValueError(f"{name}: expected a tokenizer.json of the library tokenizers") from None
    if not named:
        raise ValueError(f"{name}: added_tokens: expected the content of each, and whether it is special")
    if kind != "BPE":
        raise ValueError(f"{name}: expected byte-pair encoding, found {kind} with decoder {decoder}")
    return content


def build_tokenizer(description: dict[str, Any], name: str) -> tuple[Tokenizer, list[str]]:
    """The tokenizer of a description, for which names of special tokens in a text are text; and its tokens by id.

    Raises:
        ValueError: the library refuses it, or its ids leave gaps.
    """
    try:
        tokenizer = Tokenizer.from_str(json.dumps(description, ensure_ascii=False))
    except Exception as error:  # the library raises nothing narrower
        raise ValueError(f"{name}: not a tokenizer of the library tokenizers ({error})") from None
    tokenizer.encode_special_tokens = True
    ids = tokenizer.get_vocab(with_added_tokens=True)
    if sorted(ids.values()) != list(range(len(ids))):
        raise ValueError(
            f"{name}: expected ids without gaps, found {len(ids)} tokens up to id {max(ids.values())}"
        )
    return tokenizer, sorted(ids, key=ids.get)
