"""How long the dataset of speech translation takes to read and augment a batch."""

import tempfile
from pathlib import Path

import numpy as np
import torch

from fairseq_prune.benchmarks.stages import clock
from fairseq_prune.benchmarks.updates import Batch
from fairseq_prune.constants import SAMPLE_RATE
from fairseq_prune.data.audio import write_audio
from fairseq_prune.data.augmentation import Augmentation
from fairseq_prune.data.manifest import Utterance
from fairseq_prune.data.speech_translation_dataset import SpeechTranslationDataset
from fairseq_prune.text.sentencepiece import SentencePieceVocabulary

# what the examples ask for; of a batch of this length without joined utterances, which would make it longer
AUGMENTATION = Augmentation(
    speed_factors=(0.9, 0.95, 1.0, 1.05, 1.1), noise_rate=0.5, gain_db=6.0, edge_max_silence=640
)
EPOCHS = 10  # that are timed; each draws other speeds


def reading_seconds(batch: Batch, processor: bool = False) -> float:
    """Mean seconds in which one process reads such a batch from FLAC files, augments and collates it.

    Args:
        processor: in this process's processor time instead of wall-clock.
    """
    device = torch.device("cpu")
    with tempfile.TemporaryDirectory() as folder:
        dataset = _dataset(batch, Path(folder))
        seconds = []
        for epoch in range(1, EPOCHS + 2):
            dataset.set_epoch(epoch)
            start = clock(device, processor)
            dataset.collater([dataset[index] for index in range(len(dataset))])
            seconds.append(clock(device, processor) - start)
    return float(np.mean(seconds[1:]))


def _dataset(batch: Batch, folder: Path) -> SpeechTranslationDataset:
    """Of the batch's noise, in files of this folder; a target has a letter for each token of the batch's."""
    utterances, text = [], "x" * batch.tokens
    for index, waveform in enumerate(batch.waveforms(torch.device("cpu"))):
        write_audio(folder / f"{index}.flac", waveform.numpy(), SAMPLE_RATE)
        utterances.append(Utterance(str(index), f"{index}.flac", 0, batch.samples, text, text, "noise"))
    letters = SentencePieceVocabulary.train([text], model_type="char")
    return SpeechTranslationDataset(utterances, folder, letters, training=True, augmentation=AUGMENTATION)
