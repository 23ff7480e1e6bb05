"""Sparse checkpoints: their masks, their final form without a trace of pruning, and a compressed one.

The compressed form is a checkpoint of fairseq in which each tensor that is sparse enough is a bit a weight and the
values of the weights that are not zero. With this package loaded it is read like any other, by fairseq too.
"""

import re
from collections.abc import Mapping
from typing import Optional

import torch
from torch import Tensor

from fairseq_prune import compat
from fairseq_prune.checkpoints.half_precision import KEY as HALF
from fairseq_prune.checkpoints.half_precision import in_single
from fairseq_prune.pruning.magnitude import (
    TRANSFORMER_LAYERS,
    Masks,
    apply_masks,
    check_masks,
    pack_masks,
    unpack_masks,
)

STATE = "magnitude_pruning"  # the key of the pruning state among the weights
COMPACT = "compact_weights"  # the key that a compressed checkpoint has beside "model"
RECOGNISER = "w2v_encoder.w2v_model."  # before the names of the encoder in models fine-tuned with CTC
FINAL_MODELS = {"wav2vec_ctc_parp": "wav2vec_ctc", "hubert_ctc_parp": "hubert_ctc"}


def weights_of(checkpoint: Mapping, path) -> dict[str, Tensor]:
    """The tensors under "model", without the state of pruning.

    Raises:
        ValueError: not a checkpoint of fairseq.
    """
    model = checkpoint.get("model")
    if not isinstance(model, dict):
        raise ValueError(
            f"{path}: not a checkpoint of fairseq: found {list(checkpoint)[:5]}, expected 'model'"
        )
    weights = {name: value for name, value in model.items() if name != STATE}
    others = [name for name, value in weights.items() if not isinstance(value, Tensor)]
    if others or not weights:
        found = f"{others[0]}: {type(model[others[0]]).__name__}" if others else "nothing"
        raise ValueError(f"{path}: expected tensors under 'model', found {found}")
    return weights


def pruned_set(checkpoint: Mapping, path, pattern: Optional[str] = None) -> list[str]:
    """Names of the weights that were pruned, or that ``pattern`` matches; without both, those of the published set.

    Raises:
        ValueError: the pattern is none, or matches no weight.
    """
    weights = weights_of(checkpoint, path)
    pruned = checkpoint["model"].get(STATE, {}).get("masks")
    if pattern is None and pruned:
        return list(pruned)
    try:
        compiled = re.compile(pattern or TRANSFORMER_LAYERS)
    except re.error as error:
        raise ValueError(f"pattern {pattern!r}: no regular expression ({error})") from None
    names = [name for name in weights if compiled.fullmatch(name)]
    if not names:
        raise ValueError(
            f"{path}: no weight matches {compiled.pattern!r}; one of them is {next(iter(weights))}"
        )
    return names


def masks_of(checkpoint: Mapping, path, pattern: Optional[str] = None) -> Masks:
    """The masks of a checkpoint: what its weights have that are not zero.

    While it is being pruned, the weights are just as the mask in force leaves them.

    Raises:
        ValueError: as `pruned_set`.
    """
    weights = weights_of(checkpoint, path)
    return {name: weights[name] != 0 for name in pruned_set(checkpoint, path, pattern)}


def by_encoder_name(masks: Masks) -> Masks:
    """The same masks by the names that a pretrained encoder has, where they are of one fine-tuned with CTC."""
    return {name[len(RECOGNISER) :] if name.startswith(RECOGNISER) else name: m for name, m in masks.items()}


def with_masks(checkpoint: Mapping, masks: Masks, path, source) -> dict:
    """A checkpoint whose weights are zero where ``masks`` leave them out, for example those of another language.

    Masks of a pretrained encoder fit a recogniser that has it, and the other way round.

    Raises:
        ValueError: masks that do not fit the weights; names ``source``, where they are from.
    """
    weights = weights_of(checkpoint, path)
    names = {name[len(RECOGNISER) :] if name.startswith(RECOGNISER) else name: name for name in weights}
    check_masks({short: weights[name] for short, name in names.items()}, by_encoder_name(masks), source)
    masks = {names[short]: mask for short, mask in by_encoder_name(masks).items()}
    sparse = {name: weights[name].clone() for name in masks}
    apply_masks(sparse, masks)
    return {**checkpoint, "model": {**weights, **sparse}}


def finalized(checkpoint: Mapping, path, ema: bool = False) -> dict:
    """A checkpoint for inference: plain weights, of a model that fairseq has without this package where there is one.

    What only a training needs is left out: the state of the optimizer and of pruning, and the moving average.

    Args:
        ema: take the moving average of the weights (--store-ema).

    Raises:
        ValueError: not a checkpoint of fairseq, or one without a moving average.
    """
    weights = weights_of(checkpoint, path)
    extra = dict(checkpoint.get("extra_state") or {})
    average = extra.pop("ema", None)
    extra.pop("ema_fp32_params", None)
    if ema and average is None:
        raise ValueError(
            f"{path}: has no moving average, expected a checkpoint of a training with --store-ema"
        )
    config = dict(checkpoint.get("cfg") or {})
    if not config.get("model"):
        raise ValueError(f"{path}: holds no configuration, expected a checkpoint of fairseq with cfg")
    model = dict(config["model"])
    if model.get("_name") in FINAL_MODELS:
        model = {key: value for key, value in model.items() if not key.startswith("prune_")}
        model.pop("max_update", None)
        model["_name"] = FINAL_MODELS[model["_name"]]
        if "arch" in model:
            model["arch"] = model["_name"]
        config["common"] = {**config.get("common", {}), "user_dir": None}
    elif "prune_sparsity" in model:
        model["prune_sparsity"] = 0.0
    final = {key: value for key, value in checkpoint.items() if key != "last_optimizer_state"}
    return {
        **final,
        "cfg": {**config, "model": model},
        "model": {**weights, **(average or {})} if ema else weights,
        "extra_state": extra,
    }


def compact(checkpoint: Mapping) -> dict:
    """The same checkpoint with sparse tensors as bits and values, wherever that is smaller; see `expanded`.

    At a sparsity of s, a float32 tensor takes 1 - s + 1/32 of its size, 13.1 % at 0.9.
    """
    model = {}
    for name, weight in checkpoint["model"].items():
        stays = (
            (weight != 0) | weight.signbit() if weight.is_floating_point() else weight != 0
        )  # -0.0 is a value
        size = int(stays.sum()) * weight.element_size() + weight.numel() / 8
        if size < weight.numel() * weight.element_size():
            weight = {**pack_masks({name: stays})[name], "values": weight[stays]}
        model[name] = weight
    return {**checkpoint, "model": model, COMPACT: 1}


def expanded(checkpoint: Mapping) -> dict:
    """What `compact` made smaller, bit for bit."""
    model = {}
    for name, weight in checkpoint["model"].items():
        if isinstance(weight, dict) and "bits" in weight:
            stays = unpack_masks({name: weight})[name]
            values = weight["values"]
            weight = torch.zeros(stays.shape, dtype=values.dtype).masked_scatter_(stays, values)
        model[name] = weight
    return {**{key: value for key, value in checkpoint.items() if key != COMPACT}, "model": model}


def beside_weights(checkpoint: dict) -> dict:
    """The state of pruning outside of the weights, as files have it: fairseq's programs average all of "model"."""
    model = dict(checkpoint["model"])
    state = model.pop(STATE, None)
    return checkpoint if state is None else {**checkpoint, "model": model, STATE: state}


def among_weights(checkpoint: Mapping) -> dict:
    """What `beside_weights` took out: models have it among their weights."""
    model = {**checkpoint["model"], STATE: checkpoint[STATE]}
    return {**{key: value for key, value in checkpoint.items() if key != STATE}, "model": model}


compat.READERS += [(COMPACT, expanded), (HALF, in_single), (STATE, among_weights)]
