"""From the hidden states of a student to those of its teacher: maps between them, and the distance that is left."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

COSINES = ("raw", "log_sigmoid")
RELATIONS = ("layers", "between", "both")


def parse_layers(text: str) -> list[list[int]]:
    """Groups of layers, "0|4,8,12" -> [[0], [4, 8, 12]]; 0 is what enters the first layer.

    Raises:
        ValueError: no such list, or a layer that stands in it twice.
    """
    if not re.fullmatch(r"\s*\d+\s*([,|]\s*\d+\s*)*", text):
        raise ValueError(f"found {text!r}, expected layers with commas between, and groups with | between")
    groups = [[int(layer) for layer in group.split(",")] for group in text.split("|")]
    layers = [layer for group in groups for layer in group]
    if len(set(layers)) < len(layers):
        raise ValueError(f"found {text!r}, which names a layer twice")
    return groups


class _Maps(nn.Module):
    """What makes the teacher's states of the student's; ``layers`` are those that are learned."""

    def __init__(self, groups: Sequence[Sequence[int]]):
        super().__init__()
        self.groups = [list(group) for group in groups]
        self.layers = [layer for group in groups for layer in group]

    def targets(self, states: Sequence[Tensor]) -> list[Tensor]:
        """What is to be learned of all hidden states (batch, frames, dim): those of ``layers``."""
        return [states[layer] for layer in self.layers]


class LayerMaps(_Maps):
    """A linear map from each layer of the student to the same layer of the teacher (DPHuBERT, arXiv 2305.17651).

    A map begins as the identity, or cuts off or fills up with zeros where the teacher is narrower or wider.

    Args:
        groups: layers; those of a group share a map.
        student_dim, teacher_dim: widths of the hidden states.
    """

    def __init__(self, groups: Sequence[Sequence[int]], student_dim: int, teacher_dim: int):
        super().__init__(groups)
        self.map_of = {layer: index for index, group in enumerate(groups) for layer in group}
        self.maps = nn.ModuleList(nn.Linear(student_dim, teacher_dim) for _ in groups)
        for linear in self.maps:
            nn.init.eye_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, states: Sequence[Tensor]) -> list[Tensor]:
        """All hidden states (batch, frames, student_dim) -> (batch, frames, teacher_dim) for each of ``layers``."""
        return [self.maps[self.map_of[layer]](states[layer]) for layer in self.layers]


class GroupMaps(LayerMaps):
    """A linear map from the mean over each group of layers to the teacher's mean (SKILL, arXiv 2402.16830).

    Args: as of `LayerMaps`; `layer_groups` finds groups of layers that are similar.
    """

    def targets(self, states: Sequence[Tensor]) -> list[Tensor]:
        """All hidden states (batch, frames, dim) -> their mean over each group."""
        return [torch.stack([states[layer] for layer in group]).mean(0) for group in self.groups]

    def forward(self, states: Sequence[Tensor]) -> list[Tensor]:
        """All hidden states (batch, frames, student_dim) -> (batch, frames, teacher_dim) for each group."""
        return [linear(mean) for linear, mean in zip(self.maps, self.targets(states))]


class PredictionHeads(_Maps):
    """Two linear maps for each layer of the teacher, all from the student's last one (DistilHuBERT, arXiv 2110.01900).

    Args: as of `LayerMaps`; groups do not matter, no head is shared.
    """

    def __init__(self, groups: Sequence[Sequence[int]], student_dim: int, teacher_dim: int):
        super().__init__(groups)
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(student_dim, teacher_dim), nn.GELU(), nn.Linear(teacher_dim, teacher_dim))
            for _ in self.layers
        )

    def forward(self, states: Sequence[Tensor]) -> list[Tensor]:
        """All hidden states (batch, frames, student_dim) -> (batch, frames, teacher_dim) for each of ``layers``."""
        return [head(states[-1]) for head in self.heads]


MAPS = {"layers": LayerMaps, "groups": GroupMaps, "heads": PredictionHeads}


def relation_distances(
    student: Sequence[Tensor], teacher: Sequence[Tensor], padding_mask: Optional[Tensor], of: str = "both"
) -> Tensor:
    """How differently two models relate the frames of an utterance to each other (STaR, arXiv 2312.09040).

    The relation of two frames is their inner product over the width of the model, so that both may have any width.

    Args:
        student, teacher: (batch, frames, dim) for each layer.
        padding_mask: (batch, frames), True on padding, or None.
        of: "layers": two frames in a layer; "between": one in a layer, the other in the next of those given; "both":
            the sum.

    Returns:
        (batch, frames): the mean squared difference of a frame's relations to all frames of its utterance, mean over
        layers; of no meaning on padding.

    Raises:
        ValueError: there is no next layer.
    """
    layers, kinds = range(len(student)), []
    if of != "between":
        kinds.append(list(zip(layers, layers)))
    if of != "layers":
        kinds.append(list(zip(layers, layers[1:])))
    if not all(kinds):
        raise ValueError("relations between layers: found 1 layer to learn, expected 2 or more")
    total = 0
    for pairs in kinds:
        for first, second in pairs:
            difference = _relations(student, first, second) - _relations(teacher, first, second)
            total = total + difference.square() / len(pairs)
    if padding_mask is None:
        return total.mean(-1)
    counts = (~padding_mask).sum(-1, keepdim=True).clamp(min=1)
    return total.masked_fill(padding_mask[:, None], 0).sum(-1) / counts


def _relations(states: Sequence[Tensor], first: int, second: int) -> Tensor:
    """(batch, frames, frames), in float32."""
    one, other = states[first].float(), states[second].float()
    return one @ other.transpose(1, 2) / one.size(-1)


@dataclass
class DistillationLoss:
    """Distances between hidden states, averaged over features and layers and summed over frames that are not padding.

    l1, cosine, mse: weights of the mean absolute difference, of the cosine distance and of the mean squared
        difference of a frame. cosine_form: the distance is 1 - cos ("raw") or -log sigmoid(cos) ("log_sigmoid").
    relation, relation_of: weight and kind of `relation_distances`.
    """

    l1: float = 1.0
    cosine: float = 1.0
    mse: float = 0.0
    cosine_form: str = "raw"
    relation: float = 0.0
    relation_of: str = "both"

    def __call__(
        self,
        student: Sequence[Tensor],
        teacher: Sequence[Tensor],
        padding_mask: Optional[Tensor],
        unmapped: Optional[Sequence[Tensor]] = None,
    ) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Compare layer by layer, in float32.

        Args:
            student, teacher: (batch, frames, dim) for each layer.
            padding_mask: (batch, frames), True on padding, or None.
            unmapped: the student's states as they are, which have relations; default: ``student``.

        Returns:
            the weighted sum; its parts "l1", "cosine", "mse" and "relation" without weights (0-dim, those that have a
            weight); and the number of frames, 0-dim and on the device whether there is padding or not: workers that
            have padding and workers that have none must be able to add up theirs.
        """
        parts = {name: 0 for name in ("l1", "cosine", "mse") if getattr(self, name)}
        for mine, other in zip(student, teacher):
            mine, other = mine.float(), other.float()
            if "l1" in parts:
                parts["l1"] = parts["l1"] + (mine - other).abs().mean(-1)
            if "mse" in parts:
                parts["mse"] = parts["mse"] + (mine - other).square().mean(-1)
            if "cosine" in parts:
                cosine = F.cosine_similarity(mine, other, dim=-1)
                raw = self.cosine_form == "raw"
                parts["cosine"] = parts["cosine"] + (1 - cosine if raw else -F.logsigmoid(cosine))
        parts = {name: part / len(student) for name, part in parts.items()}
        if self.relation:
            parts["relation"] = relation_distances(
                unmapped or student, teacher, padding_mask, self.relation_of
            )
        frames = torch.full((), student[0].shape[0] * student[0].shape[1], device=student[0].device)
        if padding_mask is not None:
            parts = {name: part.masked_fill(padding_mask, 0) for name, part in parts.items()}
            frames = (~padding_mask).sum()
        parts = {name: part.sum() for name, part in parts.items()}
        total = sum(getattr(self, name) * part for name, part in parts.items())
        if set(parts) == {
            "relation"
        }:  # the maps take part at no cost: fairseq's default backend stops at unused ones
            total = total + 0 * sum(state.sum() for state in student)
        return total, parts, frames
