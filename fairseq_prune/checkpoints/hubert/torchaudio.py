"""The names and options of torchaudio's `Wav2Vec2Model`, which the published DPHuBERT files have too."""

import re
from typing import Any

from torch import Tensor

from fairseq_prune.modules.hubert.encoder import TokenPrunedHubert

# {beginning of a name of fairseq's HubertModel: beginning of torchaudio's}
NAMES = {
    r"feature_extractor\.conv_layers\.(\d+)\.0\.": r"feature_extractor.conv_layers.\1.conv.",
    r"feature_extractor\.conv_layers\.(\d+)\.2\.(?:1\.)?": r"feature_extractor.conv_layers.\1.layer_norm.",
    r"layer_norm\.": r"encoder.feature_projection.layer_norm.",
    r"post_extract_proj\.": r"encoder.feature_projection.projection.",
    r"encoder\.pos_conv\.0\.": r"encoder.transformer.pos_conv_embed.conv.",
    r"encoder\.layer_norm\.": r"encoder.transformer.layer_norm.",
    r"encoder\.layers\.(\d+)\.self_attn\.": r"encoder.transformer.layers.\1.attention.",
    r"encoder\.layers\.(\d+)\.self_attn_layer_norm\.": r"encoder.transformer.layers.\1.layer_norm.",
    r"encoder\.layers\.(\d+)\.fc1\.": r"encoder.transformer.layers.\1.feed_forward.intermediate_dense.",
    r"encoder\.layers\.(\d+)\.fc2\.": r"encoder.transformer.layers.\1.feed_forward.output_dense.",
    r"encoder\.layers\.(\d+)\.final_layer_norm\.": r"encoder.transformer.layers.\1.final_layer_norm.",
}
DROPPED = {"mask_emb"}  # torchaudio has it in the model for pretraining only
EXTRACTOR_MODES = {"default": "group_norm", "layer_norm": "layer_norm"}


def conv_layers(encoder: TokenPrunedHubert) -> list[tuple[int, int, int]]:
    """(channels, kernel, stride) of each convolution."""
    convs = encoder.feature_extractor.conv_layers
    return [(conv[0].out_channels, *step) for conv, step in zip(convs, encoder.kernels_strides)]


def torchaudio_options(encoder: TokenPrunedHubert) -> dict[str, Any]:
    """Arguments of `torchaudio.models.wav2vec2_model`, but for heads and feed-forward units."""
    cfg = encoder.cfg
    return {
        "extractor_mode": EXTRACTOR_MODES[cfg.extractor_mode],
        "extractor_conv_layer_config": conv_layers(encoder),
        "extractor_conv_bias": cfg.conv_bias,
        "encoder_embed_dim": cfg.encoder_embed_dim,
        "encoder_projection_dropout": cfg.dropout_input,
        "encoder_pos_conv_kernel": cfg.conv_pos,
        "encoder_pos_conv_groups": cfg.conv_pos_groups,
        "encoder_num_layers": cfg.encoder_layers,
        "encoder_attention_dropout": cfg.attention_dropout,
        "encoder_ff_interm_dropout": cfg.activation_dropout,
        "encoder_dropout": cfg.dropout,
        "encoder_layer_norm_first": cfg.layer_norm_first,
        "encoder_layer_drop": cfg.encoder_layerdrop,
        "aux_num_out": None,
    }


def to_torchaudio(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights under torchaudio's names.

    Raises:
        ValueError: a name that torchaudio's model has no place for.
    """
    return {
        _renamed(name, NAMES, "fairseq's HubertModel"): value
        for name, value in weights.items()
        if name not in DROPPED
    }


def from_torchaudio(weights: dict[str, Tensor], extractor_mode: str) -> dict[str, Tensor]:
    """Weights under fairseq's names, without ``mask_emb``.

    Args:
        extractor_mode: fairseq's, "default" or "layer_norm", which puts the norms at other places.

    Raises:
        ValueError: a name that is not torchaudio's.
    """
    back = {}
    for theirs, ours in NAMES.items():
        name = theirs.replace(r"(?:1\.)?", "1." if extractor_mode == "layer_norm" else "")
        back[re.escape(ours).replace(r"\\1", r"(\d+)")] = name.replace(r"(\d+)", r"\1").replace(r"\.", ".")
    return {_renamed(name, back, "torchaudio's model"): value for name, value in weights.items()}


def _renamed(name, names, whose):
    for pattern, other in names.items():
        match = re.match(pattern, name)
        if match:
            return match.expand(other) + name[match.end() :]
    raise ValueError(f"unknown weight {name!r}, expected those of {whose}")
