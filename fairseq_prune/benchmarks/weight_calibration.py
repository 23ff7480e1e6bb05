"""What pruning the weights of a Whisper needs to know of it: scores and losses on speech without labels.

The labels are the model's own: the text that it writes greedily before anything is pruned.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple, Optional

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from fairseq_prune.data.audio import SAMPLE_RATE
from fairseq_prune.data.log_mel import log_mel
from fairseq_prune.inference.whisper.loading import WhisperPipeline
from fairseq_prune.inference.whisper.options import TranscriptionOptions
from fairseq_prune.inference.whisper.recordings import Recording
from fairseq_prune.inference.whisper.rules import forced_prefix
from fairseq_prune.inference.whisper.windows import Listener, Window
from fairseq_prune.pruning.components import by_component
from fairseq_prune.pruning.layer_inputs import InputMoments, InputNorms
from fairseq_prune.pruning.least_squares import block_energy
from fairseq_prune.pruning.magnitude import Masks
from fairseq_prune.pruning.scores import Scores, random_scores, taylor_scores, wanda_scores

SCORES = ("magnitude", "wanda", "taylor", "fisher", "random")
ON_SPEECH = ("wanda", "taylor", "fisher")  # these look at what the model does with speech
RANKS = ("norm", "activation", "taylor", "fisher")  # of units and heads


class Clip(NamedTuple):
    """A stretch of speech, and the text that the model writes of it.

    features: (mel frames, mel bins). tokens: prefix, text and end. prefix: how many tokens the prefix has.
    """

    features: Tensor
    tokens: list[int]
    prefix: int


def draw_windows(
    recordings: Sequence[Recording], longest: int, seconds: Sequence[float], seed: int
) -> list[list[Window]]:
    """Stretches of recordings, in an order of chance, in several sets without common stretches.

    Args:
        longest: samples of a stretch; a longer recording is cut.
        seconds: that each set has at least, unless no stretches are left.
        seed: of the order.

    Raises:
        ValueError: a set would be empty.
    """
    places = [(one, start) for one in recordings for start in range(0, one.samples, longest)]
    order = np.random.default_rng(seed).permutation(len(places)).tolist()
    sets: list[list[Window]] = []
    for wanted in seconds:
        windows, heard = [], 0.0
        while order and heard < wanted:
            recording, start = places[order.pop()]
            samples = recording.read(start, min(longest, recording.samples - start))
            windows.append(Window(start, torch.from_numpy(np.asarray(samples))))
            heard += windows[-1].seconds
        if not windows:
            total = sum(one.samples for one in recordings) / SAMPLE_RATE
            raise ValueError(
                f"audio: found {total:.0f} s in all, expected more than {sum(seconds[:-1]):.0f} s"
            )
        sets.append(windows)
    return sets


def own_texts(
    pipeline: WhisperPipeline,
    windows: Sequence[Window],
    language: Optional[str] = None,
    batch_size: int = 8,
    progress: Optional[str] = None,
) -> list[Clip]:
    """The windows in which a Whisper hears something, with what it writes of them.

    Args:
        language: of the speech; None: the likeliest of each window.
        progress: title of a progress bar.

    Raises:
        ValueError: the model has not the language, or hears nothing anywhere.
    """
    pipeline.require(language, "transcribe")
    options = TranscriptionOptions(
        language=language, temperatures=(0.0,), timestamps=False, batch_size=batch_size
    )
    listener, clips = Listener(pipeline, options), []
    for window in windows:
        window.language = language
    for start in tqdm(range(0, len(windows), batch_size), desc=progress, unit="batch", disable=not progress):
        part = windows[start : start + batch_size]
        for window, heard in zip(part, listener.hear(part)):
            if heard.tokens:
                prefix = forced_prefix(pipeline.tokenizer, heard.language, timestamps=False)
                tokens = [*prefix, *heard.tokens, listener.writer.end]
                features = log_mel(window.waveform, pipeline.mel_bins)[
                    : pipeline.model.encoder.max_positions()
                ]
                clips.append(
                    Clip(features, tokens[: pipeline.model.decoder.max_positions() + 1], len(prefix))
                )
    if not clips:
        raise ValueError(f"audio: {pipeline.source} hears no speech in any of it")
    return clips


def losses(model: nn.Module, clips: Sequence[Clip], progress: Optional[str] = None) -> Iterator[Tensor]:
    """The nats () that the model gives each clip's text and its end; with gradients unless these are off.

    One clip at a time: there is no padding that could count.
    """
    device = next(model.parameters()).device
    for clip in tqdm(clips, desc=progress, unit="clip", disable=not progress):
        features, tokens = clip.features[None].to(device), torch.tensor([clip.tokens], device=device)
        length = torch.tensor([len(clip.features)], device=device)
        logits, _ = model(features, length, tokens[:, :-1])
        scored = clip.prefix - 1
        yield F.cross_entropy(logits[0, scored:].float(), tokens[0, scored + 1 :], reduction="sum")


@torch.inference_mode()
def mean_loss(model: nn.Module, clips: Sequence[Clip]) -> float:
    """Nats a token."""
    total = sum(float(loss) for loss in losses(model, clips))
    return total / sum(len(clip.tokens) - clip.prefix for clip in clips)


def prunable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The matrices of all components of a model, by name."""
    parameters = dict(model.named_parameters())
    return {name: parameters[name] for group in by_component(parameters).values() for name in group}


def speech_scores(
    name: str, model: nn.Module, clips: Sequence[Clip], progress: Optional[str] = None
) -> Scores:
    """One of `ON_SPEECH` for the weights of all components."""
    weights = prunable(model)
    if name != "wanda":
        return taylor_scores(weights, losses(model, clips, progress), squared=name == "fisher")
    with InputNorms(model, weights) as norms, torch.no_grad():
        for _ in losses(model, clips, progress):
            pass
    return wanda_scores(weights, norms.values())


def plain_scores(name: str, weights: Mapping[str, Tensor], seed: int) -> Scores:
    """One of the other `SCORES`, of weights alone."""
    if name == "random":
        return random_scores(weights, seed)
    return {key: weight.detach().abs() for key, weight in weights.items()}


def structure_scores(
    rank: str, model: nn.Module, clips: Sequence[Clip], moments: Mapping[str, Tensor], progress=None
) -> Scores:
    """Importances of feed-forward units and attention heads, by the name of the matrix after them.

    activation: the mean square of what a unit or head adds to the residual; taylor, fisher: the change of the loss
    without it.

    Args:
        rank: one of `RANKS`, other than "norm".
        moments: as of `structure_moments`.
    """
    weights, block = after_structure(model)
    if rank == "activation":
        return {name: block_energy(weights[name].detach(), moments[name], block[name]) for name in weights}
    return taylor_scores(weights, losses(model, clips, progress), rank == "fisher", block)


def structure_moments(model: nn.Module, clips: Sequence[Clip], progress=None) -> dict[str, Tensor]:
    """Second moments of feed-forward units and of what heads find, by the name of the matrix after them."""
    with InputMoments(model, after_structure(model)[0]) as moments, torch.no_grad():
        for _ in losses(model, clips, progress):
            pass
    return moments.values()


def after_structure(model: nn.Module) -> tuple[dict[str, nn.Parameter], dict[str, int]]:
    """The matrices after units and heads, and how many columns of each belong together."""
    weights = {
        name: weight
        for name, weight in prunable(model).items()
        if name.endswith(("fc2.weight", "out_proj.weight"))
    }
    modules = dict(model.named_modules())
    block = {
        name: modules[name[: -len(".out_proj.weight")]].head_dim if "out_proj" in name else 1
        for name in weights
    }
    return weights, block


@contextmanager
def masked(model: nn.Module, masks: Masks) -> Iterator[None]:
    """Within, the weights that ``masks`` leave out are zero."""
    parameters = dict(model.named_parameters())
    before = {name: parameters[name].data for name in masks}
    try:
        for name, mask in masks.items():
            parameters[name].data = before[name] * mask.to(before[name].device)
        yield
    finally:
        for name, weight in before.items():
            parameters[name].data = weight
