"""Augmentation of waveforms: joined utterances, speed, noise and gain, the same for a seed and an epoch.

What decides sizes (which utterances are joined, pauses, speeds) is drawn for a whole epoch at once, so that
batches are made from true sizes; what does not (noise, gain) is drawn for each item from its own seed.
"""

from dataclasses import dataclass
from typing import NamedTuple, Optional

import numpy as np

from fairseq_prune.data.audio import resample, resampled_length


class EpochPlan(NamedTuple):
    """The make-up of every item of an epoch; item ``i`` begins with utterance ``i``."""

    members: np.ndarray  # (items, most utterances) utterance indices, -1 where there is none
    pauses: np.ndarray  # (items, most utterances + 1) samples of silence before each member, and after all
    speeds: np.ndarray  # (items,) per cent; 110 is faster and shorter
    samples: np.ndarray  # (items,) resulting length of the audio
    tokens: np.ndarray  # (items,) target tokens of all members together


@dataclass(frozen=True)
class Augmentation:
    """How items are made from utterances; the defaults leave them as they are.

    Args:
        seed: of everything drawn here
        max_samples: no item is longer than this (except utterances that are so by themselves)
        max_tokens: no joined item has more target tokens than this
        max_source_tokens: no joined item has more tokens of the transcript than this
        concat_rate: share of items that are joined with further utterances (ConcatAugment)
        concat_max_utterances: an item joins from 2 to this many utterances, its own included
        concat_max_samples: joined items are not longer than this (None: ``max_samples``)
        concat_max_pause: utterances are joined with 0 to this many samples of silence between them
        concat_any_speaker: join utterances of different speakers too
        edge_max_silence: items get 0 to this many samples of silence before them, and after them
        speed_factors: factors of speed and pitch, one drawn for each item
        noise_rate: share of items that get white noise
        noise_min_snr, noise_max_snr: range of the ratio of signal to noise, in dB
        gain_db: the level changes by up to this many dB either way

    Raises:
        ValueError: names the option and the value that makes no sense.
    """

    seed: int = 1
    max_samples: int = 480_000
    max_tokens: int = 512
    max_source_tokens: int = 512
    concat_rate: float = 0.0
    concat_max_utterances: int = 2
    concat_max_samples: Optional[int] = None
    concat_max_pause: int = 8000
    concat_any_speaker: bool = False
    edge_max_silence: int = 0
    speed_factors: tuple[float, ...] = (1.0,)
    noise_rate: float = 0.0
    noise_min_snr: float = 10.0
    noise_max_snr: float = 30.0
    gain_db: float = 0.0

    def __post_init__(self):
        for name in ("concat_rate", "noise_rate"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be from 0 to 1, found {getattr(self, name)}")
        if self.concat_max_utterances < 2:
            raise ValueError(f"concat_max_utterances must be at least 2, found {self.concat_max_utterances}")
        for name in ("concat_max_pause", "edge_max_silence"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, found {getattr(self, name)}")
        if not self.speed_factors or not all(0.5 <= speed <= 2 for speed in self.speed_factors):
            raise ValueError(f"speed_factors must be from 0.5 to 2, found {list(self.speed_factors)}")
        if self.noise_min_snr > self.noise_max_snr:
            raise ValueError(
                f"noise_min_snr {self.noise_min_snr} is above noise_max_snr {self.noise_max_snr}"
            )
        if self.gain_db < 0:
            raise ValueError(f"gain_db must not be negative, found {self.gain_db}")

    @property
    def changes_anything(self) -> bool:
        other_speeds = set(self.speed_factors) != {1.0}
        return bool(
            self.concat_rate or self.edge_max_silence or self.noise_rate or self.gain_db or other_speeds
        )

    def plan(
        self,
        epoch: int,
        samples: np.ndarray,
        tokens: np.ndarray,
        speakers: np.ndarray,
        source_tokens: Optional[np.ndarray] = None,
    ) -> EpochPlan:
        """Draw the items of an epoch.

        Args:
            samples: ``(utterances,)`` lengths of the audio
            tokens: ``(utterances,)`` target tokens, without eos
            speakers: ``(utterances,)`` numbers of the speakers
            source_tokens: ``(utterances,)`` tokens of the transcripts, without eos; None: there are none
        """
        rng = np.random.default_rng((self.seed, epoch))
        n_items, width = len(samples), self.concat_max_utterances if self.concat_rate else 1
        speeds = rng.choice(np.round(100 * np.array(self.speed_factors)).astype(np.int64), n_items)
        # an utterance that fits must not be slowed down until it does not
        speeds[resampled_length(samples, speeds, 100) > self.max_samples] = 100
        members = np.full((n_items, width), -1, dtype=np.int64)
        pauses = np.zeros((n_items, width + 1), dtype=np.int64)
        members[:, 0] = np.arange(n_items)
        total_samples = samples.copy()
        texts = np.stack([tokens, np.zeros_like(tokens) if source_tokens is None else source_tokens])
        total_texts, max_texts = texts.copy(), np.array([[self.max_tokens], [self.max_source_tokens]])
        if width > 1:
            if self.concat_any_speaker:
                speakers = np.zeros_like(speakers)
            limit = min(self.concat_max_samples or self.max_samples, self.max_samples)
            wanted = np.where(rng.random(n_items) < self.concat_rate, rng.integers(2, width + 1, n_items), 1)
            for column in range(1, width):
                partners = _draw_partners(rng, speakers)
                gaps = rng.integers(0, self.concat_max_pause + 1, n_items)
                new_samples = total_samples + gaps + samples[partners]
                new_texts = total_texts + texts[:, partners]
                fits = resampled_length(new_samples, speeds, 100) <= limit
                fits &= (new_texts <= max_texts).all(axis=0)
                joins = fits & (wanted > column) & (partners >= 0) & (members[:, column - 1] >= 0)
                members[joins, column] = partners[joins]
                pauses[joins, column] = gaps[joins]
                total_samples = np.where(joins, new_samples, total_samples)
                total_texts = np.where(joins, new_texts, total_texts)
        if self.edge_max_silence:
            edges = rng.integers(0, self.edge_max_silence + 1, (n_items, 2))
            fits = resampled_length(total_samples + edges.sum(1), speeds, 100) <= self.max_samples
            edges[~fits] = 0
            pauses[:, 0], pauses[:, -1] = edges.T
            total_samples = total_samples + edges.sum(1)
        return EpochPlan(
            members, pauses, speeds, resampled_length(total_samples, speeds, 100), total_texts[0]
        )

    def apply(self, waveforms: list, pauses: np.ndarray, speed: int, epoch: int, index: int) -> np.ndarray:
        """Make an item of its members' waveforms, float32 ``(samples,)`` each.

        Args:
            pauses: samples of silence before each member; the last of them are after all.

        Returns:
            float32 ``(samples,)`` in [-1, 1], as long as the plan says.
        """
        parts = []
        for waveform, pause in zip(waveforms, pauses):
            parts += [np.zeros(pause, dtype=np.float32), waveform]
        parts.append(np.zeros(pauses[-1], dtype=np.float32))
        waveform = resample(np.concatenate(parts), int(speed), 100)
        if not (self.noise_rate or self.gain_db):
            return np.clip(waveform, -1, 1)
        rng = np.random.default_rng((self.seed, epoch, index))
        has_noise, snr = rng.random(), rng.uniform(self.noise_min_snr, self.noise_max_snr)
        gain = rng.uniform(-1, 1) * self.gain_db
        if has_noise < self.noise_rate:
            level = np.sqrt(np.mean(np.square(waveform))) * 10 ** (-snr / 20)
            waveform = waveform + np.float32(level) * rng.standard_normal(len(waveform), dtype=np.float32)
        return np.clip(waveform * np.float32(10 ** (gain / 20)), -1, 1)


def _draw_partners(rng: np.random.Generator, speakers: np.ndarray) -> np.ndarray:
    """For each utterance another one of the same speaker, ``(utterances,)``; -1 where there is none."""
    order = np.argsort(speakers, kind="stable")
    _, inverse, counts = np.unique(speakers, return_inverse=True, return_counts=True)
    starts = (np.cumsum(counts) - counts)[inverse]  # where the speaker begins in `order`
    counts = counts[inverse]
    own = np.empty_like(order)
    own[order] = np.arange(len(order))
    own -= starts
    drawn = rng.integers(0, np.maximum(counts - 1, 1))
    drawn += drawn >= own  # skip the utterance itself
    return np.where(counts > 1, order[np.minimum(starts + drawn, len(order) - 1)], -1)
