"""Our checkpoints with fewer layers: where each model has its stacks, and which option counts them."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from fairseq_prune.checkpoints.cutting import without_training
from fairseq_prune.pruning.layers import keep_layers


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
    model = ((checkpoint.get("cfg") or {}).get("model") or {}) if "model" in checkpoint else {}
    stacks = stacks_of(str(model.get("_name", "none")))
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
