"""Token pruning of a speech encoder of transformers: `prune_tokens`, and back with `restore_tokens`.

The encoder's output is shorter than before: ``last_hidden_state`` has only the frames that were kept. What follows it
works on: the decoder of a Whisper, a CTC head and its loss, training with gradient checkpointing.
"""

from collections.abc import Sequence
from dataclasses import asdict
from importlib import import_module
from types import MethodType
from typing import NamedTuple, Optional

import torch
from torch import Tensor, nn

from fairseq_prune.adapters.transformers.layers import HOSTS, host_name, take_off, take_on
from fairseq_prune.adapters.transformers.pruner import Pruner
from fairseq_prune.constants import TOKEN_PRUNING
from fairseq_prune.modules.frames import TokenPruning
from fairseq_prune.pruning.schedules import layer_keep_ratios

OLDEST = (5, 24)  # transformers of which layers return what those here return


def encoder_of(model: nn.Module) -> nn.Module:
    """The encoder within a model, whose layers are known here.

    Raises:
        ValueError: there is none.
    """
    for module in model.modules():
        layers = getattr(module, "layers", None)
        if isinstance(layers, nn.ModuleList) and len(layers) and host_name(layers[0]):
            return module
    known = sorted({name.split(".")[0] for name in HOSTS})
    raise ValueError(f"a model {type(model).__name__}: expected one with an encoder of {', '.join(known)}")


def prune_tokens(
    model: nn.Module,
    keep_ratio: float = 0.7,
    start_layer: int = 4,
    criterion: str = "received",
    keep_ratios: Optional[Sequence[float]] = None,
    minimum: int = 1,
) -> nn.Module:
    """Let layers of the encoder drop the frames that matter least; in place, weights stay as they are.

    Each layer from ``start_layer`` on keeps ``keep_ratio`` of the frames that reach it, counted by utterance without
    padding: an utterance's result does not depend on the batch. ``model.config.token_pruning`` notes it; after
    `from_pretrained` of a saved model call `prune_tokens_again`. A model that drops frames already drops as told now.

    Args:
        model: of transformers, with an encoder of HuBERT, wav2vec 2.0, WavLM or Whisper.
        keep_ratio: of each layer from ``start_layer`` on.
        start_layer: counted from 1.
        criterion: a name of `fairseq_prune.pruning.criteria.CRITERIA`.
        keep_ratios: one for every layer, instead of the two above.
        minimum: frames that an utterance keeps at least.

    Returns:
        the model.

    Raises:
        ValueError: a ratio or a layer that does not fit, an unknown criterion, a model of another kind, a transformers
            that is too old.
    """
    encoder = encoder_of(model)
    _check_version(import_module("transformers").__version__)
    if getattr(model.config, "add_adapter", False):
        raise ValueError("config.add_adapter: found an adapter that strides over frames, expected none")
    ratios = layer_keep_ratios(len(encoder.layers), keep_ratio, start_layer, explicit=keep_ratios)
    pruning = TokenPruning(ratios, criterion, minimum)
    restore_tokens(model)
    pruner = Pruner(pruning, encoder.layers, encoder.config)
    for index, layer in enumerate(encoder.layers):
        take_on(layer, pruner, index)
    encoder.pruner_hook = encoder.register_forward_pre_hook(_begin, with_kwargs=True)
    _count_kept_frames(model, encoder)
    settings = {name: asdict(pruning)[name] for name in ("keep_ratios", "criterion", "minimum")}
    for config in {id(part.config): part.config for part in (model, encoder)}.values():
        setattr(config, TOKEN_PRUNING, settings)
    return model


def _check_version(found: str) -> None:
    if tuple(int(number) for number in found.split(".")[:2]) < OLDEST:
        raise ValueError(f"transformers: found {found}, expected {'.'.join(map(str, OLDEST))} or later")


def restore_tokens(model: nn.Module) -> nn.Module:
    """Undo `prune_tokens`; returns the model."""
    encoder = encoder_of(model)
    for layer in encoder.layers:
        take_off(layer)
    if hasattr(encoder, "pruner_hook"):
        encoder.pruner_hook.remove()
        del encoder.pruner_hook
    for name in ("_get_feat_extract_output_lengths", "_extract_token_timestamps"):
        model.__dict__.pop(name, None)
    for config in (model.config, encoder.config):
        config.__dict__.pop(TOKEN_PRUNING, None)
    return model


def prune_tokens_again(model: nn.Module) -> nn.Module:
    """Let a model that `from_pretrained` made drop frames as its configuration says; returns the model."""
    settings = getattr(model.config, TOKEN_PRUNING, None)
    return model if settings is None else prune_tokens(model, **settings)


class KeptFrames(NamedTuple):
    """What the last forward pass has kept.

    positions: (batch, frames), the frame (20 ms) that each one was, 0 on padding. lengths: kept frames of each
    utterance.
    """

    positions: Tensor
    lengths: list[int]


def kept_frames(model: nn.Module) -> KeptFrames:
    """The frames that the last forward pass of a pruned model has kept, for times and pictures.

    Raises:
        ValueError: the model drops no frames, or has not been called.
    """
    pruner = getattr(encoder_of(model).layers[0], "pruner", None)
    if pruner is None or pruner.current is None:
        raise ValueError("expected a model after prune_tokens and a forward pass")
    return KeptFrames(pruner.current.positions, list(pruner.current.lengths))


def _begin(encoder: nn.Module, arguments: tuple, named: dict) -> None:
    """Before an encoder runs."""
    pruner = encoder.layers[0].pruner
    x = arguments[0] if arguments else named.get("hidden_states", named.get("input_features"))
    if encoder.config.model_type == "whisper":  # no mask: silence takes part, as published
        pruner.begin(x.shape[0], encoder.config.max_source_positions, x.device, None)
        return
    mask = arguments[1] if len(arguments) > 1 else named.get("attention_mask")
    pruner.begin(x.shape[0], x.shape[1], x.device, mask)


def _count_kept_frames(model: nn.Module, encoder: nn.Module) -> None:
    """Let a head know how many frames reach it, and refuse what would be wrong by dropped frames."""
    if encoder.config.model_type == "whisper":
        if hasattr(model, "_extract_token_timestamps"):
            model._extract_token_timestamps = MethodType(_refuse_token_times, model)
        return
    if getattr(model, model.base_model_prefix, model) is model:
        return  # it makes the mask of its encoder's input with that method

    model._get_feat_extract_output_lengths = MethodType(_kept_lengths, model)


def _kept_lengths(self, input_lengths, *arguments, **named):
    """transformers' `_get_feat_extract_output_lengths`, from samples to the frames that reach the head."""
    lengths = type(self)._get_feat_extract_output_lengths(self, input_lengths, *arguments, **named)
    layers = encoder_of(self).layers
    pruner = layers[0].pruner
    counts = torch.as_tensor(lengths).reshape(-1).tolist()
    if self.training and pruner.current is not None and len(pruner.current.lengths) == len(counts):
        counts = list(pruner.current.lengths)  # layer drop may have left out layers
    else:
        for index in range(len(layers)):
            counts = pruner.keep_counts(index, counts)
    if not isinstance(lengths, Tensor):
        return counts[0]
    return torch.tensor(counts, dtype=lengths.dtype, device=lengths.device).reshape(lengths.shape)


def _refuse_token_times(self, *arguments, **named):
    raise ValueError("times of tokens: frames were dropped, call restore_tokens first")
