"""Cutting what gates close out of a HuBERT."""

from copy import copy
from dataclasses import replace
from typing import Optional

import torch
from torch import Tensor, nn

from fairseq_prune.modules.hubert.encoder import TokenPrunedHubert
from fairseq_prune.modules.hubert.gated import GatedHubert, GateValues
from fairseq_prune.pruning.structured import cut_conv1d, cut_heads, cut_linear, cut_units


@torch.no_grad()
def cut_gates(gated: GatedHubert) -> TokenPrunedHubert:
    """The model that ``gated`` is in evaluation, without gates and without what they close.

    All outputs are the same but for rounding; values of gates are multiplied into weights, and the output biases
    of blocks stay. It lies on the device of ``gated``, in its precision and mode.

    Raises:
        ValueError: as `GatedHubert.check_gates`.
    """
    gated.check_gates()
    masks = gated.masks()
    kept = GateValues(*([_open(mask) for mask in by_index] for by_index in vars(masks).values()))
    channels = _sizes([conv[0].out_channels for conv in gated.feature_extractor.conv_layers], kept.channels)
    cfg = copy(gated.cfg)
    cfg.conv_feature_layers = str(
        [(size, *kernel_stride) for size, kernel_stride in zip(channels, gated.kernels_strides)]
    )
    shapes = replace(
        gated.shapes,
        heads=_sizes(gated.shapes.heads, kept.heads),
        units=_sizes(gated.shapes.units, kept.units),
    )
    small = TokenPrunedHubert(cfg, gated.pruning, gated.normalize, gated.pad_invariant, shapes)
    weights = {**gated.state_dict(), **_cut_extractor(gated, masks, kept), **_cut_layers(gated, masks, kept)}
    small = small.to(gated.mask_emb).train(gated.training)
    small.load_state_dict({name: weights[name] for name in small.state_dict()})
    return small


def _cut_extractor(gated: GatedHubert, masks: GateValues, kept: GateValues) -> dict[str, Tensor]:
    weights, inputs, factors = {}, None, None
    for i, (conv, outputs) in enumerate(zip(gated.feature_extractor.conv_layers, kept.channels)):
        name = f"feature_extractor.conv_layers.{i}"
        weights.update(_named(f"{name}.0", cut_conv1d(conv[0], outputs, inputs, factors)))
        inputs, factors = outputs, _at(masks.channels[i], outputs)
        if inputs is not None:
            norm = _named(f"{name}.2", conv[2])  # an activation has no parameters
            weights.update({key: value[inputs] for key, value in norm.items()})
    if inputs is not None:
        norm = _named("layer_norm", gated.layer_norm)
        weights.update({key: value[inputs] for key, value in norm.items()})
        projection = cut_linear(gated.post_extract_proj, inputs=inputs, scale=factors)
        weights.update(_named("post_extract_proj", projection))
    return weights


def _cut_layers(gated: GatedHubert, masks: GateValues, kept: GateValues) -> dict[str, Tensor]:
    weights = {}
    for i, (layer, heads, units) in enumerate(zip(gated.encoder.layers, kept.heads, kept.units)):
        if heads is not None and len(heads):
            names = [f"{part}_proj" for part in ("q", "k", "v", "out")]
            projections = [getattr(layer.self_attn, name) for name in names]
            cut = cut_heads(*projections, heads, gated.shapes.head_dim, _at(masks.heads[i], heads))
            for name, projection in zip(names, cut):
                weights.update(_named(f"encoder.layers.{i}.self_attn.{name}", projection))
            if gated.relative_position is not None:
                gate = gated.relative_position.layers[str(i)]
                for name in ("scale", "heads"):
                    weights[f"relative_position.layers.{i}.{name}"] = getattr(gate, name)[heads]
        if units is not None and len(units):
            first, second = cut_units(layer.fc1, layer.fc2, units, _at(masks.units[i], units))
            weights.update(_named(f"encoder.layers.{i}.fc1", first))
            weights.update(_named(f"encoder.layers.{i}.fc2", second))
    return weights


def _named(prefix: str, module: nn.Module) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": value for name, value in module.state_dict().items()}


def _open(mask: Optional[Tensor]) -> Optional[Tensor]:
    return None if mask is None else mask.nonzero().flatten()


def _at(mask: Optional[Tensor], index: Optional[Tensor]) -> Optional[Tensor]:
    return None if mask is None else mask[index]


def _sizes(dense: list[int], kept: list[Optional[Tensor]]) -> list[int]:
    return [size if index is None else len(index) for size, index in zip(dense, kept)]
