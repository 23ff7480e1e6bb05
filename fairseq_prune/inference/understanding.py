"""Understanding waveforms with a checkpoint of the task `spoken_language_understanding`."""

from collections.abc import Sequence
from typing import Optional

from torch import Tensor

from fairseq_prune.data.log_mel import log_mel
from fairseq_prune.data.slu_dataset import collate_features
from fairseq_prune.inference.base import GenerationPipeline


class Understander(GenerationPipeline):
    """A trained model of the task ``spoken_language_understanding``: its texts are parses, where it learned parses."""

    task_name = "spoken_language_understanding"

    def batch(self, waveforms: Sequence[Tensor]) -> dict[str, dict[str, Tensor]]:
        """Log-mel spectrograms, padded to the longest, and their lengths."""
        batch = collate_features([log_mel(waveform, self.task.cfg.mel_bins) for waveform in waveforms])
        batch = {name: value.to(self.device) for name, value in batch.items()}
        if self.half:
            batch = {
                name: value.half() if value.is_floating_point() else value for name, value in batch.items()
            }
        return {"net_input": batch}

    def decode(self, tokens: Tensor) -> str:
        return self.task.tokenizer.decode(tokens)

    def texts(
        self, waveforms: Sequence[Tensor], batch_size: int = 8, progress: Optional[str] = None
    ) -> list[str]:
        """The best text of each waveform; ``progress`` is the title of a progress bar.

        Raises:
            ValueError: a waveform is empty, or longer than the model's context of 30 s.
        """
        if any(len(waveform) == 0 for waveform in waveforms):
            raise ValueError("expected audio, found a waveform of 0 samples")
        return super().texts(waveforms, batch_size, progress)
