"""What planning token pruning needs to know of an encoder: attention received by layer, and costs of frames."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from fairseq_prune.modules.hubert.encoder import TokenPrunedHubert
from fairseq_prune.pruning.counting import transformer_layer_macs
from fairseq_prune.pruning.planning import kept_attention


@torch.inference_mode()
def attention_received(hubert: TokenPrunedHubert, waveform: Tensor) -> list[Tensor]:
    """(frames,) for each layer of one utterance (samples,), in which nothing is dropped.

    Raises:
        ValueError: a layer has no attention.
    """
    if not all(hubert.shapes.heads):
        raise ValueError("planning: a layer of the encoder has no attention, and so drops no frames")
    received = []
    attend = hubert._self_attention

    def scoring(index, x, frames, scored):
        x, scores, keys = attend(index, x, frames, True)
        received.append(scores[0].cpu())
        return x, scores, keys

    hubert._self_attention = scoring  # of this object, which hides the method of the class
    try:
        with keeping(hubert, [1.0] * len(hubert.encoder.layers)):
            hubert(waveform.unsqueeze(0), [len(waveform)])
    finally:
        del hubert._self_attention
    return received


def lost_attention(received: Sequence[Tensor], shares: Tensor) -> Tensor:
    """Attention that is lost when a layer lets only a share of the frames go on.

    Args:
        received: (frames,) for each layer.
        shares: (shares,) of the frames that stay.

    Returns:
        (layers, shares): the share of the next layer's attention that goes to frames dropped here; after the last
        layer, of its own.
    """
    readers = [*received[1:], received[-1]]
    return torch.stack([1 - kept_attention(a, b, shares) for a, b in zip(received, readers)])


def layer_costs(hubert: TokenPrunedHubert, samples: Sequence[int], shares: Tensor) -> Tensor:
    """MACs of each layer, (layers, shares before, shares after), over utterances of so many samples.

    Attention works on the frames before the layer's drop, and scores them where it drops any.
    """
    costs = torch.zeros(len(hubert.encoder.layers), len(shares), len(shares), dtype=torch.float64)
    before, after = shares.double().unsqueeze(1), shares.double().unsqueeze(0)
    scored = (after < before).double()
    for count in samples:
        frames = hubert.frame_counts(count)[0]
        for layer, size in enumerate(hubert.shapes.layer_sizes()):
            sizes = hubert.encoder.embedding_dim, size.units, size.heads
            macs = transformer_layer_macs(
                before * frames,
                after * frames,
                *sizes,
                False,
                hubert.shapes.head_dim,
                hubert.shapes.gate_units,
            )
            scoring = size.heads * (before * frames).square() * scored
            costs[layer] += macs["attention"] + macs["feed_forward"] + scoring
    return costs


def encoder_macs(hubert: TokenPrunedHubert, samples: Sequence[int], keep_ratios: Sequence[float]) -> int:
    """MACs of the whole encoder with such keep ratios, over utterances of so many samples."""
    with keeping(hubert, keep_ratios):
        return sum(hubert.macs(count)["total"] for count in samples)


@contextmanager
def keeping(hubert: TokenPrunedHubert, keep_ratios: Sequence[float]) -> Iterator[None]:
    """Within it the layers have such keep ratios by attention received, without a warm-up."""
    before = hubert.pruning
    hubert.pruning = replace(
        hubert.pruning, keep_ratios=list(keep_ratios), criterion="received", warmup_updates=0
    )
    try:
        yield
    finally:
        hubert.pruning = before
