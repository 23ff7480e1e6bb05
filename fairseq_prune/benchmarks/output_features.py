"""What a decoder's output projection is given while the model writes of speech."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Optional

import torch
from torch import Tensor, nn
from tqdm import tqdm

from fairseq_prune.checkpoints.whisper.foreign import is_whisper
from fairseq_prune.inference.loading import Model, PieceModel, WhisperModel, load
from fairseq_prune.inference.translation import Translator

AT_A_TIME = 8  # waveforms


def decoder_of(model: Model, path) -> nn.Module:
    """The decoder that writes tokens.

    Raises:
        ValueError: the model has none.
    """
    if isinstance(model, WhisperModel):
        return model.transcriber.listener.model.decoder
    if isinstance(model, PieceModel) and isinstance(model.pipeline, Translator):
        return model.pipeline.model.decoder
    raise ValueError(f"{path}: no decoder that writes tokens, expected a Whisper or a hubert_deltalm")


@contextmanager
def kept_features(decoder: nn.Module) -> Iterator[list[Tensor]]:
    """Within, the list gets what the output projection is given: (steps, dim) each."""
    found: list[Tensor] = []
    output_layer = decoder.output_layer

    def keeping(features: Tensor, *args, **kwargs) -> Tensor:
        found.append(features.detach().flatten(0, -2).float().cpu().clone())
        return output_layer(features, *args, **kwargs)

    decoder.output_layer = keeping
    try:
        yield found
    finally:
        del decoder.output_layer


@torch.inference_mode()
def output_features(
    path,
    sets: Sequence[Sequence[Tensor]],
    language: Optional[str] = None,
    overrides: Optional[dict[str, Any]] = None,
    progress: Optional[str] = None,
) -> list[Tensor]:
    """The features that the output projection of a checkpoint's decoder is given for sets of waveforms.

    A Whisper transcribes greedily, with timestamps and without; a hubert_deltalm translates with a beam of 5.

    Args:
        sets: of waveforms (samples,) at 16 kHz.
        language: of the speech, for a Whisper; None: the likeliest.
        progress: title of a progress bar.

    Returns:
        (steps, dim) for each set.

    Raises:
        ValueError: the model has no such decoder, or hears nothing in a set.
    """
    ways: list[dict[str, Any]] = [{}]
    if is_whisper(path):
        ways = [dict(temperatures=(0.0,), language=language, timestamps=stamps) for stamps in (True, False)]
    models = [load(path, overrides=overrides, **way) for way in ways]
    decoders = [decoder_of(model, path) for model in models]
    found = []
    for waveforms in sets:
        parts = [waveforms[start : start + AT_A_TIME] for start in range(0, len(waveforms), AT_A_TIME)]
        features: list[Tensor] = []
        for part in tqdm(parts, desc=progress, unit="batch", disable=not progress):
            for model, decoder in zip(models, decoders):
                write = model.transcribe if isinstance(model, WhisperModel) else model.translate
                with kept_features(decoder) as given:
                    write(list(part))
                features += given
        if not features:
            raise ValueError(f"{path}: writes nothing of {len(waveforms)} waveforms, expected speech")
        found.append(torch.cat(features))
    return found
