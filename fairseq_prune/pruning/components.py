"""The weights of Transformer layers by component: side and block, each with a sparsity of its own."""

import re
from collections.abc import Iterable, Mapping
from typing import Optional

from torch import Tensor

from .magnitude import Masks, check_sparsity, magnitude_masks

COMPONENTS = ("encoder.self_attn", "encoder.fc", "decoder.self_attn", "decoder.encoder_attn", "decoder.fc")

_WEIGHT = re.compile(
    r"(?:.*\.)?(encoder|decoder)\.layers\.\d+\.(?:(self_attn|encoder_attn)\.\w+_proj|(fc)[12])\.weight"
)


def component_of(name: str) -> Optional[str]:
    """The component of a parameter: one of `COMPONENTS` for matrices of Transformer layers, else None."""
    match = _WEIGHT.fullmatch(name)
    return match and f"{match[1]}.{match[2] or match[3]}"


def by_component(names: Iterable[str]) -> dict[str, list[str]]:
    """Names of the matrices of each component that there is."""
    found: dict[str, list[str]] = {}
    for name in names:
        component = component_of(name)
        if component:
            found.setdefault(component, []).append(name)
    return {component: found[component] for component in COMPONENTS if component in found}


def component_masks(scores: Mapping[str, Tensor], sparsities: Mapping[str, float], scope: str) -> Masks:
    """Masks that leave out the smallest scores of each component; weights compete within theirs at most.

    Args:
        scores: by parameter name; those of components without a sparsity are not looked at.
        sparsities: by component.
        scope: as of `magnitude_masks`.

    Raises:
        ValueError: a sparsity outside [0, 1), an unknown scope, or a component that the model has not.
    """
    parts = by_component(scores)
    masks: Masks = {}
    for component, sparsity in sparsities.items():
        check_sparsity(sparsity, f"sparsity of {component}")
        if component not in parts:
            raise ValueError(f"component: found {component!r}, expected some of {', '.join(parts)}")
        group = {name: scores[name] for name in parts[component]}
        masks.update(magnitude_masks(group, sparsity, scope))
    return {name: masks[name] for name in scores if name in masks}
