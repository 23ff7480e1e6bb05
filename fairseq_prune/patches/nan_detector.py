"""A gradient that is not finite ends training in one line: the first module that had it, and the utterances.

fairseq looks for it with hooks that understand tensors, tuples and dicts of tensors, but neither the dataclasses of
this package nor the dicts of lists that fairseq's own encoders return.
"""

import dataclasses
import functools
from collections.abc import Iterator, Mapping

import torch
from fairseq import nan_detector, trainer
from fairseq.trainer import Trainer
from torch import Tensor

MOST_IDS = 20


def install() -> None:
    """Replace fairseq's detector and what follows it; safe to call again."""
    if trainer.NanDetector is not Detector:
        trainer.NanDetector = Detector
        Trainer.train_step = _in_one_line(Trainer.train_step)


def tensors_in(output) -> Iterator[Tensor]:
    """All tensors of what a module returns, however it holds them."""
    if isinstance(output, Tensor):
        yield output
    elif dataclasses.is_dataclass(output):
        for field in dataclasses.fields(output):
            yield from tensors_in(getattr(output, field.name))
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from tensors_in(value)
    elif isinstance(output, (list, tuple)):
        for value in output:
            yield from tensors_in(value)


class Detector(nan_detector.NanDetector):
    """fairseq's, with hooks on the tensors themselves."""

    found = None  # the first that was found while any detector looked

    def __init__(self, model, forward=True, backward=True):
        Detector.found = None
        super().__init__(model, forward, backward)

    def add_hooks(self, module):
        """Called for each module; the gradients' hooks follow when there are tensors."""
        self.fhooks.append(module.register_forward_hook(self.fhook_fn))

    def fhook_fn(self, module, inp, output):
        """After the forward pass of a module."""
        for tensor in tensors_in(output):
            if self.forward and not self.has_printed_f:
                self._apply(module, inp, tensor, backward=False)
            if self.backward and tensor.requires_grad:
                tensor.register_hook(functools.partial(self._look, module))

    def _look(self, module, gradient):
        if not self.has_printed_b:
            self._apply(module, (), gradient, backward=True)

    def _detect(self, tensor, name, backward):
        error = super()._detect(tensor, name, backward)
        Detector.found = Detector.found or error
        return error


def _in_one_line(train_step):
    @functools.wraps(train_step)
    def train(self, samples, *args, **options):
        try:
            return train_step(self, samples, *args, **options)
        except FloatingPointError as error:
            found, said = Detector.found or "found in no module's output", " ".join(str(error).split())
            raise ValueError(
                f"update {self.get_num_updates() + 1}: {said}: {found}; utterances (rows of the data, from 0):"
                f" {ids_of(samples)}; crash.pt has the state"
            ) from error

    return train


def ids_of(samples) -> str:
    """The ids of the utterances in the batches of an update: `4, 17, 3`."""
    ids = []
    for sample in samples:
        found = sample.get("id") if isinstance(sample, Mapping) else None
        if found is not None:
            ids += found.tolist() if torch.is_tensor(found) else list(found)
    more = f" and {len(ids) - MOST_IDS} more" if len(ids) > MOST_IDS else ""
    return ", ".join(map(str, ids[:MOST_IDS])) + more
