"""Vocabulary pruning of a Whisper of transformers, with its tokenizer and generation settings."""

import json
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import nn

from fairseq_prune.pruning.vocabulary import VocabularyCut, choose_tokens
from fairseq_prune.text.byte_level_bpe_cutting import CuttableBPE

# fields of a generation configuration, or of a model's, that hold ids of tokens
TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "no_timestamps_token_id")
TOKENS += ("prev_sot_token_id",)
LISTS = ("suppress_tokens", "begin_suppress_tokens")
BY_NAME = ("lang_to_id", "task_to_id")


def cut_vocabulary(
    model: nn.Module, tokenizer, texts: Iterable[str], min_count: int = 1, keep_timestamps: bool = False
) -> tuple[nn.Module, Any]:
    """Keep the tokens that texts use, and those that Whisper needs; embeddings and settings follow.

    What the texts do not use falls apart into smaller tokens, at worst into bytes: every text can still be written.

    Args:
        model: `WhisperForConditionalGeneration`; changed in place.
        tokenizer: its own; stays as it is.
        texts: what the model shall write.
        min_count: how often the texts must use a token.
        keep_timestamps: keep Whisper's timestamps too.

    Returns:
        the model and the new tokenizer; save both with `save_pretrained`.

    Raises:
        ValueError: the tokenizer is no byte-level BPE, does not fit the model, or the texts are empty.
    """
    subwords = CuttableBPE(tokenizer.backend_tokenizer.to_str(), "tokenizer")
    counts = Counter(index for ids in subwords.encode(texts) for index in ids)
    cut = choose_tokens(subwords.subwords(keep_timestamps), counts, min_count)
    _cut_embeddings(model, cut)
    new = subwords.cut(cut)
    for config in (model.config, model.generation_config):
        _renumber(config, cut)
    if not keep_timestamps:
        model.generation_config.return_timestamps = False
    return model, _rebuilt(tokenizer, new)


def _cut_embeddings(model: nn.Module, cut: VocabularyCut) -> None:
    inputs, outputs = model.get_input_embeddings(), model.get_output_embeddings()
    tied = outputs is not None and outputs.weight is inputs.weight
    for module in (inputs,) if tied or outputs is None else (inputs, outputs):
        module.weight = nn.Parameter(cut.rows(module.weight.detach()))
    if tied:
        outputs.weight = inputs.weight
    if outputs is not None:
        outputs.out_features = len(cut)
    inputs.num_embeddings = len(cut)
    inputs.padding_idx = None if inputs.padding_idx is None else cut.renumber([inputs.padding_idx])[0]
    model.config.vocab_size = len(cut)


def _renumber(config, cut: VocabularyCut) -> None:
    """Give the tokens of a configuration their new ids, in place; those that are gone are left out of lists."""
    for name in TOKENS:
        value = getattr(config, name, None)
        if isinstance(value, int):
            setattr(config, name, cut.renumber([value])[0])
        elif value is not None:
            setattr(config, name, cut.renumber(value))
    for name in LISTS:
        if getattr(config, name, None) is not None:
            setattr(config, name, cut.renumber(getattr(config, name)))
    for name in BY_NAME:
        if getattr(config, name, None) is not None:
            new = {key: cut.renumber([index]) for key, index in getattr(config, name).items()}
            setattr(config, name, {key: ids[0] for key, ids in new.items() if ids})
    if getattr(config, "forced_decoder_ids", None):
        pairs = [(place, index) for place, index in config.forced_decoder_ids if index is not None]
        config.forced_decoder_ids = [[place, *cut.renumber([index])] for place, index in pairs]


def _rebuilt(tokenizer, new: CuttableBPE):
    """A tokenizer of the same class with the tokens that are left."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        new.save(Path(folder))
        model = new.description["model"]
        merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
        # of these older versions make the tokenizer
        Path(folder, "vocab.json").write_text(json.dumps(model["vocab"]), encoding="utf-8")
        Path(folder, "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
        path = Path(folder, "tokenizer_config.json")
        config = json.loads(path.read_text(encoding="utf-8"))
        added = new.description["added_tokens"]
        if "added_tokens_decoder" in config:
            config["added_tokens_decoder"] = {
                str(token["id"]): {key: value for key, value in token.items() if key != "id"}
                for token in added
            }
        path.write_text(json.dumps(config), encoding="utf-8")
        Path(folder, "added_tokens.json").unlink(missing_ok=True)
        return type(tokenizer).from_pretrained(folder)
