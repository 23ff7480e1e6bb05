"""The fairseq task ``ssl_distillation``: audio without text, from which a student learns its teacher's features."""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.tasks import FairseqTask, register_task
from omegaconf import II

from fairseq_prune.data.audio import SAMPLE_RATE
from fairseq_prune.data.waveform_dataset import WaveformDataset
from fairseq_prune.data.waveform_manifest import WaveformManifest, read_waveform_manifest

logger = logging.getLogger(__name__)


@dataclass
class SSLDistillationConfig(FairseqDataclass):
    data: Optional[str] = field(
        default=None,
        metadata={
            "help": "folder of manifests NAME.tsv in wav2vec's form (data_prep/prep_audio.py makes one)"
        },
    )
    min_sample_size: int = field(
        default=32_000, metadata={"help": "leave shorter files out of training (samples at 16 kHz)"}
    )
    max_sample_size: int = field(
        default=250_000, metadata={"help": "of longer files, take so much from a random place (samples)"}
    )
    batch_lengths: ChoiceEnum(["crop", "pad"]) = field(
        default="crop",
        metadata={
            "help": "crop: files of a batch are cut to the shortest, as published; pad: filled up, and masked"
        },
    )
    train_subset: str = II("dataset.train_subset")
    seed: int = II("common.seed")


@register_task("ssl_distillation", dataclass=SSLDistillationConfig)
class SSLDistillationTask(FairseqTask):
    """Waveforms for the model ``dphubert``. A checkpoint is used without any data."""

    cfg: SSLDistillationConfig

    @classmethod
    def setup_task(cls, cfg: SSLDistillationConfig, **kwargs) -> "SSLDistillationTask":
        if not 1 <= cfg.min_sample_size <= cfg.max_sample_size:
            raise ValueError(
                f"--min-sample-size: found {cfg.min_sample_size}, expected 1 to the --max-sample-size,"
                f" {cfg.max_sample_size}"
            )
        return cls(cfg)

    @property
    def source_dictionary(self):
        """None: the source is audio."""
        return None

    @property
    def target_dictionary(self):
        """None: there is no text."""
        return None

    def load_dataset(self, split: str, combine=False, task_cfg=None, **kwargs) -> None:
        """Load a split; ``--train-subset`` is shuffled, and what is too short is left out of it."""
        if not self.cfg.data:
            raise ValueError("no folder of manifests was given (task.data)")
        path = Path(self.cfg.data) / f"{split}.tsv"
        manifest = read_waveform_manifest(path)
        training = split == self.cfg.train_subset
        if training:
            manifest = self._long_enough(manifest, path)
        hours = manifest.samples.sum() / SAMPLE_RATE / 3600
        logger.info(f"{path}: {len(manifest.paths):,} files, {hours:.2f} h")
        self.datasets[split] = WaveformDataset(
            manifest,
            self.cfg.max_sample_size,
            crop=str(self.cfg.batch_lengths) == "crop",
            training=training,
            seed=self.cfg.seed,
        )

    def _long_enough(self, manifest: WaveformManifest, path: Path) -> WaveformManifest:
        kept = manifest.samples >= self.cfg.min_sample_size
        if not kept.any():
            raise ValueError(
                f"{path}: no file has --min-sample-size {self.cfg.min_sample_size}; the longest has"
                f" {manifest.samples.max()} samples"
            )
        if not kept.all():
            logger.warning(
                f"{path}: {(~kept).sum():,} of {len(kept):,} files are shorter than"
                f" {self.cfg.min_sample_size} samples and left out"
            )
        paths = [name for name, keep in zip(manifest.paths, kept) if keep]
        return manifest._replace(paths=paths, samples=manifest.samples[kept])

    def max_positions(self):
        """None: files are cut to ``max_sample_size``."""
        return None

    def get_batch_iterator(self, dataset, max_tokens=None, *args, **kwargs):
        """As in fairseq, which would leave out what is longer than ``max_tokens``: an error here."""
        if max_tokens is not None:
            dataset.check_batches(max_tokens)
        return super().get_batch_iterator(dataset, max_tokens, *args, **kwargs)
