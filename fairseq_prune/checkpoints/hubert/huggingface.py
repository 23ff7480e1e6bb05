"""Reading folders of Hugging Face with HuBERT, wav2vec 2.0 or WavLM: config.json and weights."""

import re

import torch

from fairseq_prune.checkpoints.hubert.wavlm import (
    POSITION_MODULES,
    POSITION_PARAMETERS,
    finish_position_gates,
    relative_position_shapes,
)
from fairseq_prune.checkpoints.huggingface_folder import read_json, read_weights
from fairseq_prune.modules.hubert.architecture import check_architecture

CONV_NORMS = {"group": "default", "layer": "layer_norm"}
ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_accurate", "relu": "relu"}
# what fairseq's HubertModel has no option for: {field of config.json: (its default there, what fairseq does)}
FIXED = {
    "feat_extract_activation": ("gelu", "gelu"),
    "feat_proj_layer_norm": (True, True),
    "layer_norm_eps": (1e-5, 1e-5),
    "add_adapter": (False, False),  # this and the next one: not of HuBERT
    "adapter_attn_dim": (None, None),
}

# {module in transformers: module in fairseq}; the module's parameters keep their names, but for RENAMED
MODULES = {
    r"feature_extractor\.conv_layers\.(\d+)\.conv": r"feature_extractor.conv_layers.\1.0",
    r"feature_projection\.layer_norm": "layer_norm",
    r"feature_projection\.projection": "post_extract_proj",
    r"encoder\.layer_norm": "encoder.layer_norm",
    r"encoder\.layers\.(\d+)\.attention\.([qkv]|out)_proj": r"encoder.layers.\1.self_attn.\2_proj",
    r"encoder\.layers\.(\d+)\.layer_norm": r"encoder.layers.\1.self_attn_layer_norm",
    r"encoder\.layers\.(\d+)\.feed_forward\.intermediate_dense": r"encoder.layers.\1.fc1",
    r"encoder\.layers\.(\d+)\.feed_forward\.output_dense": r"encoder.layers.\1.fc2",
    r"encoder\.layers\.(\d+)\.final_layer_norm": r"encoder.layers.\1.final_layer_norm",
}
GROUP_NORM = {r"feature_extractor\.conv_layers\.0\.layer_norm": "feature_extractor.conv_layers.0.2"}
LAYER_NORM = {r"feature_extractor\.conv_layers\.(\d+)\.layer_norm": r"feature_extractor.conv_layers.\1.2.1"}
# newer torch keeps the two factors of a weight norm in a submodule
WEIGHT_NORM = {r"encoder\.pos_conv_embed\.conv(\.parametrizations\.weight)?": "encoder.pos_conv.0"}
BATCH_NORM = {
    r"encoder\.pos_conv_embed\.batch_norm": "encoder.pos_conv.0",
    r"encoder\.pos_conv_embed\.conv": "encoder.pos_conv.1",
}
RENAMED = {"original0": "weight_g", "original1": "weight_v", **POSITION_PARAMETERS}
# heads, by model type; dropped
HEADS = {
    "hubert": re.compile(r"lm_head\.(weight|bias)"),
    "wav2vec2": re.compile(
        r"(lm_head|project_q|project_hid|quantizer\.weight_proj)\.(weight|bias)|quantizer\.codevectors"
    ),
    "wavlm": re.compile(r"lm_head\.(weight|bias)"),
}


def read_huggingface_hubert(folder):
    """Read a HuBERT, wav2vec 2.0 or WavLM, also with its heads, that `save_pretrained` of transformers wrote.

    Returns:
        (fields of fairseq's HubertConfig, normalize, state dict under the names of fairseq's HubertModel); of WavLM
        also the field "pruned" and the weights of `modules.relative_position`

    Raises:
        FileNotFoundError: config.json or the weights are missing.
        ValueError: no such model, or one that fairseq's HubertModel cannot express.
    """
    huggingface = read_json(
        folder / "config.json", "file, expected a Hugging Face folder or a fairseq checkpoint"
    )
    kind = huggingface.get("model_type")
    if kind not in HEADS:
        raise ValueError(f"{folder / 'config.json'}: model_type is {kind!r}, expected {' or '.join(HEADS)}")
    try:
        config = check_architecture(_fairseq_config(huggingface))
    except ValueError as error:
        raise ValueError(f"{folder / 'config.json'}: {error}") from None
    path, weights = read_weights(folder)
    modules = {
        **MODULES,
        **(LAYER_NORM if config["extractor_mode"] == "layer_norm" else GROUP_NORM),
        **(BATCH_NORM if config["conv_pos_batch_norm"] else WEIGHT_NORM),
        **(POSITION_MODULES if kind == "wavlm" else {}),
    }
    weights = {
        _fairseq_key(key, kind, modules, path): value
        for key, value in weights.items()
        if not HEADS[kind].fullmatch(key)
    }
    if kind == "wavlm":
        config["pruned"] = relative_position_shapes(huggingface, config)
        finish_position_gates(weights)
    # absent where masking was off in training; a masked frame is then simply empty
    weights.setdefault("mask_emb", torch.zeros(config["encoder_embed_dim"]))
    return config, _normalizes(folder, huggingface), weights


def _fairseq_config(huggingface):
    for name, (default, fixed) in FIXED.items():
        value = huggingface.get(name, default)
        if value != fixed:
            raise ValueError(f"{name} is {value!r}, but fairseq's HuBERT has {fixed!r}")
    norm = _translate(huggingface, "feat_extract_norm", "group", CONV_NORMS)
    channels = huggingface.get("conv_dim", [512] * 7)
    kernels = huggingface.get("conv_kernel", [10, 3, 3, 3, 3, 2, 2])
    strides = huggingface.get("conv_stride", [5, 2, 2, 2, 2, 2, 2])
    lists = [channels, kernels, strides]
    if not all(isinstance(sizes, list) and 0 < len(sizes) == len(channels) for sizes in lists):
        raise ValueError(f"conv_dim, conv_kernel and conv_stride are {lists}, expected lists of one length")
    embed_dim = huggingface.get("hidden_size", 768)
    if channels[-1] == embed_dim:
        raise ValueError(
            f"conv_dim ends with hidden_size ({embed_dim}); fairseq's HuBERT projects nothing then"
        )
    return {
        "extractor_mode": norm,
        "conv_feature_layers": str(list(zip(channels, kernels, strides))),
        "conv_bias": huggingface.get("conv_bias", False),
        "encoder_layers": huggingface.get("num_hidden_layers", 12),
        "encoder_embed_dim": embed_dim,
        "encoder_ffn_embed_dim": huggingface.get("intermediate_size", 3072),
        "encoder_attention_heads": huggingface.get("num_attention_heads", 12),
        "activation_fn": _translate(huggingface, "hidden_act", "gelu", ACTIVATIONS),
        "layer_type": "transformer",
        "layer_norm_first": huggingface.get("do_stable_layer_norm", False),
        "conv_pos": huggingface.get("num_conv_pos_embeddings", 128),
        "conv_pos_groups": huggingface.get("num_conv_pos_embedding_groups", 16),
        "conv_pos_batch_norm": huggingface.get("conv_pos_batch_norm", False),
    }


def _translate(huggingface, name, default, choices):
    value = huggingface.get(name, default)
    if value not in choices:
        raise ValueError(f"{name} is {value!r}, fairseq's HuBERT has {' or '.join(choices)}")
    return choices[value]


def _fairseq_key(key, kind, modules, path):
    bare = key[len(kind) + 1 :] if key.startswith(f"{kind}.") else key
    if bare == "masked_spec_embed":
        return "mask_emb"
    module, _, parameter = bare.rpartition(".")
    for pattern, replacement in modules.items():
        match = re.fullmatch(pattern, module)
        if match:
            return f"{match.expand(replacement)}.{RENAMED.get(parameter, parameter)}"
    raise ValueError(f"{path}: unknown weight {key!r}, expected those of a model {kind!r}")


def _normalizes(folder, huggingface):
    """What the feature extractor beside the model says, else what the published models of this kind do.

    It says true for HuBERT-base too, which fairseq trained without; its group norm makes them the same.
    """
    path = folder / "preprocessor_config.json"
    if path.is_file():
        return read_json(path).get("do_normalize", True)
    return huggingface.get("feat_extract_norm", "group") == "layer"
