"""A Whisper of random weights in the formats that transcribe.py takes, and recordings."""

import sys
from pathlib import Path

import soundfile
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "inference" / "whisper"))

from small_whisper import SIZES, our_names
from speaking import TOKENIZER, noise, theirs

from fairseq_prune.checkpoints.whisper.own import WhisperCheckpoint


def write_checkpoint(path, language="en"):
    """A checkpoint of this package; with ``language=None`` that of an English-only model."""
    task = {"language": language, "suppress_tokens": "none"}
    state = WhisperCheckpoint("small", SIZES, our_names(theirs()), TOKENIZER.to_json(), task).to_fairseq()
    torch.save(state, path)
    return path


def write_recordings(folder, *seconds):
    """Files 0.wav, 1.wav, ... of so many seconds."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number}.wav" for number in range(len(seconds))]
    for number, (path, length) in enumerate(zip(paths, seconds)):
        soundfile.write(path, noise(length, number), 16000)
    return paths
