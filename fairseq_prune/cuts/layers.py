"""Our checkpoints with fewer or narrower layers: where each model has its stacks, and which options count them."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Optional

from fairseq_prune.cuts.base import without_training
from fairseq_prune.pruning.layers import keep_layers
from fairseq_prune.pruning.widths import fewer_heads, fewer_units


class Stack(NamedTuple):
    """A stack of layers: where its keys begin, the option that counts it, and whether its layers are batch first."""

    prefix: str
    option: str
    batch_first: bool


def stacks_of(model_name: str) -> dict[str, Stack]:
    """The stacks of a model, by side: "encoder", "decoder".

    Raises:
        ValueError: it is no model whose layers can go.
    """
    sides = ("encoder", "decoder")
    if model_name.startswith("whisper"):
        return {side: Stack(f"{side}.layers.", f"{side}_layers", True) for side in sides}
    if model_name.startswith("hubert_deltalm"):  # HuBERT becomes smaller by scripts/compress_hubert.py
        return {"decoder": Stack("decoder.layers.", "deltalm_decoder_layers", False)}
    if model_name.startswith("deltalm"):
        return {side: Stack(f"{side}.layers.", f"{side}_layers", False) for side in sides}
    raise ValueError(f"layers of a model {model_name!r}: expected whisper, hubert_deltalm or deltalm")


def with_fewer_layers(
    checkpoint: Mapping[str, Any], kept: Mapping[str, Sequence[int]], path: str
) -> dict[str, Any]:
    """The checkpoint with some layers of its stacks; its configuration counts them.

    What belongs to a training that cannot go on (optimizer, average of weights) is left out.

    Args:
        checkpoint: as `load_checkpoint_file` gives it; left as it is.
        kept: layers from 0, by side.
        path: of the checkpoint, for errors.

    Raises:
        ValueError: no checkpoint of such a model.
    """
    stacks = stacks_of(_model_name(checkpoint))
    new = without_training(checkpoint)
    model, weights = dict(new["cfg"]["model"]), new["model"]
    for side, layers in kept.items():
        if side not in stacks:
            raise ValueError(f"{path}: a model {model['_name']!r} has no {side} whose layers can go")
        weights = keep_layers(weights, stacks[side].prefix, layers)
        model[stacks[side].option] = len(layers)
    new["model"] = weights
    new["cfg"] = {**new["cfg"], "model": model}
    return new


def with_narrower_layers(
    checkpoint: Mapping[str, Any], units: Optional[int], heads: Optional[int], path: str
) -> dict[str, Any]:
    """The checkpoint of a Whisper with fewer feed-forward units and heads in each layer, those that weigh most.

    Args:
        checkpoint: as `load_checkpoint_file` gives it; left as it is.
        units: that each layer keeps; None: all.
        heads: that each attention block keeps; None: all.
        path: of the checkpoint, for errors.

    Raises:
        ValueError: no Whisper, or it has not so many.
    """
    name = _model_name(checkpoint)
    if not name.startswith("whisper"):
        raise ValueError(f"{path}: units and heads of a model {name!r}: expected a Whisper")
    new = without_training(checkpoint)
    model = dict(new["cfg"]["model"])
    if units is not None:
        new["model"] = fewer_units(new["model"], units)
        model["ffn_embed_dim"] = units
    if heads is not None:
        head_dim = model.get("head_dim") or model["embed_dim"] // model["attention_heads"]
        new["model"] = fewer_heads(new["model"], heads, head_dim)
        model["attention_heads"], model["head_dim"] = heads, head_dim
    new["cfg"] = {**new["cfg"], "model": model}
    return new


def _model_name(checkpoint):
    model = ((checkpoint.get("cfg") or {}).get("model") or {}) if "model" in checkpoint else {}
    return str(model.get("_name", "none"))
