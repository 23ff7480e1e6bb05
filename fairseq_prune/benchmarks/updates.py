"""What all kinds of training are made of: a batch, a step, and an update by fairseq's Adam."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Optional

import torch
from fairseq.optim.adam import FairseqAdam
from omegaconf import OmegaConf
from torch import Tensor, nn

from fairseq_prune.constants import SAMPLE_RATE
from fairseq_prune.optim.adam_with_gates import AdamWithGates


@dataclass(frozen=True)
class Batch:
    """``batch`` utterances of so many seconds, with ``tokens`` each."""

    seconds: float = 5.0
    batch: int = 2
    tokens: int = 25

    def waveforms(self, device: torch.device) -> Tensor:
        """(batch, samples) of noise, always the same."""
        generator = torch.Generator().manual_seed(0)
        return 0.1 * torch.randn(self.batch, self.samples, generator=generator).to(device)

    @property
    def samples(self) -> int:
        """Of an utterance."""
        return round(self.seconds * SAMPLE_RATE)

    def targets(self, classes: int, device: torch.device) -> Tensor:
        """(batch, tokens)."""
        generator = torch.Generator().manual_seed(1)
        return torch.randint(4, classes, (self.batch, self.tokens), generator=generator).to(device)


@dataclass
class Step:
    """A kind of training: ``run`` does an update and returns its loss. macs: of a batch; trained parts count thrice."""

    name: str
    run: Callable[[], Tensor]
    macs: Optional[int] = None


def update(loss_of: Callable[[], Tensor], optimizer) -> Tensor:
    """An update; returns its loss, 0-dim."""
    optimizer.zero_grad()
    loss = loss_of()
    loss.backward()
    optimizer.step()
    return loss.detach()


def adam(module: nn.Module, gates: bool = False):
    """fairseq's Adam for what is trained; ``gates``: with a learning rate of their own."""
    config = {"adam_betas": [0.9, 0.98], "adam_eps": 1e-8, "weight_decay": 0.0, "fp16_adam_stats": False}
    config = OmegaConf.create({**config, "lr": [1e-5], "tpu": False, "gate_lr": 0.02})
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return (AdamWithGates if gates else FairseqAdam)(config, parameters)
