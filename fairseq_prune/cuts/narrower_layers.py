"""Our checkpoints with fewer feed-forward units and heads in each layer."""

from collections.abc import Callable, Mapping
from typing import Any, Optional

from torch import Tensor

from fairseq_prune.cuts.base import without_training
from fairseq_prune.cuts.families import family_of
from fairseq_prune.pruning.magnitude import Masks
from fairseq_prune.pruning.widths import (
    fewer_heads,
    fewer_units,
    head_norms,
    masks_of_inputs,
    unit_norms,
)


def with_narrower_layers(
    checkpoint: Mapping[str, Any],
    units: Optional[int],
    heads: Optional[int],
    path,
    importances: Optional[Mapping[str, Tensor]] = None,
    fit: Optional[Callable[[Masks], Mapping[str, Tensor]]] = None,
) -> dict[str, Any]:
    """The checkpoint of a Whisper with those feed-forward units and heads of each layer that matter most.

    Args:
        checkpoint: as `load_checkpoint_file` gives it; left as it is.
        units: that each layer keeps; None: all.
        heads: that each attention block keeps; None: all.
        path: of the checkpoint, for errors.
        importances: of units and heads, see `pruning.widths`; None: the norms of their weights.
        fit: gives weights and biases, by name, that make up for the inputs that masks leave out; None: all stay.

    Raises:
        ValueError: no Whisper, or it has not so many.
    """
    if not family_of(checkpoint, path).narrower:
        name = checkpoint["cfg"]["model"]["_name"]
        raise ValueError(f"{path}: units and heads of a model {name!r}: expected a Whisper")
    if checkpoint["cfg"]["model"].get("layer_sizes"):
        raise ValueError(
            f"{path}: gates have left layers of different sizes, expected layers that are all alike"
        )
    new = without_training(checkpoint)
    model = dict(new["cfg"]["model"])
    head_dim = model.get("head_dim") or model["embed_dim"] // model["attention_heads"]
    if fit is not None:  # which changes the norms
        importances = importances or {**unit_norms(new["model"]), **head_norms(new["model"], head_dim)}
        fitted = fit(masks_of_inputs(new["model"], units, heads, head_dim, importances))
        new["model"] = {**new["model"], **{name: w.to(new["model"][name]) for name, w in fitted.items()}}
    if units is not None:
        new["model"] = fewer_units(new["model"], units, importances)
        model["ffn_embed_dim"] = units
    if heads is not None:
        new["model"] = fewer_heads(new["model"], heads, head_dim, importances)
        model["attention_heads"], model["head_dim"] = heads, head_dim
    new["cfg"] = {**new["cfg"], "model": model}
    return new
