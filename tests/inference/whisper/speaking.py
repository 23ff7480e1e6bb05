"""A small Whisper of random weights that writes timestamps, as a pipeline has it, and recordings for it."""

from types import SimpleNamespace

import numpy as np
import torch
from small_whisper import huggingface_whisper, our_names, small_tokenizer, small_whisper

from fairseq_prune.text.byte_level_bpe import TIMESTAMPS

TOKENIZER = small_tokenizer().with_tokens(TIMESTAMPS, special=True)
FIRST = TOKENIZER.special[TIMESTAMPS[0]]
END = TOKENIZER.dictionary.eos()
SECONDS = 1.2  # of a window


def theirs(seed=2, end=12):
    """transformers' model."""
    return huggingface_whisper(TOKENIZER, seed, end)


def pipeline(audio_context="30s", multilingual=True, seed=2, end=12, **fields):
    """What `WhisperPipeline` is to the rest."""
    weights = our_names(theirs(seed, end))
    model = small_whisper(weights, TOKENIZER, audio_context=audio_context)
    given = dict(
        source="small.pt",
        model=model,
        tokenizer=TOKENIZER,
        multilingual=multilingual,
        mel_bins=80,
        never=[],
        never_first=[],
        alignment_heads=None,
    )
    return SimpleNamespace(**{**given, **fields})


def noise(seconds, seed=0):
    """(samples,) of a voice-like noise that changes its loudness."""
    rng = np.random.default_rng(seed)
    samples = round(seconds * 16000)
    loudness = 0.05 + 0.3 * np.abs(np.sin(np.arange(samples) / 16000 * 5 + seed))
    return (loudness * rng.standard_normal(samples)).clip(-1, 1).astype(np.float32)


def prefixes(*rows):
    return torch.tensor([list(row) for row in rows])
