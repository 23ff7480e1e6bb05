"""Our checkpoints with zeros in their weights, without a training: one-shot pruning."""

from collections.abc import Mapping
from typing import Any, Optional

from torch import Tensor

from fairseq_prune.checkpoints.sparse import STATE, weights_of
from fairseq_prune.cuts.base import without_training
from fairseq_prune.pruning.components import by_component
from fairseq_prune.pruning.magnitude import Masks, apply_masks, pack_masks, sparsity_of


def component_weights(checkpoint: Mapping[str, Any], path) -> dict[str, Tensor]:
    """The matrices of all components (`pruning.components`), by name.

    Args:
        checkpoint: as `load_checkpoint_file` gives it.
        path: of the checkpoint, for errors.

    Raises:
        ValueError: no checkpoint of fairseq, or a model without such matrices.
    """
    weights = weights_of(checkpoint, path)
    names = [name for group in by_component(weights).values() for name in group]
    if not names:
        raise ValueError(
            f"{path}: no Transformer layers to prune, expected names such as encoder.layers.0.fc1.weight, "
            f"found {next(iter(weights))}"
        )
    return {name: weights[name] for name in names}


def with_sparse_weights(
    checkpoint: Mapping[str, Any],
    masks: Masks,
    method: str,
    path,
    fitted: Optional[Mapping[str, Tensor]] = None,
) -> dict[str, Any]:
    """The checkpoint with zeros where ``masks`` leave weights out, which are noted as those of PARP are.

    What belongs to a training that cannot go on (optimizer, average of weights) is left out.

    Args:
        checkpoint: as `load_checkpoint_file` gives it; left as it is.
        masks: by name of the weight.
        method: how the masks were found, for whoever looks at the file.
        path: of the checkpoint, for errors.
        fitted: by name, weights and biases to take instead of the checkpoint's; None: none.

    Raises:
        ValueError: no checkpoint of fairseq.
    """
    weights_of(checkpoint, path)
    new = without_training(checkpoint)
    fitted = {name: weight.to(new["model"][name]) for name, weight in (fitted or {}).items()}
    new["model"] = {**new["model"], **fitted}
    sparse = {name: new["model"][name].clone() for name in masks}
    apply_masks(sparse, masks)
    packed = pack_masks(masks)
    new["model"] = {**new["model"], **sparse}
    new[STATE] = {
        "method": method,
        "phase": "fixed",
        "sparsity": sparsity_of(masks),
        "update": 0,
        "revived": 0.0,
        "overlap": 1.0,
        "masks": packed,
        "first_masks": packed,
        "grown": {},
    }
    return new
