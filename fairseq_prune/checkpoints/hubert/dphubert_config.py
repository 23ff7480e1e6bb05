"""The entry "config" of the published DPHuBERT files: what it may hold, before anything is made of it."""

from typing import Any, Union

from fairseq_prune.checkpoints.hubert.torchaudio import EXTRACTOR_MODES

Kind = Union[type, list]  # [kind] is a list of such

# entries that are read, by kind; in lists a number may be 0
ENTRIES: dict[str, Kind] = {
    "extractor_mode": str,
    "extractor_conv_layer_config": [[int]],
    "extractor_conv_bias": bool,
    "encoder_embed_dim": int,
    "encoder_pos_conv_kernel": int,
    "encoder_pos_conv_groups": int,
    "encoder_num_layers": int,
    "encoder_use_attention": [bool],
    "encoder_use_feed_forward": [bool],
    "encoder_ff_interm_features": [int],
    "encoder_layer_norm_first": bool,
    "normalize_waveform": bool,
}
HUBERT_ENTRIES: dict[str, Kind] = {"encoder_num_heads": [int], "encoder_head_dim": int}
WAVLM_ENTRIES: dict[str, Kind] = {
    "encoder_total_num_heads": [int],
    "encoder_remaining_heads": [[int]],
    "encoder_num_buckets": int,
    "encoder_max_distance": int,
}
WORDS = {str: "text", int: "a whole number above 0", bool: "true or false"}


def is_wavlm(config: dict[str, Any]) -> bool:
    """Whether it is the configuration of a WavLM."""
    return "encoder_remaining_heads" in config


def check_dphubert_config(config: dict[str, Any], path) -> None:
    """Raise ValueError, which names ``path`` and the entry, if one is missing or cannot be."""

    def refuse(name, expected):
        raise ValueError(f"{path}: {name} is {config[name]!r}, expected {expected}")

    entries = {**ENTRIES, **(WAVLM_ENTRIES if is_wavlm(config) else HUBERT_ENTRIES)}
    for name, kind in entries.items():
        if name not in config:
            raise ValueError(f"{path}: no file of DPHuBERT: it has no {name!r}")
        if not _fits(config[name], kind) or (config[name] == 0 and kind is int):
            refuse(name, _in_words(kind))
    if config["extractor_mode"] not in EXTRACTOR_MODES.values():
        refuse("extractor_mode", " or ".join(EXTRACTOR_MODES.values()))
    convolutions = config["extractor_conv_layer_config"]
    if not convolutions or any(len(layer) != 3 or 0 in layer for layer in convolutions):
        refuse("extractor_conv_layer_config", "(channels, kernel, stride) of each layer")
    layers = config["encoder_num_layers"]
    for name, kind in entries.items():
        if name.startswith("encoder_") and isinstance(kind, list) and len(config[name]) != layers:
            refuse(name, f"one for each of the {layers} layers")
    if is_wavlm(config):
        totals = set(config["encoder_total_num_heads"])
        if len(totals) != 1 or 0 in totals:
            refuse("encoder_total_num_heads", "one number in all layers")
        total = totals.pop()
        if any(sorted({*kept} & {*range(total)}) != list(kept) for kept in config["encoder_remaining_heads"]):
            refuse("encoder_remaining_heads", f"some of the heads 0 to {total - 1}, in their order")


def _fits(value: Any, kind: Kind) -> bool:
    if isinstance(kind, list):
        return isinstance(value, (list, tuple)) and all(_fits(item, kind[0]) for item in value)
    return type(value) is kind and (kind is not int or value >= 0)


def _in_words(kind: Kind) -> str:
    if isinstance(kind, list):
        inner = "whole numbers" if kind == [int] else _in_words(kind[0])
        return f"a list of {inner}"
    return WORDS[kind]
