"""The preview of a decoder's output in a checkpoint (`scripts/preview_output.py` puts it there).

It lies beside the model's weights, so that whoever does not know it has the whole model.
"""

from collections.abc import Mapping
from typing import Any, Optional

import torch
from torch import Tensor

from fairseq_prune.modules.previewed_output import OutputPreview

KEY = "output_preview"


def with_preview(checkpoint: Mapping[str, Any], preview: OutputPreview) -> dict[str, Any]:
    """The checkpoint with a preview, in the place of one that it may have."""
    return {**checkpoint, KEY: preview._asdict()}


def preview_of(checkpoint: Mapping[str, Any], path) -> Optional[OutputPreview]:
    """The preview in a checkpoint; None where it has none.

    Args:
        path: of the checkpoint, for errors.

    Raises:
        ValueError: it is not as this package writes it, or not for this decoder.
    """
    found = checkpoint.get(KEY)
    if found is None:
        return None
    embedding = checkpoint["model"].get("decoder.embed_tokens.weight")
    dim = embedding.shape[1] if isinstance(embedding, Tensor) and embedding.dim() == 2 else None
    parts = found if isinstance(found, Mapping) else {}
    directions, candidates = (parts.get(name) for name in OutputPreview._fields)
    fits = isinstance(directions, Tensor) and directions.dtype == torch.float32 and directions.dim() == 2
    if not fits or len(directions) != dim or type(candidates) is not int or candidates < 1:
        shape = tuple(directions.shape) if isinstance(directions, Tensor) else directions
        raise ValueError(
            f"{path}: {KEY}: found directions {shape} and candidates {candidates}, expected float32 ({dim}, size) "
            "and a whole number above 0"
        )
    return OutputPreview(directions, candidates)
