"""The fairseq task ``spoken_language_understanding``: from speech to a parse, with models of Whisper's kind.

Over 300 lines: a task of fairseq is one class, with its options beside it.
"""

import json
import logging
from argparse import Namespace
from dataclasses import dataclass, field
from pathlib import Path
from typing import List, Optional  # noqa: UP035 (fairseq's argparse bridge looks for this List)

import numpy as np
import torch
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.logging import metrics
from fairseq.tasks import register_task
from omegaconf import II, OmegaConf

from fairseq_prune.checkpoints.loading import load_fairseq_state
from fairseq_prune.data.audio import SAMPLE_RATE
from fairseq_prune.data.augmentation import Augmentation
from fairseq_prune.data.log_mel import MAX_SAMPLES
from fairseq_prune.data.manifest import check_audio, read_manifest
from fairseq_prune.data.slu_dataset import SpokenLanguageDataset
from fairseq_prune.evaluation.slu_scores import CORPORA, Counts, read_gold, total
from fairseq_prune.modules.whisper.generation import WhisperGenerator, suppressed_tokens
from fairseq_prune.tasks.sample_batches import SampleBatchesTask
from fairseq_prune.text.byte_level_bpe import END, PAD, START, UNKNOWN, ByteLevelBPE
from fairseq_prune.text.dictionaries import RowDictionary
from fairseq_prune.text.fairseq_bpe import FairseqBPE

logger = logging.getLogger(__name__)

PARTS = tuple(vars(Counts()))
TRANSCRIBE = "transcribe"  # the task of a model that says none


@dataclass
class SpokenLanguageUnderstandingConfig(FairseqDataclass):
    data: Optional[str] = field(
        default=None,
        metadata={
            "help": "data folder with a manifest for each split (data_prep/prep_slurp.py, prep_stop.py)"
        },
    )
    bpe_tokenizer: Optional[str] = field(
        default=None,
        metadata={
            "help": "tokenizer.json, or a checkpoint that holds one (scripts/import_whisper.py, prune_vocab.py); "
            "kept in every checkpoint"
        },
    )
    language: Optional[str] = field(
        default=None,
        metadata={
            "help": "language of the speech, such as en (default: as the checkpoint says, else none, as English-only "
            "models have it)"
        },
    )
    spoken_task: Optional[ChoiceEnum(["transcribe", "translate"])] = field(
        default=None,
        metadata={
            "help": "Whisper's task token, if there is a language (default: as the checkpoint says, else transcribe)"
        },
    )
    suppress_tokens: Optional[ChoiceEnum(["none", "non_speech"])] = field(
        default=None,
        metadata={
            "help": "tokens never generated: non_speech as published for transcription; parses need their brackets "
            "(default: as the checkpoint says, else none)"
        },
    )
    mel_bins: int = field(default=80, metadata={"help": "of the log-mel spectrograms, as the model has"})
    speed_factors: List[float] = field(  # noqa: UP006
        default_factory=lambda: [1.0],
        metadata={"help": "factors of speed and pitch, one drawn for each training item, e.g. 0.9,1.0,1.1"},
    )
    gain_db: float = field(
        default=0.0, metadata={"help": "change the volume of training items by up to this many dB"}
    )
    noise_rate: float = field(
        default=0.0, metadata={"help": "share of training items with added white noise"}
    )
    min_source_samples: int = field(
        default=1600, metadata={"help": "leave shorter utterances out of training (samples at 16 kHz)"}
    )
    max_target_tokens: int = field(
        default=440, metadata={"help": "leave longer parses out of training (tokens with eos)"}
    )
    cache_audio: bool = field(
        default=False,
        metadata={"help": "keep all audio in memory (115 MB an hour for each training process)"},
    )
    eval_slu: ChoiceEnum(["none", *CORPORA]) = field(
        default="none",
        metadata={
            "help": "generate in validation and log the scores of this corpus, for --best-checkpoint-metric: "
            "slurp has intent_accuracy and slu_f1, stop has exact_match and tree_match"
        },
    )
    eval_slu_args: str = field(
        default='{"beam": 1, "max_len_b": 100}', metadata={"help": "generation options of --eval-slu as JSON"}
    )
    train_subset: str = II("dataset.train_subset")
    valid_subset: str = II("dataset.valid_subset")
    seed: int = II("common.seed")


@register_task("spoken_language_understanding", dataclass=SpokenLanguageUnderstandingConfig)
class SpokenLanguageUnderstandingTask(SampleBatchesTask):
    """Speech to text in Whisper's vocabulary: parses, or any other target text of a manifest.

    The tokenizer goes into every checkpoint (``task_state``), so that a checkpoint needs no other file; with both, the
    vocabularies must agree.
    """

    cfg: SpokenLanguageUnderstandingConfig

    def __init__(self, cfg: SpokenLanguageUnderstandingConfig):
        super().__init__(cfg)
        self.tokenizer = None
        if cfg.bpe_tokenizer:
            self.tokenizer = read_tokenizer(cfg.bpe_tokenizer)
            # it goes into the checkpoint, which must not ask for the file again; as models.options.keep_in_checkpoint
            parent = cfg._get_parent()
            for node in (cfg,) if parent is None else (cfg, parent.task):
                node.bpe_tokenizer = None
        self._awaited = RowDictionary([START, PAD, END, UNKNOWN], START, PAD, END, UNKNOWN)
        self.augmentation = Augmentation(
            seed=cfg.seed,
            max_samples=MAX_SAMPLES,
            max_tokens=cfg.max_target_tokens - 1,  # without eos
            speed_factors=tuple(cfg.speed_factors),
            noise_rate=cfg.noise_rate,
            gain_db=cfg.gain_db,
        )
        try:
            self.eval_slu_args = Namespace(**json.loads(cfg.eval_slu_args))
        except (json.JSONDecodeError, TypeError):
            raise ValueError(f"--eval-slu-args must be a JSON object, found {cfg.eval_slu_args!r}") from None

    @classmethod
    def setup_task(cls, cfg, **kwargs) -> "SpokenLanguageUnderstandingTask":
        """The task; what validation will score is read now, before fairseq loads models.

        Raises:
            ValueError: a parse is none that ``--eval-slu`` scores.
        """
        task = cls(cfg)
        if cfg.data and str(cfg.eval_slu) != "none":
            for split in dict.fromkeys([cfg.train_subset, *cfg.valid_subset.split(",")]):
                path = Path(cfg.data) / f"{split}.tsv"
                if path.is_file():
                    task._check_parses(path, read_manifest(path))
        return task

    @classmethod
    def from_state(cls, cfg, state: dict) -> "SpokenLanguageUnderstandingTask":
        """A task with the tokenizer of a checkpoint, for which no data folder need exist.

        Args:
            cfg: the checkpoint's ``cfg.task``
            state: the checkpoint's ``task_state``
        """
        cfg = OmegaConf.merge(SpokenLanguageUnderstandingConfig(), cfg, {"data": None, "bpe_tokenizer": None})
        task = cls(OmegaConf.merge(cfg, {"train_subset": "train", "valid_subset": "valid", "seed": 1}))
        task.load_state_dict(state)
        task._take_over(task.cfg)
        return task

    # -- tokenizer

    def require_tokenizer(self) -> ByteLevelBPE:
        """The tokenizer.

        Raises:
            ValueError: neither an option nor a checkpoint has brought one.
        """
        if self.tokenizer is None:
            raise ValueError(
                "no tokenizer: --bpe-tokenizer needs a tokenizer.json, or a checkpoint that holds one"
            )
        return self.tokenizer

    @property
    def prefix(self) -> list[int]:
        """Ids that the decoder's input begins with, and that generation forces."""
        return self.require_tokenizer().prefix(self.cfg.language, str(self.cfg.spoken_task or TRANSCRIBE))

    @property
    def target_dictionary(self):
        """That of the tokenizer; fairseq-generate asks for it before it has loaded the checkpoint that brings one."""
        return self.tokenizer.dictionary if self.tokenizer is not None else self._awaited

    @property
    def source_dictionary(self):
        """None: the source is audio."""
        return None

    def build_bpe(self, args):
        """The tokenizer, unless ``--bpe`` names something else."""
        return (
            super().build_bpe(args) if getattr(args, "_name", None) else FairseqBPE(self.require_tokenizer())
        )

    # -- state in checkpoints

    def state_dict(self) -> dict:
        return self.tokenizer.state_dict() if self.tokenizer is not None else {}

    def load_state_dict(self, state_dict: dict) -> None:
        """Take over a checkpoint's tokenizer; fairseq calls this when it loads a model for use.

        Raises:
            ValueError: it holds none, or --bpe-tokenizer is another one.
        """
        if "tokenizer" not in state_dict:
            raise ValueError(
                "the checkpoint holds no tokenizer: the task spoken_language_understanding did not write it"
            )
        stored = ByteLevelBPE.from_state_dict(state_dict, name="the checkpoint")
        if self.tokenizer is not None:
            self.tokenizer.require_equal(stored, "target")
        self.tokenizer = stored
        vars(self._awaited).update(vars(stored.dictionary))

    def get_checkpoint_dict(self) -> dict:
        """What fairseq's trainer hands to :meth:`set_checkpoint_dict` when it resumes (current stack)."""
        return {type(self).__name__: self.state_dict()}

    def set_checkpoint_dict(self, state_dict: dict) -> None:
        if "tokenizer" in state_dict:
            self.load_state_dict(state_dict)

    # -- data

    def load_dataset(self, split: str, combine=False, task_cfg=None, **kwargs) -> None:
        """Load a split; ``--train-subset`` is filtered and augmented, unless it is loaded for evaluation."""
        if not self.cfg.data or not Path(self.cfg.data).is_dir():
            raise FileNotFoundError(
                f"{self.cfg.data}: no such data folder (data_prep/prep_slurp.py makes one)"
            )
        if task_cfg is not None:
            self._take_over(task_cfg)
        path = Path(self.cfg.data) / f"{split}.tsv"
        utterances = read_manifest(path)
        check_audio(utterances, self.cfg.data)
        too_long = [row for row in utterances if row.n_frames > MAX_SAMPLES]
        if too_long:
            raise ValueError(
                f"{path}: utterance {too_long[0].id!r} has {too_long[0].n_frames / SAMPLE_RATE:.1f} s, the model's "
                f"context is 30 s ({len(too_long):,} such utterances)"
            )
        # fairseq-generate and fairseq-validate hand over the configuration of the checkpoint's training
        training = split == self.cfg.train_subset and task_cfg is None
        dataset = SpokenLanguageDataset(
            utterances,
            self.cfg.data,
            self.require_tokenizer(),
            self.prefix,
            mel_bins=self.cfg.mel_bins,
            training=training,
            augmentation=self.augmentation,
        )
        if str(self.cfg.eval_slu) != "none":
            self._check_parses(path, utterances)
        if training:
            self._filter(dataset, path)
        logger.info(
            f"{path}: {len(dataset):,} utterances, {dataset.utterance_samples.sum() / SAMPLE_RATE / 3600:.2f} h"
        )
        if self.cfg.cache_audio:
            dataset.cache_audio()
        self.datasets[split] = dataset

    def _take_over(self, cfg) -> None:
        """Options of generation that no flag gives: those of a checkpoint's ``cfg.task``, or the defaults."""
        for name, default in (("language", None), ("spoken_task", TRANSCRIBE), ("suppress_tokens", "none")):
            if self.cfg[name] is None:
                self.cfg[name] = getattr(cfg, name, None) or default

    def _check_parses(self, path: Path, utterances: list) -> None:
        for line, row in enumerate(utterances, start=2):
            read_gold(str(self.cfg.eval_slu), row.tgt_text, f"{path}, line {line}", "--eval-slu {}")

    def _filter(self, dataset: SpokenLanguageDataset, path: Path) -> None:
        short = dataset.utterance_samples < self.cfg.min_source_samples
        long = dataset.utterance_tokens + 1 > self.cfg.max_target_tokens
        left_out = f"{short.sum():,} shorter than {self.cfg.min_source_samples} samples, " + (
            f"{long.sum():,} with more than {self.cfg.max_target_tokens} tokens"
        )
        kept = ~(short | long)
        if not kept.any():
            raise ValueError(f"{path}: no utterance is left for training: {left_out}")
        if not kept.all():
            logger.warning(f"{path}: {kept.sum():,} of {len(kept):,} utterances kept; left out: {left_out}")
            dataset.keep(kept)

    def get_batch_iterator(
        self, dataset, max_tokens=None, max_sentences=None, max_positions=None, *args, **kwargs
    ):
        """As of its class, without the model's positions: these are no samples, and `load_dataset` has checked them."""
        return super().get_batch_iterator(dataset, max_tokens, max_sentences, None, *args, **kwargs)

    # -- model and generation

    def build_model(self, cfg, from_checkpoint=False):
        """The model; refuses one whose spectrograms are not the task's."""
        self.require_tokenizer()
        model = super().build_model(cfg, from_checkpoint)
        bins = model.encoder.conv1.in_channels
        if bins != self.cfg.mel_bins:
            raise ValueError(f"--mel-bins {self.cfg.mel_bins}: the model takes {bins} mel bins")
        if str(self.cfg.eval_slu) != "none":
            self.sequence_generator = self.build_generator([model], self.eval_slu_args)
        return model

    def build_generator(
        self, models, args, seq_gen_cls=None, extra_gen_cls_kwargs=None, prefix_allowed_tokens_fn=None
    ):
        """A generator that starts after the forced prefix and never writes the suppressed tokens."""
        options = {"prefix": self.prefix, **(extra_gen_cls_kwargs or {})}
        suppress = str(self.cfg.suppress_tokens or "none")
        if suppress != "none":
            options["suppressed"], options["suppressed_first"] = suppressed_tokens(self.tokenizer)
        names = " ".join(self.tokenizer.dictionary[index] for index in self.prefix)
        logger.info(f"generation begins with {names}; suppressed tokens: {suppress}")
        return super().build_generator(
            models, args, seq_gen_cls or WhisperGenerator, options, prefix_allowed_tokens_fn
        )

    def valid_step(self, sample, model, criterion):
        loss, sample_size, logging_output = super().valid_step(sample, model, criterion)
        if str(self.cfg.eval_slu) != "none":
            found = self.inference_step(self.sequence_generator, [model], sample)
            logging_output.update(self._counts(found, sample["target"]))
        return loss, sample_size, logging_output

    def _counts(self, found: list, targets: torch.Tensor) -> dict[str, float]:
        """Entries of a logging output; their sums over batches are the counts of all batches together."""
        corpus = CORPORA[str(self.cfg.eval_slu)]
        pairs = [
            (
                corpus.read(self.tokenizer.decode(target)),
                corpus.read_or_none(self.tokenizer.decode(best[0]["tokens"])),
            )
            for best, target in zip(found, targets)
        ]
        counts = total(corpus.counts(*pair) for pair in pairs)
        return {
            f"_{name}_{part}": part_sum for name in counts for part, part_sum in vars(counts[name]).items()
        }

    def reduce_metrics(self, logging_outputs, criterion):
        super().reduce_metrics(logging_outputs, criterion)
        for key in (logging_outputs or [{}])[0]:
            if not (key.startswith("_") and key.endswith("_tp")):
                continue
            name = key[1 : -len("_tp")]
            parts = [sum(output.get(f"_{name}_{part}", 0) for output in logging_outputs) for part in PARTS]
            metrics.log_scalar(f"_{name}", np.array(parts, dtype=float))

            def score(meters, name=name):
                return round(100 * Counts(*meters[f"_{name}"].sum.tolist()).f1, 2)

            metrics.log_derived(name, score)


def read_tokenizer(path) -> ByteLevelBPE:
    """A tokenizer from a ``tokenizer.json``, or from a checkpoint that holds one.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file holds no tokenizer.
    """
    if Path(path).is_dir() or Path(path).suffix == ".json":
        return ByteLevelBPE.load(path)
    state = load_fairseq_state(path).get("task_state") or {}
    if "tokenizer" not in state:
        raise ValueError(f"{path}: the checkpoint holds no tokenizer")
    return ByteLevelBPE.from_state_dict(state, name=str(path))
