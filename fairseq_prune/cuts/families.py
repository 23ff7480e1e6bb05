"""The models whose layers can be cut: where each has its stacks of layers, and which options say their sizes."""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Stack(NamedTuple):
    """A stack of layers: where its keys begin, the option that counts it, and whether its layers are batch first."""

    prefix: str
    option: str
    batch_first: bool


class Family(NamedTuple):
    """What can be cut of a family of models.

    Args:
        stacks: by side, "encoder" or "decoder".
        narrower: whether its layers can lose feed-forward units and heads.
    """

    stacks: dict[str, Stack]
    narrower: bool = False


# the names of a family's models begin with its name: whisper_tiny, deltalm_base
FAMILIES = {
    "whisper": Family(
        {side: Stack(f"{side}.layers.", f"{side}_layers", True) for side in ("encoder", "decoder")},
        narrower=True,
    ),
    # its HuBERT becomes smaller by scripts/compress_hubert.py
    "hubert_deltalm": Family({"decoder": Stack("decoder.layers.", "deltalm_decoder_layers", False)}),
    "deltalm": Family(
        {side: Stack(f"{side}.layers.", f"{side}_layers", False) for side in ("encoder", "decoder")}
    ),
}


def family_of(checkpoint: Mapping[str, Any], path) -> Family:
    """What can be cut of the model in a checkpoint of ours.

    Args:
        checkpoint: as `load_checkpoint_file` gives it.
        path: of the checkpoint, for errors.

    Raises:
        ValueError: it is no checkpoint of fairseq, or of a model that cannot be cut here.
    """
    model = ((checkpoint.get("cfg") or {}).get("model") or {}) if "model" in checkpoint else {}
    name = str(model.get("_name", "none"))
    for family, found in FAMILIES.items():
        if name == family or name.startswith(f"{family}_"):
            return found
    *names, last = FAMILIES
    raise ValueError(f"{path}: layers of a model {name!r}: expected {', '.join(names)} or {last}")
