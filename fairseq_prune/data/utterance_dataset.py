"""Utterances as a fairseq dataset: reading, augmentation, order and batches, whatever the task."""

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, Optional

import numpy as np
import torch
from fairseq.data import FairseqDataset, data_utils

from fairseq_prune.data.audio import SAMPLE_RATE, read_audio
from fairseq_prune.data.augmentation import Augmentation
from fairseq_prune.data.manifest import Utterance
from fairseq_prune.data.ragged import Ragged
from fairseq_prune.text.sentencepiece import SentencePieceVocabulary

logger = logging.getLogger(__name__)

LENGTH_BUCKET = 1600  # samples; utterances this close in length are batched in random order
INT16_SCALE = 32768


class TokenStream(NamedTuple):
    """The token ids of all utterances in one vocabulary, and what ends and pads them."""

    tokens: Ragged
    pad: int
    eos: Optional[int]  # None: nothing ends a sequence

    @classmethod
    def of(cls, vocabulary: SentencePieceVocabulary, texts: list[str], with_eos: bool) -> "TokenStream":
        dictionary = vocabulary.dictionary
        tokens = Ragged.of(vocabulary.encode_all(texts), np.int32)
        return cls(tokens, dictionary.pad(), dictionary.eos() if with_eos else None)

    def sequence(self, members: np.ndarray) -> torch.LongTensor:
        """Tokens ``(tokens,)`` of some utterances one after another."""
        parts = [self.tokens[member] for member in members]
        if self.eos is not None:
            parts.append(np.array([self.eos]))
        return torch.from_numpy(np.concatenate(parts).astype(np.int64))

    def collate(self, sequences: list[torch.LongTensor]) -> tuple[torch.LongTensor, torch.LongTensor]:
        """Right-padded tokens ``(batch, tokens)`` and their lengths ``(batch,)``."""
        lengths = torch.tensor([len(sequence) for sequence in sequences])
        return torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True, padding_value=self.pad), lengths


class UtteranceDataset(FairseqDataset):
    """Waveforms with token sequences; a subclass makes batches of them (``collater``).

    Sizes are (samples, target tokens with eos); ``--max-tokens`` counts samples. A dataset for training is
    put in a new order, and augmented anew, in every epoch; both depend on the seed and the epoch only.

    Args:
        utterances: rows of a manifest
        audio_folder: where their relative audio paths start
        streams: the texts of the utterances as tokens; ``target`` are the targets, ``transcript`` the transcripts
        training: whether to shuffle and to augment
        augmentation: how items are made of utterances in training; its seed is that of the order too
    """

    def __init__(
        self,
        utterances: list[Utterance],
        audio_folder,
        streams: dict[str, TokenStream],
        training: bool = False,
        augmentation: Optional[Augmentation] = None,
    ):
        self.utterances = list(utterances)
        self.audio_folder = Path(audio_folder)
        self.streams = streams
        self.training = training
        self.augmentation = augmentation if augmentation is not None and training else Augmentation()
        self._index()

    # -- the utterances

    def _index(self) -> None:
        self.utterance_samples = np.array([u.n_frames for u in self.utterances], dtype=np.int64)
        self.utterance_tokens = self.streams["target"].tokens.lengths  # without eos
        self.source_tokens = None  # likewise, of the transcripts
        if "transcript" in self.streams:
            self.source_tokens = self.streams["transcript"].tokens.lengths
        self._speakers = np.unique([u.speaker for u in self.utterances], return_inverse=True)[1]
        self._cache = None
        self.epoch = None
        self.set_epoch(1)

    def keep(self, mask: np.ndarray) -> None:
        """Leave out the utterances where ``mask`` ``(utterances,)`` is False."""
        self.utterances = [utterance for utterance, kept in zip(self.utterances, mask) if kept]
        self.streams = {
            name: stream._replace(tokens=stream.tokens.select(mask)) for name, stream in self.streams.items()
        }
        self._index()

    def cache_audio(self, threads: int = 4) -> None:
        """Read all audio into memory, as 16-bit integers, before worker processes are started."""
        cache = Ragged.empty(self.utterance_samples, np.int16)
        hours, mebibytes = len(cache.values) / SAMPLE_RATE / 3600, cache.values.nbytes / 2**20
        logger.info(f"caching {hours:.2f} h of audio in {mebibytes:.0f} MiB")

        def fill(index):
            scaled = np.rint(self.read(index) * INT16_SCALE)
            cache[index][:] = np.clip(scaled, -INT16_SCALE, INT16_SCALE - 1)

        with ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(fill, range(len(self.utterances))):
                pass
        self._cache = cache

    def read(self, index: int) -> np.ndarray:
        """The waveform of an utterance as it is, float32 ``(samples,)``."""
        if self._cache is not None:
            return self._cache[index].astype(np.float32) / INT16_SCALE
        utterance = self.utterances[index]
        return read_audio(self.audio_folder / utterance.audio, utterance.offset, utterance.n_frames)

    # -- the items of an epoch

    @property
    def can_reuse_epoch_itr_across_epochs(self) -> bool:
        # batches made in another epoch, or by a resumed run, would not be those of this epoch's items
        return not self.training

    def set_epoch(self, epoch: int) -> None:
        """Draw the items of an epoch; again the same ones if called again."""
        if epoch != self.epoch:
            self.epoch = epoch
            self.items = self.augmentation.plan(
                epoch, self.utterance_samples, self.utterance_tokens, self._speakers, self.source_tokens
            )

    def __len__(self) -> int:
        return len(self.utterances)

    def __getitem__(self, index: int) -> dict:
        members = self.items.members[index]
        members = members[members >= 0]
        waveforms = [self.read(member) for member in members]
        waveform = self.augmentation.apply(
            waveforms, self.items.pauses[index], self.items.speeds[index], self.epoch, index
        )
        sequences = {name: stream.sequence(members) for name, stream in self.streams.items()}
        return {"id": index, "waveform": waveform, **sequences}

    # -- sizes and batches

    def num_tokens(self, index: int) -> int:
        return int(self.items.samples[index])

    def num_tokens_vec(self, indices: np.ndarray) -> np.ndarray:
        return self.items.samples[indices]

    def size(self, index: int) -> tuple[int, int]:
        return int(self.items.samples[index]), int(self.items.tokens[index]) + 1

    def ordered_indices(self) -> np.ndarray:
        """Longest first, as that is where memory runs out; near ties in random order when training."""
        if not self.training:
            return np.argsort(-self.items.samples, kind="stable")
        order = np.random.default_rng((self.augmentation.seed, self.epoch)).permutation(len(self))
        return order[np.argsort(-(self.items.samples[order] // LENGTH_BUCKET), kind="stable")]

    def filter_indices_by_size(self, indices: np.ndarray, max_sizes) -> tuple[np.ndarray, list[int]]:
        """fairseq's filter, for all items at once; sizes of None are without limit."""
        if isinstance(max_sizes, tuple):
            max_sizes = tuple(np.inf if size is None else size for size in max_sizes)
        return data_utils.filter_paired_dataset_indices_by_size(
            self.items.samples, self.items.tokens + 1, indices, max_sizes
        )

    def fit_batches(self, max_tokens: int) -> None:
        """Make items for batches of at most ``max_tokens`` samples: joined ones become no longer.

        Raises:
            ValueError: some utterances are longer by themselves.
        """
        too_long = self.utterance_samples > max_tokens
        if too_long.any():
            raise ValueError(
                f"--max-tokens counts samples (at {SAMPLE_RATE} Hz) and must be at least "
                f"{self.utterance_samples.max()}, the longest utterance; found {max_tokens}, for which "
                f"{too_long.sum():,} of {len(self):,} utterances are too long"
            )
        if max_tokens < self.augmentation.max_samples:
            self.augmentation = replace(self.augmentation, max_samples=max_tokens)
            epoch, self.epoch = self.epoch, None
            self.set_epoch(epoch)
