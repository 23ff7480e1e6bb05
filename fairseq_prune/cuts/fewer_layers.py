"""Our checkpoints with fewer layers."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from fairseq_prune.cuts.base import without_training
from fairseq_prune.cuts.families import family_of
from fairseq_prune.pruning.layers import keep_layers


def with_fewer_layers(
    checkpoint: Mapping[str, Any], kept: Mapping[str, Sequence[int]], path
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
    stacks = family_of(checkpoint, path).stacks
    new = without_training(checkpoint)
    model, weights = dict(new["cfg"]["model"]), new["model"]
    for side, layers in kept.items():
        if side not in stacks:
            raise ValueError(f"{path}: a model {model['_name']!r} has no {side} whose layers can go")
        weights = keep_layers(weights, stacks[side].prefix, layers)
        model[stacks[side].option] = len(layers)
        if model.get("layer_sizes"):
            sizes = json.loads(model["layer_sizes"])
            own = {name: [found[i] for i in layers] for name, found in sizes.items() if name.startswith(side)}
            model["layer_sizes"] = json.dumps({**sizes, **own})
    new["model"] = weights
    new["cfg"] = {**new["cfg"], "model": model}
    return new
