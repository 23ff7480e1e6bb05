"""A Whisper of ours without its gates: what they close is cut out, and what they weaken multiplied into weights."""

import json
import re
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from fairseq_prune.cuts.base import without_training
from fairseq_prune.modules.whisper.gated import Gates
from fairseq_prune.modules.whisper.settings import sizes_by_component
from fairseq_prune.pruning.structured import cut_weight

MODEL = "gated_whisper"
_GATE = re.compile(
    r"((encoder|decoder)\.layers\.(\d+)\.)(?:(self_attn|encoder_attn)\.out_proj|fc2)\.gates\.(parts|block)\.log_alpha"
)


def without_gates(checkpoint: Mapping[str, Any], path) -> dict[str, Any]:
    """The checkpoint of a model ``gated_whisper`` as one of a model ``whisper``, whose layers may be uneven.

    It gives the outputs that the gated one gives in evaluation, but for rounding. A block of which nothing is left
    keeps its output bias. What belongs to a training that cannot go on is left out.

    Args:
        checkpoint: as `load_checkpoint_file` gives it; left as it is.
        path: of the checkpoint, for errors.

    Raises:
        ValueError: it is of another model, or the gates close all blocks of the encoder or of the decoder.
    """
    options = (checkpoint.get("cfg") or {}).get("model") or {}
    name = getattr(options, "get", {}.get)("_name")
    if name != MODEL:
        raise ValueError(f"{path}: found a model {name!r}, expected {MODEL}")
    new, model = without_training(checkpoint), {**options, "_name": "whisper"}
    weights = dict(new["model"])
    gates: dict[tuple[str, str, int], dict[str, Tensor]] = {}
    for key in checkpoint["model"]:
        match = _GATE.fullmatch(key)
        if match:
            layer, side, index, attention, kind = match.groups()
            block = (layer, f"{side}.{attention or 'fc'}", int(index))
            gates.setdefault(block, {})[kind] = weights.pop(key)
    sizes = sizes_by_component(SimpleNamespace(**{"layer_sizes": None, **model}))
    head_dim = model.get("head_dim") or model["embed_dim"] // model["attention_heads"]
    for (layer, component, index), found in gates.items():
        values = _values(found, sizes[component][index])
        kept = values.nonzero().flatten()
        if component.endswith("fc"):
            _keep_inputs(
                weights, f"{layer}fc2", [f"{layer}fc1"], f"{layer}final_layer_norm", kept, values[kept]
            )
        else:
            rows = (kept[:, None] * head_dim + torch.arange(head_dim)).flatten()
            attention = layer + component.partition(".")[2]
            readers = [f"{attention}.{part}_proj" for part in "qkv"]
            scale = values[kept].repeat_interleave(head_dim)
            _keep_inputs(weights, f"{attention}.out_proj", readers, f"{attention}_layer_norm", rows, scale)
        sizes[component][index] = len(kept)
    for side in ("encoder", "decoder"):
        if not any(sum(found) for component, found in sizes.items() if component.startswith(side)):
            raise ValueError(f"{path}: the gates close all blocks of the {side}")
    weights.pop("multipliers.values", None)
    del model["prune"]
    model.update(layer_sizes=json.dumps(sizes), head_dim=head_dim)
    new["model"], new["cfg"] = weights, {**new["cfg"], "model": model}
    return new


def _values(found: Mapping[str, Tensor], size: int) -> Tensor:
    """(size,), of gates by kind."""
    gates = Gates(size, *(0.5 if kind in found else None for kind in ("parts", "block")))
    gates.load_state_dict({f"{kind}.log_alpha": value for kind, value in found.items()})
    return gates.values().detach()


def _keep_inputs(
    weights: dict[str, Tensor], reader: str, writers: list[str], norm: str, kept: Tensor, scale: Tensor
) -> None:
    """Leave a linear map some of its inputs, which ``writers`` make; without any, its bias alone is left."""
    if not len(kept):
        for name in (*writers, norm):
            for part in ("weight", "bias"):
                weights.pop(f"{name}.{part}", None)
        del weights[f"{reader}.weight"]
        return
    for name in writers:
        for part in ("weight", "bias"):  # keys have no bias
            if f"{name}.{part}" in weights:
                weights[f"{name}.{part}"] = weights[f"{name}.{part}"][kept]
    weights[f"{reader}.weight"] = cut_weight(weights[f"{reader}.weight"], None, kept, scale)
