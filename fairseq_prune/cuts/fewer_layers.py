"""Our checkpoints with fewer layers."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from fairseq_prune.cuts.base import without_training
from fairseq_prune.cuts.families import family_of
from fairseq_prune.pruning.layers import merge_layers


def with_fewer_layers(
    checkpoint: Mapping[str, Any], kept: Mapping[str, Sequence[Sequence[int]]], path
) -> dict[str, Any]:
    """The checkpoint with some layers of its stacks, or with means of them; its configuration counts them.

    What belongs to a training that cannot go on (optimizer, average of weights) is left out.

    Args:
        checkpoint: as `load_checkpoint_file` gives it; left as it is.
        kept: for each layer that there shall be, by side, the layers from 0 whose mean it is: mostly a single one.
        path: of the checkpoint, for errors.

    Raises:
        ValueError: no checkpoint of such a model; or layers of different sizes were to be merged.
    """
    stacks = family_of(checkpoint, path).stacks
    new = without_training(checkpoint)
    model, weights = dict(new["cfg"]["model"]), new["model"]
    for side, groups in kept.items():
        if side not in stacks:
            raise ValueError(f"{path}: a model {model['_name']!r} has no {side} whose layers can go")
        weights = merge_layers(weights, stacks[side].prefix, groups)
        model[stacks[side].option] = len(groups)
        if model.get("layer_sizes"):
            sizes = json.loads(model["layer_sizes"])
            firsts = [group[0] for group in groups]
            own = {name: [found[i] for i in firsts] for name, found in sizes.items() if name.startswith(side)}
            model["layer_sizes"] = json.dumps({**sizes, **own})
    new["model"] = weights
    new["cfg"] = {**new["cfg"], "model": model}
    return new
