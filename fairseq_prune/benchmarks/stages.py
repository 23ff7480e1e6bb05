"""Seconds by stage of a model, whose code knows nothing of it."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Stage:
    """Calls of ``owner.method`` count as the stage ``name``, apart from stages that are called within."""

    name: str
    owner: Any
    method: str = "forward"


def clock(device: torch.device, processor: bool = False) -> float:
    """Seconds after all work of the device is done; of this process's processor time, if asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.process_time() if processor else time.perf_counter()


@contextmanager
def timed_stages(stages: Sequence[Stage], now: Callable[[], float]) -> Iterator[dict[str, float]]:
    """Within it the stages' methods are timed; gives {stage: seconds}, to which "other" is what is left."""
    seconds: dict[str, float] = defaultdict(float)
    running, mark = ["other"], [now()]

    def lap() -> None:
        moment = now()
        seconds[running[-1]] += moment - mark[0]
        mark[0] = moment

    def timed(method: Callable, name: str) -> Callable:
        def call(*args, **kwargs):
            lap()
            running.append(name)
            try:
                return method(*args, **kwargs)
            finally:
                lap()
                running.pop()

        return call

    for stage in stages:
        setattr(stage.owner, stage.method, timed(getattr(stage.owner, stage.method), stage.name))
    try:
        yield seconds
        lap()
    finally:
        for stage in stages:
            delattr(
                stage.owner, stage.method
            )  # the attribute of the object, which hid the method of its class
