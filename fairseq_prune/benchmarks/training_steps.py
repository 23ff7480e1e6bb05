"""Updates a second and the memory that they take."""

import time
from dataclasses import dataclass
from typing import Optional

import torch
from torch import nn

from fairseq_prune.benchmarks.device_checks import Subject, build_translator, task_of
from fairseq_prune.criterions.speech_translation import SpeechTranslationCriterion


@dataclass
class Training:
    """updates_per_second; memory: peak in MiB with weights, gradients and optimizer, None on the CPU."""

    name: str
    updates_per_second: float
    memory: Optional[float]


def measure_training(subject: Subject, name: str, options: dict, updates: int) -> Training:
    """Time some updates by Adam, under autocast to bfloat16, after one that is not counted.

    Args:
        name: how reports call it.
        options: of the model, beside the subject's.
    """
    device = subject.device
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    model = build_translator({**subject.options, **options}).to(device).train()
    optimizer = torch.optim.Adam(parameter for parameter in model.parameters() if parameter.requires_grad)
    criterion = SpeechTranslationCriterion(task_of(), False, 0.1, 0, False, 1.0, 0.0)
    sample = subject.sample(device)
    _update(model, criterion, optimizer, sample)
    start = _now(device)
    for _ in range(updates):
        _update(model, criterion, optimizer, sample)
    seconds = _now(device) - start
    memory = torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None
    return Training(name, updates / seconds, memory)


def _update(model: nn.Module, criterion, optimizer, sample: dict) -> None:
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast(sample["target"].device.type, torch.bfloat16):
        loss, sample_size, _ = criterion(model, sample)
    (loss / sample_size).backward()
    optimizer.step()


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
