"""Fewer layers, feed-forward units and attention heads in models of transformers; in place.

A model with fewer heads than its width has is none that transformers can build: `load` of this package reads what
`save_pretrained` wrote of it. The others, `from_pretrained` reads.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from fairseq_prune.pruning.widths import fewer_heads, fewer_units

CONFIG = "attention_heads_left"  # the entry of model.config
ATTENTIONS = ("attention", "self_attn", "encoder_attn")
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "out_proj")
# in the stack of that name: (layers, units) in the configuration
FIELDS = {"encoder": ("encoder_layers", "encoder_ffn_dim"), "decoder": ("decoder_layers", "decoder_ffn_dim")}
ONE_STACK = ("num_hidden_layers", "intermediate_size")


def stack_of(model: nn.Module, stack: str = "encoder") -> nn.Module:
    """The module "encoder" or "decoder" of a model, which has ``layers``.

    Raises:
        ValueError: the model has none.
    """
    for name, module in model.named_modules():
        if name.rpartition(".")[2] == stack and isinstance(getattr(module, "layers", None), nn.ModuleList):
            return module
    raise ValueError(f"a model {type(model).__name__}: expected one with the layers of an {stack}")


def cut_layers(model: nn.Module, keep: Sequence[int], stack: str = "encoder") -> nn.Module:
    """Keep some layers of a stack.

    Args:
        keep: numbers of the layers, counted from 0, in the order that they shall have.
        stack: "encoder" or "decoder".

    Returns:
        the model.

    Raises:
        ValueError: the stack has no such layer, or nothing is kept.
    """
    part = stack_of(model, stack)
    old = part.layers
    if not keep or not set(keep) <= set(range(len(old))) or len(set(keep)) < len(keep):
        raise ValueError(
            f"layers to keep: found {list(keep)}, expected some of 0 to {len(old) - 1}, each once"
        )
    if hasattr(old[0], "pruner"):
        raise ValueError("the layers drop frames: call restore_tokens first, and prune_tokens after the cut")
    part.layers = nn.ModuleList(old[index] for index in keep)
    for place, layer in enumerate(part.layers):
        for attention in _attentions(layer):
            if getattr(attention, "layer_idx", None) is not None:
                attention.layer_idx = place  # of the cache
    relative = getattr(getattr(old[0], "attention", None), "rel_attn_embed", None)
    if relative is not None:  # WavLM: all layers use the first one's
        part.layers[0].attention.rel_attn_embed = relative
    fields = FIELDS[stack] if hasattr(model.config, FIELDS[stack][0]) else ONE_STACK
    setattr(model.config, fields[0], len(keep))
    heads = getattr(getattr(model, "generation_config", None), "alignment_heads", None)
    if heads and stack == "decoder":
        places = {index: place for place, index in enumerate(keep)}
        model.generation_config.alignment_heads = [
            [places[layer], head] for layer, head in heads if layer in places
        ]
    return model


def cut_units(model: nn.Module, units: int, stack: str = "encoder") -> nn.Module:
    """Keep as many feed-forward units in each layer of a stack, those of the largest weights; returns the model.

    Raises:
        ValueError: a layer has not so many.
    """
    for layer in stack_of(model, stack).layers:
        first, second = _feed_forward(layer)
        weights = {
            "encoder.layers.0.fc1.weight": first.weight,
            "encoder.layers.0.fc1.bias": first.bias,
            "encoder.layers.0.fc2.weight": second.weight,
        }
        new = fewer_units(weights, units)
        _put(first, new["encoder.layers.0.fc1.weight"], new["encoder.layers.0.fc1.bias"])
        _put(second, new["encoder.layers.0.fc2.weight"], second.bias)
    fields = FIELDS[stack] if hasattr(model.config, FIELDS[stack][1]) else ONE_STACK
    setattr(model.config, fields[1], units)
    return model


def cut_heads(model: nn.Module, heads: int, stack: str = "encoder") -> nn.Module:
    """Keep as many heads in each attention block of a stack, those of the largest weights; returns the model.

    Raises:
        ValueError: a block has not so many, or the model is a WavLM, whose attention needs all.
    """
    if model.config.model_type == "wavlm":
        raise ValueError("heads of a WavLM: transformers' attention needs as many as its width has")
    for layer in stack_of(model, stack).layers:
        for attention in _attentions(layer):
            weights = {}
            for name in PROJECTIONS:
                projection = getattr(attention, name)
                weights[f"encoder.layers.0.self_attn.{name}.weight"] = projection.weight
                if projection.bias is not None and name != "out_proj":
                    weights[f"encoder.layers.0.self_attn.{name}.bias"] = projection.bias
            new = fewer_heads(weights, heads, attention.head_dim)
            for name in PROJECTIONS:
                projection = getattr(attention, name)
                bias = new.get(f"encoder.layers.0.self_attn.{name}.bias", projection.bias)
                _put(projection, new[f"encoder.layers.0.self_attn.{name}.weight"], bias)
            attention.num_heads = heads
    setattr(model.config, CONFIG, {**(getattr(model.config, CONFIG, None) or {}), stack: heads})
    return model


def fit_heads(model: nn.Module) -> nn.Module:
    """Give a model that transformers built of a configuration the shapes that `cut_heads` noted there."""
    for stack, heads in (getattr(model.config, CONFIG, None) or {}).items():
        cut_heads(model, heads, stack)
    return model


def _attentions(layer: nn.Module) -> Iterator[nn.Module]:
    yield from (getattr(layer, name) for name in ATTENTIONS if hasattr(layer, name))


def _feed_forward(layer: nn.Module) -> tuple[nn.Linear, nn.Linear]:
    inner = getattr(layer, "feed_forward", None)
    return (layer.fc1, layer.fc2) if inner is None else (inner.intermediate_dense, inner.output_dense)


@torch.no_grad()
def _put(linear: nn.Linear, weight: Tensor, bias) -> None:
    """Give a linear map other weights, and the shape of these."""
    linear.weight = nn.Parameter(weight.detach().clone(), linear.weight.requires_grad)
    if bias is not None:
        linear.bias = nn.Parameter(bias.detach().clone(), linear.bias.requires_grad)
    linear.out_features, linear.in_features = weight.shape
