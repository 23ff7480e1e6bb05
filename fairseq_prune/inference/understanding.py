"""Understanding waveforms with a checkpoint alone: no data folder, no flags of the training."""

from collections.abc import Sequence
from typing import Any, Optional

import torch
from omegaconf import open_dict
from torch import Tensor
from tqdm import tqdm

from fairseq_prune.checkpoints.loading import load_fairseq_state, load_state_dict_strictly
from fairseq_prune.data.log_mel import log_mel
from fairseq_prune.data.slu_dataset import collate_features
from fairseq_prune.inference.base import usable_device
from fairseq_prune.tasks.spoken_language_understanding import SpokenLanguageUnderstandingTask


class Understander:
    """A trained model of the task ``spoken_language_understanding``, ready to use.

    Args:
        checkpoint: file that fairseq-train wrote under the task
        overrides: options of the checkpoint to change, such as ``{"audio_context": "30s"}``
        beam: beam size
        max_tokens: longest text, in tokens
        device: where to run

    Raises:
        FileNotFoundError: there is no such checkpoint.
        ValueError: it is no checkpoint, or of another task; an override or the device cannot be used.
    """

    def __init__(
        self,
        checkpoint: str,
        overrides: Optional[dict[str, Any]] = None,
        beam: int = 1,
        max_tokens: int = 200,
        device: str = "cpu",
    ):
        self.device = usable_device(device)
        state = load_fairseq_state(checkpoint, overrides)
        cfg = state["cfg"]
        if cfg.task._name != "spoken_language_understanding":
            raise ValueError(
                f"{checkpoint}: a checkpoint of task {cfg.task._name}, expected spoken_language_understanding"
            )
        self.task = SpokenLanguageUnderstandingTask.from_state(cfg.task, state["task_state"])
        model = self.task.build_model(cfg.model, from_checkpoint=True)
        load_state_dict_strictly(model, state["model"], checkpoint)
        self.model = model.eval().to(self.device)
        with open_dict(cfg.generation):
            cfg.generation.beam = beam
            cfg.generation.max_len_a, cfg.generation.max_len_b = 0, max_tokens
        self.generator = self.task.build_generator([self.model], cfg.generation)

    @torch.inference_mode()
    def texts(
        self, waveforms: Sequence[Tensor], batch_size: int = 8, progress: Optional[str] = None
    ) -> list[str]:
        """The best text of each waveform (samples,) at 16 kHz in [-1, 1]: a parse, where parses were learned.

        Args:
            progress: title of a progress bar

        Raises:
            ValueError: a waveform is empty, or longer than the model's context of 30 s.
        """
        if any(len(waveform) == 0 for waveform in waveforms):
            raise ValueError("expected audio, found a waveform of 0 samples")
        features = [log_mel(waveform, self.task.cfg.mel_bins) for waveform in waveforms]
        order = sorted(range(len(features)), key=lambda i: -len(features[i]))
        texts = [""] * len(features)
        starts = range(0, len(order), batch_size)
        for start in tqdm(starts, desc=progress, unit="batch", disable=progress is None):
            indices = order[start : start + batch_size]
            batch = collate_features([features[i] for i in indices])
            sample = {"net_input": {name: value.to(self.device) for name, value in batch.items()}}
            for i, found in zip(indices, self.generator.generate([self.model], sample)):
                texts[i] = self.task.tokenizer.decode(found[0]["tokens"])
        return texts
