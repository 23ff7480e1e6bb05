"""Reading what `save_pretrained` wrote of a model that was pruned here."""

import json
from pathlib import Path
from typing import Optional

import safetensors.torch
import torch
import transformers
from torch import nn

from fairseq_prune.adapters.transformers.tokens import prune_tokens_again
from fairseq_prune.adapters.transformers.widths import CONFIG as HEADS
from fairseq_prune.adapters.transformers.widths import fit_heads


def load(folder, model_class: Optional[type] = None) -> nn.Module:
    """A model of a folder of `save_pretrained`, with all that its configuration says of pruning.

    Args:
        model_class: of transformers (default: the one that was saved).

    Returns:
        the model, in evaluation mode: it drops frames and has as many heads as when it was saved.

    Raises:
        FileNotFoundError: no such folder, or it has no configuration.
        ValueError: weights that do not fit.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder}: has no config.json, expected a folder of save_pretrained")
    config = transformers.AutoConfig.from_pretrained(folder)
    if model_class is None:
        [name] = config.architectures
        model_class = getattr(transformers, name)
    if not getattr(config, HEADS, None):
        return prune_tokens_again(model_class.from_pretrained(folder).eval())
    model = fit_heads(model_class(config))
    _load_weights(model, folder)
    if (folder / "generation_config.json").is_file():
        model.generation_config = transformers.GenerationConfig.from_pretrained(folder)
    return prune_tokens_again(model.eval())


@torch.no_grad()
def _load_weights(model: nn.Module, folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    names = ["model.safetensors"]
    if index.is_file():
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    weights = {}
    for name in names:
        weights.update(safetensors.torch.load_file(folder / name))
    try:
        result = model.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise ValueError(f"{folder}: weights do not fit the configuration ({error})") from None
    tied = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    tied -= {name for name, _ in model.named_parameters()}
    left = sorted(set(result.missing_keys) - tied) + sorted(result.unexpected_keys)
    if left:
        raise ValueError(f"{folder}: weights do not fit the configuration: {', '.join(left[:5])}")
