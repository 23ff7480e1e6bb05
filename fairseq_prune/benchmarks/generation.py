"""Milliseconds of a step of generation, in turns, by stage, and the share of the memory's bandwidth."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from fairseq_prune.benchmarks.generation_kinds import build_generator
from fairseq_prune.benchmarks.measure import Medians
from fairseq_prune.benchmarks.report import table
from fairseq_prune.benchmarks.specs import Spec
from fairseq_prune.benchmarks.stages import clock, timed_stages

CPU = torch.device("cpu")
STAGES = (
    "self-attention",
    "cross-attention",
    "feed-forward",
    "output projection",
    "rest of the decoder",
    "beam search",
)


@dataclass(frozen=True)
class Task:
    """Write ``tokens`` tokens of each of ``batch`` sentences of so many seconds; a step writes one of each."""

    seconds: float
    batch: int
    beam: int
    tokens: int

    @property
    def steps(self) -> int:
        """With the one that writes the end."""
        return self.tokens + 1


@dataclass
class Written(Medians):
    """seconds: of ``write`` in each round, without the encoder. stages: seconds of each. encoder: seconds."""

    name: str
    task: Task
    seconds: list[float]
    speedups: list[float]
    stages: dict[str, float] = field(default_factory=dict)
    encoder: float = 0.0
    bytes: int = 0

    @property
    def step(self) -> float:
        """Seconds of a step."""
        return self.median / self.task.steps


def copy_bandwidth(processor: bool = False) -> float:
    """Bytes a second that a copy beyond the caches reads and writes, on this thread."""
    source = torch.zeros(2**26)
    target, seconds = torch.empty_like(source), []
    for _ in range(4):
        start = clock(CPU, processor)
        target.copy_(source)
        seconds.append(clock(CPU, processor) - start)
    return 2 * source.numel() * source.element_size() / min(seconds[1:])


def measure_generation(
    specs: Sequence[Spec], tasks: Sequence[Task], rounds: int, processor: bool = False, sizes=None
) -> list[list[Written]]:
    """The generators of each task; in every round, after one that is not counted, they take turns."""
    generators, groups = [build_generator(spec, sizes) for spec in specs], []
    for task in tasks:
        encoded, encoder = [], []
        for generator in generators:
            start = clock(CPU, processor)
            encoded.append(generator.encode(task.batch, task.seconds))
            encoder.append(clock(CPU, processor) - start)
        seconds = np.zeros((rounds + 1, len(generators)))
        for turn in range(rounds + 1):
            for i, generator in enumerate(generators):
                start = clock(CPU, processor)
                generator.write(encoded[i], task.tokens, task.beam)
                seconds[turn, i] = clock(CPU, processor) - start
        seconds, group = seconds[1:], []
        for i, generator in enumerate(generators):
            stages: dict[str, float] = {}
            if generator.stages:
                with timed_stages(generator.stages, lambda: clock(CPU, processor)) as stages:
                    generator.write(encoded[i], task.tokens, task.beam)
                stages = {
                    ("beam search" if name == "other" else name): value for name, value in stages.items()
                }
            speedups = (seconds[:, 0] / seconds[:, i]).tolist()
            group.append(
                Written(
                    generator.name,
                    task,
                    seconds[:, i].tolist(),
                    speedups,
                    stages,
                    encoder[i],
                    generator.bytes,
                )
            )
        groups.append(group)
    return groups


def generation_table(groups: Sequence[Sequence[Written]], bandwidth: float) -> str:
    """Markdown; speed-ups are to the first row of each group."""
    rows = []
    for written in (written for group in groups for written in group):
        task = written.task
        milliseconds = {name: 1000 * s / task.steps for name, s in written.stages.items()}
        reads_once = (
            written.bytes and task.batch * task.beam <= 5
        )  # with more rows, products are not bound by memory
        read = written.bytes / written.step / bandwidth if reads_once else None
        rows.append(
            {
                "entry": written.name,
                "beam": str(task.beam),
                "batch": str(task.batch),
                "ms a step": f"{1000 * written.step:.1f}",
                "speed-up": f"{written.speedup:.2f}",
                **{name: f"{milliseconds[name]:.1f}" if name in milliseconds else "" for name in STAGES},
                "weights (MB)": f"{written.bytes / 1e6:.0f}" if written.bytes else "",
                "of the bandwidth": "" if read is None else f"{100 * read:.0f} %",
                "encoder (s)": f"{written.encoder:.3f}" if written.stages else "",
                "sentence (s)": f"{(written.encoder + written.median) / task.batch:.3f}"
                if written.stages
                else "",
            }
        )
    return table(rows)
