"""The fairseq task ``speech_translation``: from waveforms to text in another language.

Over 300 lines: a task of fairseq is one class, with its options beside it.
"""

import json
import logging
from argparse import Namespace
from dataclasses import dataclass, field
from pathlib import Path
from typing import List, Optional  # noqa: UP035 (fairseq's argparse bridge looks for this List)

import numpy as np
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.tasks import register_task
from omegaconf import II, OmegaConf

from fairseq_prune.data.audio import SAMPLE_RATE
from fairseq_prune.data.augmentation import Augmentation
from fairseq_prune.data.config import CONFIG_FILE, DataConfig
from fairseq_prune.data.manifest import Utterance, check_audio, read_manifest
from fairseq_prune.data.speech_translation_dataset import SpeechTranslationDataset
from fairseq_prune.data.utterance_edges import typical_edges
from fairseq_prune.evaluation.corpus_scores import CorpusScores
from fairseq_prune.tasks.sample_batches import SampleBatchesTask
from fairseq_prune.text.fairseq_bpe import FairseqBPE
from fairseq_prune.text.sentencepiece import SentencePieceVocabulary

logger = logging.getLogger(__name__)


@dataclass
class SpeechTranslationConfig(FairseqDataclass):
    data: Optional[str] = field(
        default=None,
        metadata={
            "help": "data directory: config.yaml, manifests and vocabularies (data_prep/prep_mustc.py)"
        },
    )
    ctc_text: ChoiceEnum(["none", "source", "target"]) = field(
        default="none",
        metadata={"help": "text of the targets of a CTC loss; source needs a ctc vocabulary in config.yaml"},
    )
    min_source_samples: int = field(
        default=1600, metadata={"help": "leave shorter utterances out of training (samples at 16 kHz)"}
    )
    max_source_samples: int = field(
        default=480_000, metadata={"help": "leave longer utterances out of training (samples at 16 kHz)"}
    )
    max_target_tokens: int = field(
        default=512, metadata={"help": "leave longer translations out of training (tokens with eos)"}
    )
    max_source_tokens: int = field(
        default=512,
        metadata={"help": "leave longer transcripts out of training, if there are any (tokens with eos)"},
    )
    concat_rate: float = field(
        default=0.0,
        metadata={"help": "share of training items that are joined with further utterances (ConcatAugment)"},
    )
    concat_max_utterances: int = field(
        default=2, metadata={"help": "a joined item has 2 to this many utterances"}
    )
    concat_max_samples: int = field(
        default=0, metadata={"help": "joined items are not longer than this; 0: --max-source-samples"}
    )
    concat_max_pause: int = field(
        default=8000, metadata={"help": "joined utterances have 0 to this many samples of silence between"}
    )
    concat_any_speaker: bool = field(
        default=False, metadata={"help": "join utterances of different speakers too"}
    )
    edge_max_silence: int = field(
        default=0,
        metadata={
            "help": "give training items 0 to this many samples of silence before and after them, so that the model"
            " bears other edges than those of the corpus, e.g. 1600"
        },
    )
    speed_factors: List[float] = field(  # noqa: UP006
        default_factory=lambda: [1.0],
        metadata={"help": "factors of speed and pitch, one drawn for each training item, e.g. 0.9,1.0,1.1"},
    )
    noise_rate: float = field(
        default=0.0, metadata={"help": "share of training items with added white noise"}
    )
    noise_min_snr: float = field(default=10.0, metadata={"help": "lowest ratio of signal to noise, in dB"})
    noise_max_snr: float = field(default=30.0, metadata={"help": "highest ratio of signal to noise, in dB"})
    gain_db: float = field(
        default=0.0, metadata={"help": "change the level of training items by up to this many dB"}
    )
    cache_audio: bool = field(
        default=False,
        metadata={
            "help": "keep all audio in memory, as 16-bit integers (115 MB an hour for each training process)"
        },
    )
    eval_bleu: bool = field(
        default=False,
        metadata={"help": "translate in validation and log bleu and chrf, also for --best-checkpoint-metric"},
    )
    eval_bleu_args: str = field(
        default="{}", metadata={"help": 'generation options as JSON, e.g. {"beam": 4, "max_len_b": 100}'}
    )
    train_subset: str = II("dataset.train_subset")
    seed: int = II("common.seed")


@register_task("speech_translation", dataclass=SpeechTranslationConfig)
class SpeechTranslationTask(SampleBatchesTask):
    """Translate speech to text.

    The vocabularies come from the data directory and go into every checkpoint (``task_state``), so that a
    checkpoint can be used without any data directory; with both, they must agree.
    """

    cfg: SpeechTranslationConfig

    def __init__(self, cfg: SpeechTranslationConfig):
        super().__init__(cfg)
        self.ctc_text = str(cfg.ctc_text)
        self.vocabularies = {}
        self.data = None
        self.scores = CorpusScores()
        self.needs_transcripts = self.ctc_text == "source"  # a criterion may need them too
        self._state = None
        # of the training utterances, in samples: the "longest", a "typical" one, the quiet "before" and "after" its
        # speech; kept in checkpoints
        self.heard: Optional[dict[str, int]] = None
        # a missing directory is told when it is needed: a checkpoint may bring the vocabularies
        if cfg.data and (Path(cfg.data) / CONFIG_FILE).is_file():
            self.data = DataConfig.load(cfg.data)
            self.vocabularies = self.data.load_vocabularies()
            for name, vocabulary in self.vocabularies.items():
                logger.info(f"{name} vocabulary: {len(vocabulary)} symbols")
            if self.ctc_text == "source" and "ctc" not in self.vocabularies:
                raise ValueError(
                    f"{self.data.folder}: --ctc-text source needs a ctc vocabulary in config.yaml"
                )
        self.augmentation = self._build_augmentation()
        self.eval_bleu_args = self._parse_eval_bleu_args()

    @classmethod
    def setup_task(cls, cfg: SpeechTranslationConfig, **kwargs) -> "SpeechTranslationTask":
        return cls(cfg)

    @classmethod
    def from_state(cls, cfg: SpeechTranslationConfig, state: dict) -> "SpeechTranslationTask":
        """A task with the vocabularies of a checkpoint, for which no data directory need exist.

        Args:
            cfg: the checkpoint's ``cfg.task``
            state: the checkpoint's ``task_state``
        """
        task = cls(OmegaConf.merge(SpeechTranslationConfig(), cfg, {"data": None}))
        task.load_state_dict(state)
        return task

    def _build_augmentation(self) -> Augmentation:
        cfg = self.cfg
        return Augmentation(
            seed=cfg.seed,
            max_samples=cfg.max_source_samples,
            max_tokens=cfg.max_target_tokens - 1,  # without eos
            max_source_tokens=cfg.max_source_tokens - 1,
            concat_rate=cfg.concat_rate,
            concat_max_utterances=cfg.concat_max_utterances,
            concat_max_samples=cfg.concat_max_samples or None,
            concat_max_pause=cfg.concat_max_pause,
            concat_any_speaker=cfg.concat_any_speaker,
            edge_max_silence=cfg.edge_max_silence,
            speed_factors=tuple(cfg.speed_factors),
            noise_rate=cfg.noise_rate,
            noise_min_snr=cfg.noise_min_snr,
            noise_max_snr=cfg.noise_max_snr,
            gain_db=cfg.gain_db,
        )

    def _parse_eval_bleu_args(self) -> Namespace:
        try:
            return Namespace(**json.loads(self.cfg.eval_bleu_args))
        except (json.JSONDecodeError, TypeError):
            raise ValueError(
                f"--eval-bleu-args must be a JSON object, found {self.cfg.eval_bleu_args!r}"
            ) from None

    # -- vocabularies

    def _vocabulary(self, name: str) -> Optional[SentencePieceVocabulary]:
        if not self.vocabularies:
            DataConfig.load(self.cfg.data)  # raises, as it is missing
        return self.vocabularies.get(name)

    @property
    def ctc_vocabulary(self) -> Optional[SentencePieceVocabulary]:
        """The vocabulary of the CTC targets; None without a CTC loss."""
        name = {"none": "none", "source": "ctc", "target": "target"}[self.ctc_text]
        return self._vocabulary(name)

    @property
    def target_dictionary(self):
        return self._vocabulary("target").dictionary

    @property
    def source_dictionary(self):
        """None: the source is audio."""
        return None

    @property
    def transcript_dictionary(self):
        """The fairseq dictionary of the transcripts, or None."""
        vocabulary = self._vocabulary("source")
        return vocabulary.dictionary if vocabulary is not None else None

    @property
    def ctc_dictionary(self):
        """The fairseq dictionary of the CTC targets, or None; bos is free to serve as the blank."""
        return self.ctc_vocabulary.dictionary if self.ctc_vocabulary is not None else None

    def build_bpe(self, args):
        """The target's sentencepiece, unless ``--bpe`` names something else."""
        if getattr(args, "_name", None):
            return super().build_bpe(args)
        return FairseqBPE(self._vocabulary("target"))

    # -- state in checkpoints

    def state_dict(self) -> dict:
        if self._state is None:
            # made once, and once for shared vocabularies: the same strings are pickled only once
            states = {id(vocabulary): vocabulary.state_dict() for vocabulary in self.vocabularies.values()}
            self._state = {
                "ctc_text": self.ctc_text,
                "vocabularies": {name: states[id(v)] for name, v in self.vocabularies.items()},
            }
            if self.heard is not None:
                self._state["heard"] = self.heard
        return self._state

    def load_state_dict(self, state_dict: dict) -> None:
        """Take over a checkpoint's vocabularies; fairseq calls this when it loads a model for use.

        Raises:
            ValueError: a vocabulary of the data directory is another one.
        """
        if "vocabularies" not in state_dict:
            raise ValueError(
                "the checkpoint holds no vocabularies: the task speech_translation did not write it"
            )
        self.ctc_text = state_dict["ctc_text"]  # what the model was built for
        if self.heard is None:
            # checkpoints of before November 2026 have none, or no edges
            self.heard = state_dict.get("heard")
        for name, state in state_dict["vocabularies"].items():
            stored = SentencePieceVocabulary.from_state_dict(state, name="the checkpoint")
            if name not in self.vocabularies:
                self.vocabularies[name] = stored
                continue
            self.vocabularies[name].require_equal(stored, name)
            if self.vocabularies[name].model != stored.model:
                logger.warning(f"the sentencepiece model of {self.data.folder} is not that of the checkpoint")
        self._state = None

    def get_checkpoint_dict(self) -> dict:
        """What fairseq's trainer hands to :meth:`set_checkpoint_dict` when it resumes (current stack)."""
        return {type(self).__name__: self.state_dict()}

    def set_checkpoint_dict(self, state_dict: dict) -> None:
        for name, vocabulary in self.vocabularies.items():
            if name in state_dict["vocabularies"]:
                stored = SentencePieceVocabulary.from_state_dict(
                    state_dict["vocabularies"][name], name="the checkpoint"
                )
                vocabulary.require_equal(stored, name)

    # -- data

    def load_dataset(self, split: str, combine=False, task_cfg=None, **kwargs) -> None:
        """Load a split; ``--train-subset`` is filtered and augmented, unless it is loaded for evaluation."""
        if self.data is None:
            self.data = DataConfig.load(self.cfg.data)
        path = self.data.manifest(split)
        utterances = read_manifest(path)
        check_audio(utterances, self.data.audio_folder)
        # fairseq-generate and fairseq-validate hand over the configuration of the checkpoint's training
        training = split == self.cfg.train_subset and task_cfg is None
        dataset = SpeechTranslationDataset(
            utterances,
            self.data.audio_folder,
            target=self._vocabulary("target"),
            transcript=self._vocabulary("source"),
            ctc=self.ctc_vocabulary,
            ctc_text=self.ctc_text,
            training=training,
            augmentation=self.augmentation,
        )
        if training:
            self._check_transcripts(utterances, path)
            self._filter(dataset, path)
            self._note_what_is_heard(dataset)
        hours = dataset.utterance_samples.sum() / SAMPLE_RATE / 3600
        logger.info(f"{path}: {len(dataset):,} utterances, {hours:.2f} h")
        if self.cfg.cache_audio:
            dataset.cache_audio()
        self.datasets[split] = dataset

    def _check_transcripts(self, utterances: list[Utterance], path: Path) -> None:
        empty = [line for line, row in enumerate(utterances, start=2) if not row.src_text.strip()]
        if empty and self.needs_transcripts:
            raise ValueError(
                f"{path}, line {empty[0]}: src_text is empty ({len(empty):,} such lines), but CTC on the source "
                "text (--ctc-text source) or --mt-loss-weight needs it"
            )

    def _filter(self, dataset: SpeechTranslationDataset, path: Path) -> None:
        cfg, samples = self.cfg, dataset.utterance_samples
        left_out = {
            f"shorter than {cfg.min_source_samples} samples": samples < cfg.min_source_samples,
            f"longer than {cfg.max_source_samples} samples": samples > cfg.max_source_samples,
            f"with more than {cfg.max_target_tokens} target tokens": (
                dataset.utterance_tokens + 1 > cfg.max_target_tokens
            ),
        }
        if dataset.source_tokens is not None:
            too_long = dataset.source_tokens + 1 > cfg.max_source_tokens
            left_out[f"with more than {cfg.max_source_tokens} transcript tokens"] = too_long
        counts = ", ".join(f"{mask.sum():,} {reason}" for reason, mask in left_out.items())
        kept = ~np.any(list(left_out.values()), axis=0)
        if not kept.any():
            raise ValueError(f"{path}: no utterance is left for training: {counts}")
        if not kept.all():
            logger.warning(f"{path}: {kept.sum():,} of {len(kept):,} utterances kept; left out: {counts}")
            dataset.keep(kept)

    def _note_what_is_heard(self, dataset: SpeechTranslationDataset) -> None:
        cfg, samples = self.cfg, dataset.utterance_samples
        longest = int(samples.max())
        if cfg.concat_rate > 0:
            limit = cfg.concat_max_samples or cfg.max_source_samples
            longest = max(longest, min(limit, cfg.concat_max_utterances * longest))
        drawn = cfg.edge_max_silence  # as much before and after on average, together
        self.heard = {
            "longest": max(longest, min(cfg.max_source_samples, longest + 2 * drawn)),
            "typical": int(np.median(samples)) + drawn,
        }
        edges = typical_edges(dataset.utterances, dataset.audio_folder, cfg.seed)
        if edges is not None:
            self.heard.update(before=edges[0] + drawn // 2, after=edges[1] + drawn // 2)
        self._state = None

    # -- model and validation

    def build_model(self, cfg, from_checkpoint=False):
        """The model; for training, refuses one that has not a position for every token."""
        for text in () if from_checkpoint else ("target", "source"):
            tokens, positions = (
                getattr(self.cfg, f"max_{text}_tokens"),
                getattr(cfg, f"max_{text}_positions", None),
            )
            if positions is not None and tokens > positions:
                raise ValueError(
                    f"--max-{text}-tokens {tokens} is more than the --max-{text}-positions {positions} of the model"
                )
        model = super().build_model(cfg, from_checkpoint)
        if self.cfg.eval_bleu:
            self.sequence_generator = self.build_generator([model], self.eval_bleu_args)
        return model

    def valid_step(self, sample, model, criterion):
        loss, sample_size, logging_output = super().valid_step(sample, model, criterion)
        if self.cfg.eval_bleu:
            target = self._vocabulary("target")
            found = self.inference_step(self.sequence_generator, [model], sample)
            hypotheses = [target.decode(best[0]["tokens"]) for best in found]
            # an unknown word of the reference must not match one of the hypothesis
            references = [target.decode(tokens, unk="<<unk>>") for tokens in sample["target"]]
            logging_output.update(self.scores.statistics(hypotheses, references))
        return loss, sample_size, logging_output

    def reduce_metrics(self, logging_outputs, criterion):
        super().reduce_metrics(logging_outputs, criterion)
        self.scores.log(logging_outputs)
