"""What stays of a pruned Whisper makes up for what is gone: weights, heads, units, whole layers. Nothing is trained."""

import copy
from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Optional

import torch
from torch import Tensor, nn
from tqdm import tqdm

from fairseq_prune.benchmarks.weight_calibration import Clip, prunable
from fairseq_prune.modules.packed import is_held_in_half
from fairseq_prune.pruning.magnitude import Masks, apply_masks
from fairseq_prune.pruning.reconstruction import Residuals, reconstruct

# a decoder hears few tokens, and would learn them by heart
RIDGE = {"encoder": 0.1, "decoder": 1.0}
# of a layer, in order: what hears the residual, and the weight of what adds to it
BLOCKS = (
    ("self_attn_layer_norm", "self_attn.out_proj.weight"),
    ("encoder_attn_layer_norm", "encoder_attn.out_proj.weight"),
    ("final_layer_norm", "fc2.weight"),
)
ALL_LAYERS: Mapping[str, Sequence[int]] = MappingProxyType({})


@torch.no_grad()
def refitted(
    dense: nn.Module,
    masks: Masks,
    clips: Sequence[Clip],
    smaller: Optional[nn.Module] = None,
    kept: Mapping[str, Sequence[int]] = ALL_LAYERS,
    progress: Optional[str] = None,
) -> dict[str, Tensor]:
    """What is kept of a Whisper, fitted so that its layers say what they said (`pruning.reconstruction`).

    The encoder comes first, as the decoder hears it.

    Args:
        dense: the whole model; it stays as it is.
        masks: by name in the smaller model; a matrix without a mask stays as it is.
        clips: several minutes, as the decoder has some 200 tokens in one.
        smaller: the model with fewer layers, which stays as it is, too; None: as many.
        kept: by side, the layers from 0 of the whole model that the smaller one has; a side that is missing has all.
        progress: title of a progress bar.

    Returns:
        by name in the smaller model: the weights with their zeros, and the biases of their layers. Weights that 16 bits
        hold, if they hold those of the whole model: a decoder on the CPU is faster with these.
    """
    sparse, device = copy.deepcopy(dense if smaller is None else smaller), next(dense.parameters()).device
    masks = {name: mask.to(device) for name, mask in masks.items()}
    apply_masks({name: parameter.data for name, parameter in sparse.named_parameters()}, masks)
    heard = [
        (clip.features[None].to(device), torch.tensor([len(clip.features)], device=device)) for clip in clips
    ]
    fit = partial(_fit, sparse, dense, masks, kept, progress)
    fit("encoder", [(inputs, inputs) for inputs in heard])
    read = [torch.tensor([clip.tokens[:-1]], device=device) for clip in clips]
    mine, others = ([half.encoder(*inputs) for inputs in heard] for half in (sparse, dense))
    fit("decoder", list(zip(zip(read, mine), zip(read, others))))
    layers = {name.rpartition(".")[0] for name in masks}
    if all(is_held_in_half(weight) for weight in prunable(dense).values()):
        for name in masks:
            weight = sparse.get_parameter(name)
            weight.copy_(weight.half())
    return {
        name: parameter.detach()
        for name, parameter in sparse.named_parameters()
        if name.rpartition(".")[0] in layers
    }


def refitted_all(
    dense: nn.Module,
    clips: Sequence[Clip],
    masks: Masks,
    smaller: Optional[nn.Module] = None,
    kept: Mapping[str, Sequence[int]] = ALL_LAYERS,
) -> dict[str, Tensor]:
    """As `refitted`, of all matrices: those without a mask lose nothing, and make up for the others.

    Where layers of the decoder alone are gone, the encoder stays as it is.
    """
    whole = whole_masks(dense if smaller is None else smaller)
    if not masks and "encoder" not in kept:
        whole = {name: mask for name, mask in whole.items() if not name.startswith("encoder.")}
    return refitted(dense, {**whole, **masks}, clips, smaller, kept, "least squares")


def whole_masks(model: nn.Module) -> Masks:
    """Of all matrices of the layers, which leave nothing out."""
    return {name: torch.ones(weight.shape, dtype=torch.bool) for name, weight in prunable(model).items()}


def residual_sums(half: nn.Module) -> dict[str, str]:
    """By name of each weight of a half whose output is added to the residual: the norm that hears the sum."""
    norms, sums = ["layer_norm"], {}
    for i, layer in reversed(list(enumerate(half.layers))):
        for norm, weight in reversed(BLOCKS):
            if getattr(layer, norm, None) is not None:
                sums[f"layers.{i}.{weight}"] = norms[-1]
                norms.append(f"layers.{i}.{norm}")
    return sums


def whole_name(name: str, kept: Mapping[str, Sequence[int]]) -> str:
    """The name in the whole model, "decoder.layers.2.fc1", of one where layers are gone, "decoder.layers.1.fc1".

    Args:
        kept: as of `refitted`.
    """
    side, _, rest = name.partition(".")
    if side not in kept or not rest.startswith("layers."):
        return name
    layer, dot, part = rest[len("layers.") :].partition(".")
    return f"{side}.layers.{kept[side][int(layer)]}{dot}{part}"


def _fit(sparse, dense, masks: Masks, kept, progress, side: str, examples) -> None:
    """One half of a Whisper. examples: pairs of what it is called with in the sparse and in the dense model."""
    own = {name[len(side) + 1 :]: mask for name, mask in masks.items() if name.startswith(f"{side}.")}
    if own:
        half = getattr(sparse, side)
        reconstruct(
            half,
            getattr(dense, side),
            own,
            examples,
            lambda model, inputs: model(*inputs),
            RIDGE[side],
            Residuals(residual_sums(half), lambda name: whole_name(f"{side}.{name}", kept)[len(side) + 1 :]),
            partial(tqdm, desc=f"{progress}, {side}", unit="input", disable=not progress),
        )
