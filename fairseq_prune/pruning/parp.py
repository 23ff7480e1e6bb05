"""PARP and its baselines as one state machine that a training loop drives with its count of updates.

Lai et al. 2021, "PARP: Prune, Adjust and Re-Prune for Self-Supervised Speech Recognition" (arXiv 2106.05933).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Optional

import torch
from torch import Tensor, nn

from .magnitude import (
    Masks,
    apply_masks,
    check_masks,
    check_sparsity,
    left_out_share,
    magnitude_masks,
    overlap_share,
    pack_masks,
    random_masks,
    revived_share,
    unpack_masks,
)
from .schedules import risen_sparsity

METHODS = ("parp", "parp-p", "omp", "imp", "mpi", "random")
GROWING = ("parp", "parp-p")  # pruned weights are trained on between two prunings
ONE_SHOT = ("omp", "mpi", "random")  # one mask, found at the start


@dataclass(frozen=True)
class PruningPlan:
    """When weights are pruned, and to what sparsity, as a function of the updates that are done.

    Args:
        method: "parp" prunes at ``start`` and again every ``interval`` updates; "parp-p" does so while the sparsity
            rises from ``initial_sparsity``; between two prunings both let pruned weights grow. The others hold what
            is pruned at zero: "omp" prunes once, after ``start`` dense updates; "imp" in rounds of ``interval``
            updates, each of which leaves out the same share of what is left; "mpi" prunes the weights it begins
            with; "random" leaves out weights by chance.
        sparsity: of the final mask.
        interval: updates between two prunings.
        start: updates before the first pruning (imp: before its first round).
        end: update of the last pruning; from then on the mask is final. Of no meaning to omp, mpi and random.
        initial_sparsity, schedule: of parp-p, see `risen_sparsity`.

    Raises:
        ValueError: names the field, what was found and what is expected.
    """

    method: str
    sparsity: float
    interval: int = 1
    start: int = 0
    end: int = 0
    initial_sparsity: float = 0.0
    schedule: str = "linear"

    def __post_init__(self):
        if self.method not in METHODS:
            raise ValueError(f"pruning method: found {self.method!r}, expected one of {', '.join(METHODS)}")
        check_sparsity(self.sparsity)
        check_sparsity(self.initial_sparsity, "initial sparsity")
        risen_sparsity(0.0, self.sparsity, 0.0, self.schedule)
        if self.method == "parp-p" and self.initial_sparsity > self.sparsity:
            raise ValueError(
                f"initial sparsity: found {self.initial_sparsity}, expected at most the final {self.sparsity}"
            )
        if self.interval < 1:
            raise ValueError(f"pruning interval: found {self.interval}, expected 1 update or more")
        least = 1 if self.method == "omp" else 0
        if self.start < least:
            raise ValueError(
                f"first pruning of {self.method}: found update {self.start}, expected {least} or later"
                + (" (omp finds its mask after dense training)" if least else "")
            )
        if self.method not in ONE_SHOT and self.end <= self.start:
            raise ValueError(
                f"last pruning: found update {self.end}, expected one after the start ({self.start})"
            )

    def last_pruning(self, update: int) -> Optional[int]:
        """The last update up to ``update`` that a pruning followed; None before the first."""
        if self.method in ONE_SHOT:
            return self.start if update >= self.start else None
        if update >= self.end:
            return self.end
        moment = update - (update - self.start) % self.interval
        first = self.start + (self.interval if self.method == "imp" else 0)
        return moment if moment >= first else None

    def prunes_after(self, update: int) -> bool:
        """Whether a pruning follows this update; update 0 stands for the weights that training begins with."""
        return self.last_pruning(update) == update

    def grows_after(self, update: int) -> bool:
        """Whether the update that follows may bring pruned weights back."""
        return self.method in GROWING and self.start <= update < self.end

    def sparsity_after(self, update: int) -> float:
        """Of the mask in force: never falls, and is the final one from the last pruning on."""
        moment = self.last_pruning(update)
        if moment is None:
            return 0.0
        if self.method == "parp-p":
            progress = (moment - self.start) / (self.end - self.start)
            return risen_sparsity(progress, self.sparsity, self.initial_sparsity, self.schedule)
        if self.method == "imp" and moment < self.end:
            rounds = -(-(self.end - self.start) // self.interval)
            done = (moment - self.start) // self.interval
            return min(self.sparsity, 1 - (1 - self.sparsity) ** (done / rounds))
        return self.sparsity


class MagnitudePruner:
    """Keeps parameters of a model sparse while something else trains them.

    Outside of an update the weights are always those that the mask in force leaves: whatever looks at the model,
    validates it or saves it sees its exact sparsity. Where pruned weights may grow (parp, parp-p), the values that
    they have grown to are set aside after each update and put back before the next one, so that neither validation
    nor saving has an influence on training. They are part of the state: a resumed training goes on with them.

    Call `before_update` before each update and `after_update` after it, and once before the first with update 0.
    Calls that repeat themselves, as in gradient accumulation, have no effect.

    Args:
        parameters: by name, see `matching_parameters`.
        scope: see `magnitude_masks`.
        seed: of the random mask.
    """

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], plan: PruningPlan, scope: str = "global", seed: int = 1
    ):
        self.parameters = dict(parameters)
        self.plan = plan
        self.scope = scope
        self.seed = seed
        self.forget()

    def forget(self) -> None:
        """Back to before the first call; weights stay as they are."""
        self.update: Optional[int] = None
        self.masks: Masks = {}
        self.sparsity = 0.0  # of the mask in force: counted, not aimed at
        self.revived = 0.0  # share of the pruned weights that the last pruning brought back
        self.overlap = 1.0  # intersection over union of what the current and the first mask keep
        self._first: dict[str, Any] = {}
        self._packed: dict[str, Any] = {}  # the masks as a checkpoint has them, once one was asked for
        self._grown: dict[str, Tensor] = {}
        self._resumed = self._in_update = False

    @property
    def phase(self) -> str:
        """ "dense" before the first pruning, "growing" while pruned weights may come back, else "fixed"."""
        if not self.masks:
            return "dense"
        return "growing" if self.plan.grows_after(self.update) else "fixed"

    def before_update(self) -> None:
        """Give pruned weights the values that they have grown to."""
        with torch.no_grad():
            for name, grown in self._grown.items():
                self.parameters[name].add_(grown)
        self._grown = {}
        self._in_update = self.phase == "growing"

    def set_aside(self) -> None:
        """Leave the parameters sparse though an update has begun, as for a checkpoint of what went wrong in it.

        `before_update` undoes it.
        """
        if not self._in_update:
            return
        with torch.no_grad():
            for name, mask in self.masks.items():
                self._grown[name] = self.parameters[name] * ~mask
        self._mask(self.parameters)
        self._in_update = False

    def after_update(
        self,
        update: int,
        masters: Optional[Mapping[str, Tensor]] = None,
        averages: Iterable[Mapping[str, Tensor]] = (),
    ) -> bool:
        """Prune if it is time for it, and leave the parameters sparse.

        Args:
            update: the number of updates that are done.
            masters: by name, the copies in higher precision that the optimizer works on; magnitudes are theirs.
            averages: by name, moving averages of the parameters, which get the same zeros.

        Returns:
            whether this was a pruning.
        """
        masters = masters or {}
        if self._resumed and update == self.update:
            self._give_back(masters)
        self._resumed = False
        if update == self.update:
            return False
        if self.update is not None and update < self.update:  # another run has begun with these weights
            self.forget()
        self.update = update
        if self.plan.prunes_after(update):
            self._in_update = False
            self._prune({**self.parameters, **masters})
            for weights in (self.parameters, masters, *averages):
                self._mask(weights)
            return True
        if self.plan.grows_after(update):
            self.set_aside()
        else:
            self._mask(self.parameters)
            self._mask(masters)
        return False

    def _prune(self, weights: Mapping[str, Tensor]) -> None:
        before = self.masks
        sparsity = self.plan.sparsity_after(self.update)
        if self.plan.method == "random":
            self.masks = random_masks(weights, sparsity, self.seed, self.scope)
        else:
            self.masks = magnitude_masks(weights, sparsity, self.scope)
        self._packed = {}
        shares = [left_out_share(self.masks)]
        if before:
            shares += [
                revived_share(before, self.masks),
                overlap_share(unpack_masks(self._first), self.masks),
            ]
        else:
            self._first = pack_masks(self.masks)
        # the one place where a pruning waits for the device
        self.sparsity, self.revived, self.overlap = (*torch.stack(shares).tolist(), 0.0, 1.0)[:3]

    def _mask(self, weights: Mapping[str, Tensor]) -> None:
        apply_masks(weights, {name: mask for name, mask in self.masks.items() if name in weights})

    def _give_back(self, masters: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, grown in self._grown.items():
                if name in masters:
                    masters[name].add_(grown)

    def state_dict(self) -> dict:
        """All that a resumed training needs, with masks as bits, and what the checkpoint's reader wants to know."""
        self._packed = self._packed or pack_masks(self.masks)
        return {
            "method": self.plan.method,
            "phase": self.phase,
            "sparsity": self.sparsity,
            "update": self.update,
            "revived": self.revived,
            "overlap": self.overlap,
            "masks": _on_the_cpu(self._packed),
            "first_masks": _on_the_cpu(self._first),
            "grown": {name: grown[~self.masks[name]] for name, grown in self._grown.items()},
        }

    def load_state_dict(self, state: Mapping) -> None:
        """Go on from `state_dict`, when the parameters have been loaded.

        Raises:
            ValueError: the state is of other parameters.
        """
        self.forget()
        masks = unpack_masks(state["masks"])
        if masks:
            check_masks(self.parameters, masks, "pruning state of the checkpoint")
            check_masks(masks, self.parameters, "the model")
        device = {name: weight.device for name, weight in self.parameters.items()}
        self.masks = {name: mask.to(device[name]) for name, mask in masks.items()}
        self.update = state["update"]
        self.sparsity, self.revived, self.overlap = state["sparsity"], state["revived"], state["overlap"]
        self._first = {
            name: {**entry, "bits": entry["bits"].to(device[name])}
            for name, entry in state["first_masks"].items()
        }
        for name, values in state["grown"].items():
            grown = torch.zeros_like(self.parameters[name], requires_grad=False)
            self._grown[name] = grown.masked_scatter_(~self.masks[name], values.to(grown))
        self._resumed = True

    def __deepcopy__(self, memo) -> None:
        """A copy of the model, such as a moving average, is not pruned by a pruner of its own."""


def _on_the_cpu(packed: Mapping[str, Mapping]) -> dict:
    return {name: {**entry, "bits": entry["bits"].cpu()} for name, entry in packed.items()}
