"""Steps of training side by side: seconds, in turns, and memory."""

import gc
import multiprocessing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

import numpy as np
import torch

from fairseq_prune.benchmarks.measure import Medians, resident
from fairseq_prune.benchmarks.report import table
from fairseq_prune.benchmarks.specs import TINY, Spec
from fairseq_prune.benchmarks.stages import clock
from fairseq_prune.benchmarks.training_kinds import build_steps
from fairseq_prune.benchmarks.updates import Batch


@dataclass
class Measured(Medians):
    """seconds: of the updates. speedups: the first one's seconds over this one's, round by round. memory: MiB."""

    name: str
    tokens: int
    macs: Optional[int]
    seconds: list[float]
    speedups: list[float] = field(default_factory=list)
    ideal: Optional[float] = None
    memory: Optional[float] = None


def measure_steps(
    specs: Sequence[Spec],
    batch: Batch,
    device: torch.device,
    rounds: int,
    processor: bool = False,
    sizes: Optional[dict[str, Any]] = None,
) -> Iterator[list[Measured]]:
    """Time the steps of each group in turns, after a round that is not counted; sizes as of `build_steps`."""
    for steps in build_steps(specs, batch, device, sizes):
        seconds = np.zeros((rounds + 1, len(steps)))
        for turn in range(rounds + 1):
            for i, step in enumerate(steps):
                start = clock(device, processor)
                step.run()
                seconds[turn, i] = clock(device, processor) - start
        seconds, macs = seconds[1:], [step.macs for step in steps]
        yield [
            Measured(
                step.name,
                batch.batch * batch.tokens,
                step.macs,
                seconds[:, i].tolist(),
                (seconds[:, 0] / seconds[:, i]).tolist(),
                macs[0] / step.macs if macs[0] and step.macs else None,
            )
            for i, step in enumerate(steps)
        ]
        del steps
        gc.collect()


def training_memory(
    spec: Spec, batch: Batch, device: str, threads: int, sizes: Optional[dict[str, Any]] = None
) -> float:
    """Peak memory in MiB of two updates, of weights, gradients, Adam and activations, in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_training_memory, (spec, batch, device, threads, sizes))


def _training_memory(spec: Spec, batch: Batch, device: str, threads: int, sizes) -> float:
    torch.set_num_threads(threads)
    device = torch.device(device)
    ((step,),) = build_steps([Spec(spec.name)], Batch(0.5, 1, 2), device, TINY)
    step.run()  # imports libraries, which are not to count
    before = resident("VmRSS")
    ((step,),) = build_steps([spec], batch, device, sizes)
    if device.type == "cpu":
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak begins anew
    for _ in range(2):
        step.run()
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resident("VmHWM") - before


def training_table(measured: Sequence[Sequence[Measured]], reading: float) -> str:
    """A table in markdown; speed-ups are to the first row of each group.

    Args:
        reading: seconds in which the batch is read (`reading_speed`); its share is of reading and update together.
    """
    rows = []
    for m in (m for group in measured for m in group):
        quartiles = np.percentile(m.seconds, [25, 75])
        rows.append(
            {
                "training": m.name,
                "seconds an update": f"{m.median:.3f}",
                "quartiles": f"{quartiles[0]:.3f} to {quartiles[1]:.3f}",
                "reading": f"{reading:.4f}",
                "share": f"{100 * reading / (reading + m.median):.2f} %",
                "tokens/s": f"{m.tokens / m.median:.1f}",
                "peak memory (MiB)": "" if m.memory is None else f"{m.memory:.0f}",
                "GMACs": "" if m.macs is None else f"{m.macs / 1e9:.1f}",
                "speed-up": f"{m.speedup:.2f}",
                "ideal": "" if m.ideal is None else f"{m.ideal:.2f}",
            }
        )
    return table(rows)
