"""Measuring entries side by side: in turns, so that ratios hold on a machine that does other things too."""

import ctypes
import multiprocessing
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

import numpy as np
import torch
from torch import Tensor

from fairseq_prune.benchmarks.entries import Entry, build_entry
from fairseq_prune.benchmarks.specs import Spec
from fairseq_prune.benchmarks.stages import clock, timed_stages
from fairseq_prune.constants import SAMPLE_RATE


@dataclass(frozen=True)
class Setting:
    """What is encoded, or translated: ``batch`` utterances of so many seconds of noise.

    tokens: of each translation; 0: the encoder alone.
    """

    seconds: float
    batch: int
    tokens: int = 0

    def waveforms(self, device: torch.device) -> Tensor:
        """(batch, samples), always the same."""
        generator = torch.Generator().manual_seed(0)
        samples = round(self.seconds * SAMPLE_RATE)
        return (0.1 * torch.randn(self.batch, samples, generator=generator)).to(device)


class Medians:
    """Of what has the ``seconds`` of rounds, and in ``speedups`` the first entry's over its own, round by round."""

    seconds: list[float]
    speedups: list[float]

    @property
    def median(self) -> float:
        """Seconds."""
        return float(np.median(self.seconds))

    @property
    def speedup(self) -> float:
        """Median over rounds."""
        return float(np.median(self.speedups))


@dataclass
class Measurement(Medians):
    """An entry under a setting.

    seconds: of each round. macs: of the batch, by stage. stage_seconds: by stage, medians; measured apart, and
    with the timers' own time. speedups: the first entry's seconds over this one's, of each round. ideal: the first
    one's MACs over this one's. memory: peak in MiB beyond what lay in memory before, None if not measured.
    """

    entry: str
    dtype: str
    parameters: int
    megabytes: float
    setting: Setting
    seconds: list[float]
    macs: dict[str, int]
    stage_seconds: dict[str, float] = field(default_factory=dict)
    speedups: list[float] = field(default_factory=list)
    ideal: float = 1.0
    memory: Optional[float] = None

    @property
    def reached(self) -> float:
        """Share of the ideal speed-up."""
        return self.speedup / self.ideal

    @property
    def real_time_factor(self) -> float:
        """Seconds for each second of audio in the batch."""
        return self.median / (self.setting.seconds * self.setting.batch)


def call_of(entry: Entry, setting: Setting, device: torch.device) -> Callable[[], Any]:
    """One pass of the entry.

    Raises:
        ValueError: it should translate, but only encodes.
    """
    waveforms = setting.waveforms(device)
    if not setting.tokens:
        return lambda: entry.encode(waveforms)
    if entry.translate is None:
        raise ValueError(f"{entry.spec}: encodes only, and cannot be measured end to end")
    return lambda: entry.translate(waveforms, setting.tokens)


def macs_of(entry: Entry, setting: Setting, beam: int) -> dict[str, int]:
    """MACs of the whole batch by stage."""
    samples = round(setting.seconds * SAMPLE_RATE)
    one = entry.translation_macs(samples, setting.tokens, beam) if setting.tokens else entry.macs(samples)
    return {stage: setting.batch * count for stage, count in one.items()}


def measure(
    entries: Sequence[Entry],
    settings: Sequence[Setting],
    device: torch.device,
    rounds: int,
    beam: int,
    processor: bool = False,
    stage_rounds: int = 1,
) -> Iterator[list[Measurement]]:
    """Time all entries under each setting; in every round they take turns.

    Args:
        rounds: after one that is not counted.
        beam: of translations.
        processor: seconds of processor time, for a busy machine; not wall-clock.
        stage_rounds: further rounds in which stages are timed.

    Yields:
        the entries' measurements, for each setting.
    """

    def now() -> float:
        return clock(device, processor)

    for setting in settings:
        calls = [call_of(entry, setting, device) for entry in entries]
        seconds = np.zeros((rounds + 1, len(entries)))
        for turn in range(rounds + 1):
            for i, call in enumerate(calls):
                start = now()
                call()
                seconds[turn, i] = now() - start
        seconds = seconds[1:]
        found = []
        for i, entry in enumerate(entries):
            macs = macs_of(entry, setting, beam)
            by_stage = []
            for _ in range(stage_rounds):
                with timed_stages(entry.stages, now) as stages:
                    calls[i]()
                by_stage.append(stages)
            names = dict.fromkeys(name for stages in by_stage for name in stages)
            found.append(
                Measurement(
                    entry=str(entry.spec),
                    dtype=entry.spec.dtype,
                    parameters=entry.parameters,
                    megabytes=entry.megabytes(),
                    setting=setting,
                    seconds=seconds[:, i].tolist(),
                    macs=macs,
                    stage_seconds={n: float(np.median([s.get(n, 0.0) for s in by_stage])) for n in names},
                    speedups=(seconds[:, 0] / seconds[:, i]).tolist(),
                )
            )
            found[i].ideal = sum(found[0].macs.values()) / sum(macs.values())
        yield found


def peak_memory(spec: Spec, settings: Sequence[Setting], device: str, beam: int, threads: int) -> list[float]:
    """Peak memory of each setting in MiB, beyond the model's, in a process that has this entry alone."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_peak_memory, (spec, settings, device, beam, threads))


def _peak_memory(
    spec: Spec, settings: Sequence[Setting], device: str, beam: int, threads: int
) -> list[float]:
    torch.set_num_threads(threads)
    device = torch.device(device)
    entry = build_entry(spec, device, beam)
    call_of(entry, Setting(1.0, 1, min(settings[0].tokens, 1)), device)()  # what is loaded at the first call
    found = []
    for setting in settings:
        call = call_of(entry, setting, device)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            before = torch.cuda.memory_allocated(device)
            call()
            found.append((torch.cuda.max_memory_allocated(device) - before) / 2**20)
            continue
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak begins anew
        before = resident("VmRSS")
        call()
        found.append(resident("VmHWM") - before)
    return found


def resident(name: str) -> float:
    """MiB, of a line of Linux's /proc/self/status: VmRSS, or VmHWM for the peak."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(re.search(rf"{name}:\s+(\d+) kB", status).group(1)) / 1024
