"""Waveforms alone as a fairseq dataset, in batches of equal length or padded."""

import numpy as np
import torch
from fairseq.data import FairseqDataset

from fairseq_prune.data.audio import SAMPLE_RATE, read_audio
from fairseq_prune.data.waveform_manifest import WaveformManifest

LENGTH_BUCKET = 1600  # samples; files this close in length are batched in random order


class WaveformDataset(FairseqDataset):
    """Files of a manifest. ``--max-tokens`` counts samples.

    The order of training, and the places where files are cut, depend on the seed and the epoch only.

    Args:
        manifest: its files; those that are too short are left out before.
        max_samples: of longer files, so much is taken from a random place (evaluation: from the start).
        crop: cut all files of a batch to its shortest, so that no frame is padding; or else pad them.
        training: whether to shuffle, and to cut at random places.
        seed: of the order and of the places.
    """

    def __init__(
        self, manifest: WaveformManifest, max_samples: int, crop: bool, training: bool = False, seed: int = 1
    ):
        self.manifest = manifest
        self.sizes = np.minimum(manifest.samples, max_samples)
        self.crop = crop
        self.training = training
        self.seed = seed
        self.epoch = 1

    @property
    def can_reuse_epoch_itr_across_epochs(self) -> bool:
        # a resumed run makes the batches of its epoch; so does, then, one without a break
        return not self.training

    def set_epoch(self, epoch: int) -> None:
        """What is random is drawn for this epoch; again the same if called again."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.sizes)

    def _random(self, index: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, self.epoch, index))

    def _start(self, index: int, spare: int) -> int:
        """Where to cut ``spare`` samples off in front."""
        return int(self._random(index).integers(spare + 1)) if self.training and spare else 0

    def __getitem__(self, index: int) -> dict:
        start = self._start(index, int(self.manifest.samples[index] - self.sizes[index]))
        path = self.manifest.root / self.manifest.paths[index]
        waveform = torch.from_numpy(read_audio(path, start, int(self.sizes[index])))
        return {"id": index, "waveform": waveform}

    def collater(self, samples: list[dict]) -> dict:
        """Make a batch: ``source`` (batch, samples) and ``lengths``, the valid samples of each row.

        Lengths stay on the host, where all later ones follow from them without waiting for the device.
        """
        if not samples:
            return {}
        waveforms = [sample["waveform"] for sample in samples]
        if self.crop:
            shortest = min(len(waveform) for waveform in waveforms)
            starts = [self._start(sample["id"], len(sample["waveform"]) - shortest) for sample in samples]
            waveforms = [waveform[start : start + shortest] for waveform, start in zip(waveforms, starts)]
        lengths = [len(waveform) for waveform in waveforms]
        source = torch.nn.utils.rnn.pad_sequence(waveforms, batch_first=True)
        return {
            "id": torch.tensor([sample["id"] for sample in samples]),
            "nsentences": len(samples),
            "ntokens": sum(lengths),
            "net_input": {"source": source, "lengths": lengths},
        }

    def num_tokens(self, index: int) -> int:
        return int(self.sizes[index])

    def num_tokens_vec(self, indices: np.ndarray) -> np.ndarray:
        return self.sizes[indices]

    def size(self, index: int) -> int:
        return int(self.sizes[index])

    def ordered_indices(self) -> np.ndarray:
        """Longest first, as that is where memory runs out; near ties in random order when training."""
        if not self.training:
            return np.argsort(-self.sizes, kind="stable")
        order = np.random.default_rng((self.seed, self.epoch)).permutation(len(self))
        return order[np.argsort(-(self.sizes[order] // LENGTH_BUCKET), kind="stable")]

    def check_batches(self, max_tokens: int) -> None:
        """Raise ValueError if a file is longer than a batch may be."""
        if len(self) and self.sizes.max() > max_tokens:
            raise ValueError(
                f"--max-tokens counts samples (at {SAMPLE_RATE} Hz) and must be at least {self.sizes.max()}, the"
                f" longest file (or --max-sample-size, which cuts it); found {max_tokens}"
            )
