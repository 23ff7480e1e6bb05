"""What every use of a checkpoint alone shares: device, precision, loading, batches by length, progress."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Optional

import torch
from fairseq import tasks
from omegaconf import DictConfig, open_dict
from torch import Tensor, nn
from tqdm import tqdm

import fairseq_prune.tasks  # noqa: F401  (registers models and tasks, which checkpoints name)
from fairseq_prune.checkpoints.loading import load_fairseq_state, load_state_dict_strictly, usable
from fairseq_prune.modules import kernels

SILENCE = 2**-16  # half of the smallest step of 16-bit audio


def usable_device(name: str) -> torch.device:
    """The device of that name; raises ValueError where this machine or build of torch has none."""
    try:
        return torch.empty(0, device=name).device
    except (AssertionError, RuntimeError) as error:  # what torch raises on a build or machine without it
        raise ValueError(f"device {name!r} cannot be used: {str(error).splitlines()[0]}") from None


def is_silent(waveform: Tensor) -> bool:
    """Whether a waveform (samples,) is digital silence: a constant, which no microphone records."""
    return len(waveform) == 0 or float(waveform.max() - waveform.min()) < SILENCE


def batches_by_length(
    lengths: Sequence[int],
    most: Optional[int] = None,
    max_samples: Optional[int] = None,
    shortest: int = 1,
) -> list[list[int]]:
    """Indices of waveforms of similar length together, longest first.

    Args:
        lengths: samples of each waveform.
        most: waveforms in a batch.
        max_samples: in a batch, with its padding; a longer waveform is a batch alone.
        shortest: waveforms of fewer samples are in no batch.
    """
    batches: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if lengths[i] < shortest:
            continue
        size = len(batches[-1]) + 1 if batches else 0
        fits = size and (most is None or size <= most)
        if fits and (max_samples is None or size * lengths[batches[-1][0]] <= max_samples):
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches


class Pipeline(ABC):
    """A checkpoint of fairseq-train, ready to make a text of each waveform.

    Waveforms are tensors (samples,) at 16 kHz in [-1, 1]. The text of one does not depend on those beside it. It is
    empty for digital silence, and for a waveform of fewer than ``shortest`` samples.

    A subclass names its task, and says what becomes of a batch; it may build the task in its own way. On the CPU the
    first pipeline of a machine measures which kernels are fastest there, for a second (`modules.kernels`).

    Args:
        checkpoint: file that fairseq-train wrote.
        overrides: options of the checkpoint to change.
        device: where to run.
        half: float16, on GPUs.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        ValueError: it is no checkpoint, or of another task or model; an override or the device cannot be used;
            FAIRSEQ_PRUNE_KERNELS is none of its settings.
    """

    task_name: str
    shortest = 1  # samples that the encoder needs

    def __init__(
        self,
        checkpoint: str,
        overrides: Optional[dict[str, Any]] = None,
        device: str = "cpu",
        half: bool = False,
    ):
        self.checkpoint, self.device, self.half = checkpoint, usable_device(device), half
        if self.device.type == "cpu":
            kernels.choose()
        if half and self.device.type == "cpu":
            raise ValueError("float16 needs a GPU, found device cpu")
        state = self.read(checkpoint, overrides)
        self.cfg = state["cfg"]
        with usable(checkpoint):
            self.check(checkpoint, self.cfg)
            self.task = self.build_task(checkpoint, self.cfg, state)
            self.model = self.build_model(checkpoint, self.cfg, state).eval().to(self.device)
        if half:
            self.model.half()

    # -- what a subclass may change

    def read(self, checkpoint: str, overrides: Optional[dict[str, Any]]) -> dict[str, Any]:
        """The content of the checkpoint, brought up to date."""
        return load_fairseq_state(checkpoint, overrides)

    def check(self, checkpoint: str, cfg: DictConfig) -> None:
        """Raise ValueError if the checkpoint is of another kind; nothing of it has been built yet."""
        if cfg.task._name != self.task_name:
            raise ValueError(
                f"{checkpoint}: a checkpoint of task {cfg.task._name}, expected {self.task_name}"
            )

    def build_task(self, checkpoint: str, cfg: DictConfig, state: dict):
        """The task, with the vocabularies that the checkpoint holds."""
        return tasks.TASK_REGISTRY[self.task_name].from_state(cfg.task, state["task_state"])

    def build_model(self, checkpoint: str, cfg: DictConfig, state: dict) -> nn.Module:
        """The model with all of the checkpoint's weights, and its warm-up where it was."""
        model = self.task.build_model(cfg.model, from_checkpoint=True)
        load_state_dict_strictly(model, state["model"], checkpoint)
        history = state.get("optimizer_history")  # published checkpoints may have none
        if history:
            model.set_num_updates(history[-1]["num_updates"])
        return model

    # -- texts

    @torch.inference_mode()
    def run(
        self,
        batches: Sequence[Sequence[int]],
        count: int,
        read: Callable[[int], Tensor],
        texts_of: Callable[[list[Tensor]], list[str]],
        progress: Optional[str] = None,
    ) -> list[str]:
        """The texts of ``count`` waveforms, from what ``texts_of`` makes of each batch.

        Args:
            batches: indices of the waveforms, as of `batches_by_length`; those in none have an empty text.
            read: the waveform of an index. It is called when its batch is due, so that a corpus need not fit in
                memory.
            progress: title of a progress bar.
        """
        texts = [""] * count
        for indices in tqdm(batches, desc=progress, unit="batch", disable=progress is None):
            waveforms = {i: read(i) for i in indices}
            heard = {i: waveform for i, waveform in waveforms.items() if not is_silent(waveform)}
            if heard:
                for i, text in zip(heard, texts_of(list(heard.values()))):
                    texts[i] = text
        return texts


class GenerationPipeline(Pipeline):
    """A pipeline whose decoder writes the texts, with fairseq's generator.

    Args:
        beam: beam size.
        max_tokens: longest text, in tokens.
    """

    def __init__(
        self,
        checkpoint: str,
        overrides: Optional[dict[str, Any]] = None,
        beam: int = 1,
        max_tokens: int = 200,
        device: str = "cpu",
        half: bool = False,
    ):
        super().__init__(checkpoint, overrides, device, half)
        with usable(checkpoint):
            generation = self.cfg.generation
            with open_dict(generation):
                generation.beam, generation.max_len_a, generation.max_len_b = beam, 0, max_tokens
            self.model.prepare_for_inference_(self.cfg)
            self.generator = self.task.build_generator([self.model], generation)

    @abstractmethod
    def batch(self, waveforms: Sequence[Tensor]) -> dict[str, dict[str, Tensor]]:
        """What the model takes of waveforms, as ``{"net_input": ...}``, on the device and in its precision."""

    @abstractmethod
    def decode(self, tokens: Tensor) -> str:
        """The text of tokens (length,) that the model wrote."""

    def generate(self, waveforms: list[Tensor]) -> list[str]:
        """The best text of each waveform of a batch."""
        found = self.generator.generate([self.model], self.batch(waveforms))
        return [self.decode(hypotheses[0]["tokens"]) for hypotheses in found]

    def texts(
        self, waveforms: Sequence[Tensor], batch_size: int = 8, progress: Optional[str] = None
    ) -> list[str]:
        """The best text of each waveform; ``progress`` is the title of a progress bar."""
        batches = self.batches(waveforms, batch_size)
        return self.run(batches, len(waveforms), waveforms.__getitem__, self.generate, progress)

    def batches(self, waveforms: Sequence[Tensor], batch_size: int) -> list[list[int]]:
        """Indices of the waveforms, ``batch_size`` of similar length together, longest first."""
        return batches_by_length(
            [len(waveform) for waveform in waveforms], batch_size, shortest=self.shortest
        )
