"""Kinds of training as steps that can be timed: forward pass, backward pass and Adam, on noise and random weights."""

from collections.abc import Iterator, Sequence
from typing import Any, Optional

import torch

from fairseq_prune.benchmarks.specs import Spec
from fairseq_prune.benchmarks.training_of_hubert import distillation, recognition
from fairseq_prune.benchmarks.training_of_translation import translation
from fairseq_prune.benchmarks.training_of_whisper import understanding
from fairseq_prune.benchmarks.updates import Batch, Step

TRAININGS = {
    "st": "speech translation: hubert_deltalm, whose extractor is frozen (keep= and start= prune)",
    "st_fairseq": "the same model, with fairseq's own passes through HuBERT and its own Adam",
    "dphubert": "the first stage of DPHuBERT, with gates",
    "dphubert_second": "its second stage: a student that was cut, without gates",
    "plain_dphubert": "the first stage on torchaudio's HuBERT, restated plainly as published",
    "ctc": "fine-tuning of fairseq's HuBERT with CTC",
    "parp": "the same, pruned to a half after each update (PARP; as published after every 50th)",
    "slu": "spoken language understanding: half of whisper-tiny.en's layers learn from all of them (PruneSLU)",
    "slu_transformers": "the same on transformers' Whisper, restated plainly",
}
GROUPS = (
    ({"st", "st_fairseq"}, translation),
    ({"dphubert", "dphubert_second", "plain_dphubert"}, distillation),
    ({"ctc", "parp"}, recognition),
    ({"slu", "slu_transformers"}, understanding),
)


def build_steps(
    specs: Sequence[Spec], batch: Batch, device: torch.device, sizes: Optional[dict[str, Any]] = None
) -> Iterator[list[Step]]:
    """The steps, in groups that are compared; those of a group share weights where they can.

    Args:
        sizes: options of hubert_deltalm, for smaller models in tests; default: the published sizes.

    Raises:
        ValueError: a name is none of TRAININGS, an option is not for it, or a library is missing.
    """
    for spec in specs:
        if spec.name not in TRAININGS:
            raise ValueError(f"training: found {spec.name!r}, expected some of {', '.join(TRAININGS)}")
        pruned = dict(keep=spec.keep, start=spec.start, keeps=spec.keeps) if spec.name == "st" else {}
        if spec != Spec(spec.name, label=spec.label, **pruned):
            raise ValueError(f"{spec}: training takes label=, and of st keep=, start= and keeps=")
    for names, build in GROUPS:
        chosen = [spec for spec in specs if spec.name in names]
        if chosen:
            torch.manual_seed(0)
            yield build(chosen, batch, device, sizes)
