"""Whisper's weights from the formats that they are published in: Hugging Face, OpenAI, CTranslate2 (faster-whisper).

Each reader brings the names to those of our modules, which are fairseq's; what it drops it names. Whoever builds the
model loads strictly, so that an unknown name is an error. Float16 becomes float32, which is exact.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional

import torch
from torch import Tensor

from fairseq_prune.checkpoints.huggingface_folder import pruning_options, read_json, read_weights
from fairseq_prune.checkpoints.loading import load_checkpoint_file, usable
from fairseq_prune.checkpoints.whisper.ctranslate2 import read_ctranslate2
from fairseq_prune.checkpoints.whisper.own import WhisperCheckpoint

MULTILINGUAL_ROWS = 51865  # embeddings of multilingual models, or more; English-only ones have 51864

OPENAI_NAMES = (
    (r"\.blocks\.", ".layers."),
    (r"\.attn\.", ".self_attn."),
    (r"\.cross_attn\.", ".encoder_attn."),
    (r"_attn\.(q|k|v)(uery|ey|alue)\.", r"_attn.\1_proj."),
    (r"_attn\.out\.", "_attn.out_proj."),
    (r"\.attn_ln\.", ".self_attn_layer_norm."),
    (r"\.cross_attn_ln\.", ".encoder_attn_layer_norm."),
    (r"\.mlp_ln\.", ".final_layer_norm."),
    (r"\.mlp\.0\.", ".fc1."),
    (r"\.mlp\.2\.", ".fc2."),
    (r"coder\.ln(_post)?\.", "coder.layer_norm."),
    (r"\.token_embedding\.", ".embed_tokens."),
    (r"\.positional_embedding$", ".embed_positions.weight"),
)

# {module of CTranslate2: our modules, whose weights lie in it one after the other}
CTRANSLATE2_MODULES = {
    "self_attention/linear_0": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "self_attention/linear_1": ("self_attn.out_proj",),
    "self_attention/layer_norm": ("self_attn_layer_norm",),
    "attention/linear_0": ("encoder_attn.q_proj",),
    "attention/linear_1": ("encoder_attn.k_proj", "encoder_attn.v_proj"),
    "attention/linear_2": ("encoder_attn.out_proj",),
    "attention/layer_norm": ("encoder_attn_layer_norm",),
    "ffn/linear_0": ("fc1",),
    "ffn/linear_1": ("fc2",),
    "ffn/layer_norm": ("final_layer_norm",),
    "embeddings": ("embed_tokens",),
    "position_encodings": ("embed_positions",),
    **{name: (name,) for name in ("conv1", "conv2", "layer_norm")},
}
CTRANSLATE2_PARAMETERS = {"gamma": "weight", "beta": "bias", "encodings": "weight"}
# what our modules compute: GELU (of the error function) in pre-norm layers, embeddings as they are
CTRANSLATE2_FIXED = {"activation": 3, "pre_norm": 1, "scale_embeddings": 0, "alibi": 0}
EXPECTED = "file, expected a folder of Hugging Face or CTranslate2 (model.bin), or OpenAI's .pt"
HUGGINGFACE_FIXED = {"model_type": "whisper", "activation_function": "gelu", "scale_embedding": False}


def import_whisper(path) -> tuple[WhisperCheckpoint, dict[str, Any]]:
    """Read a folder of Hugging Face or CTranslate2, or a `.pt` of OpenAI.

    Returns:
        The checkpoint, its tokenizer None; and what the source says of itself: "multilingual" (bool), "suppressed"
        (the list of ids that are never generated), "alignment_heads" ([decoder layer, head], whose attention follows
        the speech), each None where it says nothing.

    Raises:
        FileNotFoundError: there is nothing, or a file of the folder is missing.
        ValueError: no Whisper, one that is quantized, or one that our modules cannot express.
    """
    path = Path(path)
    with usable(path):
        if path.is_dir():
            return _from_ctranslate2(path) if (path / "model.bin").is_file() else _from_huggingface(path)
        return _from_openai(path)


def sizes_of(weights: Mapping[str, Tensor], heads: int, path) -> dict[str, int]:
    """The options of `modules.whisper.WhisperSettings` that weights under our names belong to.

    Raises:
        ValueError: a weight that every Whisper has is missing.
    """
    try:
        layers = [
            len({name.split(".")[2] for name in weights if name.startswith(f"{side}.layers.")})
            for side in ("encoder", "decoder")
        ]
        return {
            "embed_dim": weights["decoder.embed_tokens.weight"].shape[1],
            "ffn_embed_dim": weights["encoder.layers.0.fc1.weight"].shape[0],
            "attention_heads": heads,
            "encoder_layers": layers[0],
            "decoder_layers": layers[1],
            "mel_bins": weights["encoder.conv1.weight"].shape[1],
            "max_source_positions": len(weights["encoder.embed_positions.weight"]),
            "max_target_positions": len(weights["decoder.embed_positions.weight"]),
        }
    except KeyError as error:
        raise ValueError(f"{path}: not a Whisper: has no weight {error}") from None


def _checkpoint(weights: Mapping[str, Tensor], heads: set, path) -> WhisperCheckpoint:
    if len(heads) != 1 or not all(isinstance(number, int) for number in heads):
        raise ValueError(
            f"{path}: found {sorted(heads, key=str)} attention heads, expected as many in encoder and decoder"
        )
    weights = {name: value.float() for name, value in weights.items()}
    return WhisperCheckpoint(str(path), sizes_of(weights, *heads, path), weights)


def _from_huggingface(folder: Path) -> tuple[WhisperCheckpoint, dict[str, Any]]:
    config = read_json(folder / "config.json", EXPECTED)
    for name, expected in HUGGINGFACE_FIXED.items():
        if config.get(name, expected) != expected:
            raise ValueError(f"{folder}/config.json: {name} is {config[name]!r}, expected {expected!r}")
    path, weights = read_weights(folder)
    weights = {
        name[len("model.") :] if name.startswith("model.") else name: value for name, value in weights.items()
    }
    _drop_projection(weights, "proj_out.weight", path)
    generation = _read_if_there(folder / "generation_config.json")
    heads = {config.get("encoder_attention_heads"), config.get("decoder_attention_heads")}
    says = {
        "multilingual": generation.get("is_multilingual"),
        "suppressed": _numbers(generation, "suppress_tokens", folder),
        "alignment_heads": _numbers(generation, "alignment_heads", folder, 2),
    }
    checkpoint = _checkpoint(weights, heads, path)
    checkpoint.pruning = pruning_options(config, checkpoint.sizes["encoder_layers"], folder / "config.json")
    return checkpoint, says


def _from_openai(path: Path) -> tuple[WhisperCheckpoint, dict[str, Any]]:
    content = load_checkpoint_file(path)
    if not {"dims", "model_state_dict"} <= set(content):
        raise ValueError(
            f"{path}: expected OpenAI's Whisper ('dims' and 'model_state_dict'), found {sorted(map(str, content))[:5]}"
        )
    weights, dims = {}, content["dims"]
    for name, value in content["model_state_dict"].items():
        for pattern, replacement in OPENAI_NAMES:
            name = re.sub(pattern, replacement, name)
        weights[name] = value
    says = {"multilingual": dims["n_vocab"] >= MULTILINGUAL_ROWS, "suppressed": None, "alignment_heads": None}
    return _checkpoint(weights, {dims["n_audio_head"], dims["n_text_head"]}, path), says


def _from_ctranslate2(folder: Path) -> tuple[WhisperCheckpoint, dict[str, Any]]:
    path = folder / "model.bin"
    kind, variables = read_ctranslate2(path)
    if kind != "WhisperSpec":
        raise ValueError(f"{path}: found a model {kind}, expected WhisperSpec")
    weights, heads = {}, set()
    for name, value in variables.items():
        side, _, rest = name.partition("/")
        if rest == "num_heads":
            heads.add(int(value))
        elif value.dim() == 0:  # settings
            if int(value) != CTRANSLATE2_FIXED.get(rest, int(value)):
                raise ValueError(f"{path}: {name} is {int(value)}, expected {CTRANSLATE2_FIXED[rest]}")
        elif rest.startswith("alignment_"):
            pass  # heads whose attention follows time, for word timestamps
        elif not value.is_floating_point() or name.endswith("_scale"):
            raise ValueError(
                f"{path}: found weights quantized to {value.dtype} ({name}), expected float16 or float32: convert the "
                "model with ct2-transformers-converter --quantization float16"
            )
        else:
            weights.update(_ctranslate2_weights(side, rest, value, path))
    _drop_projection(weights, "decoder.projection.weight", path)
    config = _read_if_there(folder / "config.json")
    says = {
        "multilingual": None,
        "suppressed": _numbers(config, "suppress_ids", folder),
        "alignment_heads": _numbers(config, "alignment_heads", folder, 2),
    }
    return _checkpoint(weights, heads, path), says


def _ctranslate2_weights(side: str, rest: str, value: Tensor, path: Path) -> dict[str, Tensor]:
    """The weights under our names that one variable holds."""
    rest, _, parameter = rest.rpartition("/")
    parameter = CTRANSLATE2_PARAMETERS.get(parameter, parameter)
    layer = re.match(r"layer_(\d+)/", rest)
    module = rest[layer.end() :] if layer else rest
    if (side, module) == ("decoder", "projection"):
        return {f"decoder.projection.{parameter}": value}
    if module not in CTRANSLATE2_MODULES:
        raise ValueError(f"{path}: unknown variable {side}/{rest}/{parameter}, expected those of a Whisper")
    within = f"{side}.layers.{layer.group(1)}." if layer else f"{side}."
    modules = CTRANSLATE2_MODULES[module]
    parts = {f"{within}{name}.{parameter}": part for name, part in zip(modules, value.chunk(len(modules)))}
    for name in [name for name in parts if name.endswith("k_proj.bias")]:  # which Whisper has not, zero here
        if parts.pop(name).count_nonzero():
            raise ValueError(f"{path}: {side}/{rest} has a bias of keys, which Whisper has not")
    return parts


def _drop_projection(weights: dict[str, Tensor], name: str, path: Path) -> None:
    """The output projection is the embedding."""
    projection = weights.pop(name, None)
    embedding: Optional[Tensor] = weights.get("decoder.embed_tokens.weight")
    if projection is not None and (embedding is None or not torch.equal(projection, embedding)):
        raise ValueError(f"{path}: {name} is not the embedding, as in Whisper")


def _numbers(config: Mapping, name: str, folder: Path, size: Optional[int] = None) -> Optional[list]:
    """A list of numbers, or with ``size`` of lists of so many; None where there is none."""
    found = config.get(name)
    for numbers in found if size and isinstance(found, list) else [] if found is None else [found]:
        if (
            not isinstance(numbers, list)
            or len(numbers) != (size or len(numbers))
            or not all(isinstance(number, int) for number in numbers)
        ):
            kind = f"lists of {size} numbers" if size else "a list of numbers"
            raise ValueError(f"{folder}: {name}: found {str(found)[:50]}, expected {kind}")
    return found


def _read_if_there(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}
