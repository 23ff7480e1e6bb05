"""The files of the published DPHuBERT code: ``config`` and ``state_dict``, in torchaudio's names with lists by layer.

A block that pruning took away leaves its output bias here, which the published model has no place for. In such a file
the block is one head, or one unit, of zero weights with that bias; only a bias of zero lets the block go.
"""

from typing import Any

import torch
from torch import Tensor

from fairseq_prune.checkpoints.hubert.dphubert_config import check_dphubert_config, is_wavlm
from fairseq_prune.checkpoints.hubert.torchaudio import (
    EXTRACTOR_MODES,
    from_torchaudio,
    to_torchaudio,
    torchaudio_options,
)
from fairseq_prune.modules.hubert.encoder import TokenPrunedHubert
from fairseq_prune.modules.hubert.shapes import HubertShapes

PRUNE_FLAGS = (
    "extractor_prune_conv_channels",
    "encoder_prune_attention_heads",
    "encoder_prune_attention_layer",
    "encoder_prune_feed_forward_intermediate",
    "encoder_prune_feed_forward_layer",
)
# factors of the last convolution's channels in front of the layer norm; what is cut here has none
CHANNEL_SCALE = "feature_extractor.dummy_weight"
OUR_SCALE = "feature_extractor.conv_layers.{}.scale.weight"
LAYER = "encoder.transformer.layers.{}."
GRU = "attention.gru_rel_pos_"  # WavLM's gates of relative positions
TABLE = LAYER.format(0) + "attention.rel_attn_embed.weight"


def dphubert_file(encoder: TokenPrunedHubert) -> dict[str, Any]:
    """What the published code writes and loads: {"config": ..., "state_dict": ...}.

    Raises:
        ValueError: the encoder has something that the published model has no place for.
    """
    cfg, shapes = encoder.cfg, encoder.shapes
    check_plain(encoder)
    channels = [conv[0].out_channels for conv in encoder.feature_extractor.conv_layers]
    ours = {name: value for name, value in encoder.state_dict().items() if "relative_position." not in name}
    scale = ours.pop(OUR_SCALE.format(len(channels) - 1), torch.ones(channels[-1]))
    weights = {CHANNEL_SCALE: scale, **to_torchaudio(ours), **projection_of(encoder)}
    wavlm = encoder.relative_position is not None
    heads, units, remaining = [], [], []
    for index in range(len(shapes.heads)):
        # WavLM's table of positions lies in the first attention
        heads.append(_fill_attention(weights, index, shapes, wavlm and index == 0))
        units.append(_fill_feed_forward(weights, index, shapes.units[index], cfg.encoder_embed_dim))
        for norm in ("layer_norm", "final_layer_norm"):  # layers have both in the file, used or not
            name = LAYER.format(index) + norm
            weights.setdefault(name + ".weight", torch.ones(cfg.encoder_embed_dim))
            weights.setdefault(name + ".bias", torch.zeros(cfg.encoder_embed_dim))
    if wavlm:
        remaining = _fill_relative_positions(weights, encoder, heads)
        total = encoder.relative_position.num_heads
        by_head = {
            "encoder_total_num_heads": [total] * len(heads),
            "encoder_remaining_heads": remaining,
            "encoder_num_buckets": shapes.relative_buckets,
            "encoder_max_distance": shapes.relative_distance,
        }
    else:
        by_head = {"encoder_num_heads": heads, "encoder_head_dim": shapes.head_dim}
    config = {
        **torchaudio_options(encoder),
        "encoder_use_attention": [size > 0 for size in heads],
        "encoder_use_feed_forward": [size > 0 for size in units],
        **by_head,
        "encoder_ff_interm_features": units,
        "normalize_waveform": encoder.normalize,
        **dict.fromkeys(PRUNE_FLAGS, False),
    }
    return {"config": config, "state_dict": {name: value.detach().clone() for name, value in weights.items()}}


def check_plain(encoder: TokenPrunedHubert) -> None:
    """Raise ValueError if torchaudio's model could not compute what the encoder does."""
    cfg = encoder.cfg
    for name, found, expected in (
        ("activation_fn", str(cfg.activation_fn), "gelu"),
        ("conv_pos_batch_norm", bool(getattr(cfg, "conv_pos_batch_norm", False)), False),
    ):
        if found != expected:
            raise ValueError(f"the format knows no {name} but {expected}, found {found}")


def projection_of(encoder: TokenPrunedHubert) -> dict[str, Tensor]:
    """The projection to the transformer's width, where the encoder does without: the identity."""
    if encoder.post_extract_proj is not None:
        return {}
    prefix, dim = "encoder.feature_projection.projection.", encoder.cfg.encoder_embed_dim
    return {prefix + "weight": torch.eye(dim), prefix + "bias": torch.zeros(dim)}


def _fill_attention(weights, index, shapes, keep) -> int:
    """Heads of a layer in the file, whose attention may stand for a bias alone."""
    if shapes.heads[index]:
        return shapes.heads[index]
    name = LAYER.format(index) + "attention."
    bias = weights[name + "out_proj.bias"]
    if not bias.any() and not keep:
        del weights[name + "out_proj.bias"]
        return 0
    dim = len(bias)
    for part in ("q_proj", "k_proj", "v_proj"):
        weights[f"{name}{part}.weight"] = torch.zeros(shapes.head_dim, dim)
        weights[f"{name}{part}.bias"] = torch.zeros(shapes.head_dim)
    weights[name + "out_proj.weight"] = torch.zeros(dim, shapes.head_dim)
    return 1


def _fill_feed_forward(weights, index, units, dim) -> int:
    """Units of a layer in the file, whose feed-forward block may stand for a bias alone."""
    if units:
        return units
    name = LAYER.format(index) + "feed_forward."
    if not weights[name + "output_dense.bias"].any():
        del weights[name + "output_dense.bias"]
        return 0
    weights[name + "intermediate_dense.weight"] = torch.zeros(1, dim)
    weights[name + "intermediate_dense.bias"] = torch.zeros(1)
    weights[name + "output_dense.weight"] = torch.zeros(dim, 1)
    return 1


def _fill_relative_positions(weights, encoder, heads) -> list[list[int]]:
    """WavLM's table and gates; the heads that remain in each layer of the file."""
    relative, remaining = encoder.relative_position, []
    weights[TABLE] = relative.table.weight
    for index, count in enumerate(heads):
        if not count:
            remaining.append([])
            continue
        name, scale = LAYER.format(index) + GRU, torch.ones(relative.num_heads)
        gate = dict(relative.layers.items()).get(str(index))
        kept = [0] if gate is None else gate.heads.tolist()
        head_dim = encoder.shapes.head_dim
        if gate is not None:
            scale[kept] = gate.scale.detach().cpu()
        weights[name + "linear.weight"] = torch.zeros(8, head_dim) if gate is None else gate.linear.weight
        weights[name + "linear.bias"] = torch.zeros(8) if gate is None else gate.linear.bias
        weights[name + "const"] = scale.view(1, -1, 1, 1)
        remaining.append(kept)
    return remaining


def read_dphubert_file(checkpoint: dict, path) -> tuple[dict[str, Any], bool, dict[str, Tensor]]:
    """The way back, of what `load_checkpoint_file` read.

    Returns:
        (fields of `HubertCheckpoint.config`, normalize, weights under fairseq's names)

    Raises:
        ValueError: an entry or a weight is missing, or means what our encoder has no place for.
    """
    config, weights = checkpoint["config"], dict(checkpoint["state_dict"])
    check_dphubert_config(config, path)
    for name, value in weights.items():
        if not isinstance(value, Tensor):
            raise ValueError(f"{path}: {name} is {value!r}, expected a tensor")
    architecture = _architecture(config, _is_scaled(weights))
    try:
        return architecture, config["normalize_waveform"], _weights(config, weights)
    except KeyError as error:
        raise ValueError(f"{path}: no file of DPHuBERT: it has no {error}") from error


def _architecture(config, scaled) -> dict[str, Any]:
    modes = {theirs: ours for ours, theirs in EXTRACTOR_MODES.items()}
    convolutions = [tuple(layer) for layer in config["extractor_conv_layer_config"]]
    wavlm = is_wavlm(config)
    if wavlm:
        heads = [len(kept) for kept in config["encoder_remaining_heads"]]
        head_dim = config["encoder_embed_dim"] // config["encoder_total_num_heads"][0]
    else:
        heads, head_dim = config["encoder_num_heads"], config["encoder_head_dim"]
    used = config["encoder_use_attention"]
    shapes = HubertShapes(
        [size if use else 0 for size, use in zip(heads, used)],
        [
            size if use else 0
            for size, use in zip(config["encoder_ff_interm_features"], config["encoder_use_feed_forward"])
        ],
        head_dim,
        projection=True,
        relative_buckets=config["encoder_num_buckets"] if wavlm else 0,
        relative_distance=config["encoder_max_distance"] if wavlm else 800,
        channel_scale=scaled,
    )
    return {
        "extractor_mode": modes[config["extractor_mode"]],
        "conv_feature_layers": str(convolutions),
        "conv_bias": config["extractor_conv_bias"],
        "encoder_layers": config["encoder_num_layers"],
        "encoder_embed_dim": config["encoder_embed_dim"],
        # of a layer that was not cut
        "encoder_ffn_embed_dim": max([1, *shapes.units]),
        "encoder_attention_heads": config["encoder_embed_dim"] // head_dim,
        "layer_norm_first": config["encoder_layer_norm_first"],
        "conv_pos": config["encoder_pos_conv_kernel"],
        "conv_pos_groups": config["encoder_pos_conv_groups"],
        "pruned": shapes.to_dict(),
    }


def _weights(config, weights) -> dict[str, Tensor]:
    dim = config["encoder_embed_dim"]
    relative = {}
    if is_wavlm(config):
        relative["relative_position.table.weight"] = weights.pop(TABLE)
        for index, kept in enumerate(config["encoder_remaining_heads"]):
            if not (kept and config["encoder_use_attention"][index]):
                continue
            theirs, ours = LAYER.format(index) + GRU, f"relative_position.layers.{index}."
            for part in ("weight", "bias"):
                relative[f"{ours}linear.{part}"] = weights.pop(f"{theirs}linear.{part}")
            relative[ours + "heads"] = torch.tensor(kept)
            relative[ours + "scale"] = weights.pop(theirs + "const").flatten()[kept]
    for index, (attends, feeds) in enumerate(
        zip(config["encoder_use_attention"], config["encoder_use_feed_forward"])
    ):
        layer = LAYER.format(index)
        for used, last, norm in (
            (attends, "attention.out_proj", "layer_norm"),
            (feeds, "feed_forward.output_dense", "final_layer_norm"),
        ):
            if not used:
                weights[f"{layer}{last}.bias"] = torch.zeros(dim)
                if config["encoder_layer_norm_first"]:
                    weights = {name: w for name, w in weights.items() if not name.startswith(layer + norm)}
    mode = "layer_norm" if config["extractor_mode"] == "layer_norm" else "default"
    others = {"mask_emb": torch.zeros(dim)}
    if _is_scaled(weights):
        others[OUR_SCALE.format(len(config["extractor_conv_layer_config"]) - 1)] = weights[CHANNEL_SCALE]
    weights.pop(CHANNEL_SCALE, None)
    return {**from_torchaudio(weights, mode), **relative, **others}


def _is_scaled(weights) -> bool:
    scale = weights.get(CHANNEL_SCALE)
    return scale is not None and not torch.equal(scale, torch.ones_like(scale))
