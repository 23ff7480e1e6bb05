"""Parameters and multiply-accumulate operations (MACs) of encoders, from sizes alone.

Counts are products and sums of sizes, in which no size is multiplied with itself. Where sizes are random and
independent, such as those that gates leave, the same functions of expected sizes therefore give expected counts:
all sizes that pruning changes may be numbers or 0-dim tensors.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Union

from torch import Tensor

Size = Union[int, float, Tensor]


@dataclass
class LayerSize:
    """Sizes of a transformer layer that pruning changes.

    heads, units: of attention and of the feed-forward block; 0 where there is no such block.
    attends, feeds: 1 where the block exists, else 0; or the probability of it.
    """

    heads: Size
    units: Size
    attends: Size = 1
    feeds: Size = 1


def extractor_macs(samples: int, conv_layers: Sequence[tuple[Size, int, int]]) -> Size:
    """MACs of unpadded one-dimensional convolutions on a waveform of one channel.

    Args:
        samples: length of the waveform.
        conv_layers: (channels, kernel, stride) of each layer.
    """
    macs, channels, length = 0, 1, samples
    for out_channels, kernel, stride in conv_layers:
        length = (length - kernel) // stride + 1
        macs += length * kernel * channels * out_channels
        channels = out_channels
    return macs


def transformer_layer_macs(
    frames: int,
    kept: int,
    dim: int,
    ffn_dim: Size,
    heads: Size,
    scored: bool = False,
    head_dim: int = 0,
    gate_units: int = 0,
) -> dict[str, Size]:
    """MACs of a layer that drops frames between its attention and its feed-forward block.

    Args:
        frames, kept: before and after the drop.
        dim, ffn_dim, heads: of the layer.
        scored: the attention that frames receive is summed over heads and queries.
        head_dim: width of a head; 0: the heads share ``dim``.
        gate_units: outputs of WavLM's linear map from each head's part of a frame to its gates.
    """
    inner = heads * head_dim if head_dim else dim
    attention = (4 * dim + gate_units) * frames * inner + 2 * frames * frames * inner
    if scored:
        attention += heads * frames * frames
    return {"attention": attention, "feed_forward": 2 * kept * dim * ffn_dim}


def hubert_macs(
    samples: int,
    conv_layers: Sequence[tuple[Size, int, int]],
    projects: bool,
    dim: int,
    head_dim: int,
    layers: Sequence[LayerSize],
    conv_pos: int,
    conv_pos_groups: int,
    frames: Sequence[int],
    scored: Sequence[bool],
    gate_units: int = 0,
) -> dict[str, Size]:
    """MACs of HuBERT by stage, for one utterance: convolutions and matrix products.

    Norms, softmax and other work on single elements are left out, and so is the comparison of frames of the criterion
    "merge" (0.1 % of a layer at 10 s of HuBERT base).

    Args:
        samples: length of the waveform.
        conv_layers: (channels, kernel, stride) of the extractor.
        projects: whether a linear map leads from the extractor's channels to ``dim``.
        dim, head_dim: of the transformer layers.
        layers: what they have of heads and units.
        conv_pos, conv_pos_groups: kernel and groups of the positional convolution.
        frames: entering the first layer, and leaving each layer.
        scored: whether each layer computes the attention received.
        gate_units: of WavLM's relative positions, see `transformer_layer_macs`.

    Returns:
        MACs under "extractor", "positional" (the projection to ``dim`` and the positional convolution),
        "attention", "feed_forward" and "total".
    """
    # padding of half the kernel on both sides gives an even kernel one frame more, which is then cut off
    convolved = frames[0] + (1 - conv_pos % 2)
    macs = {
        "extractor": extractor_macs(samples, conv_layers),
        "positional": convolved * conv_pos * dim * dim // conv_pos_groups
        + (frames[0] * dim * conv_layers[-1][0] if projects else 0),
        "attention": 0,
        "feed_forward": 0,
    }
    for before, after, layer, is_scored in zip(frames, frames[1:], layers, scored):
        sizes = dim, layer.units, layer.heads
        counts = transformer_layer_macs(before, after, *sizes, is_scored, head_dim, gate_units)
        for stage, count in counts.items():
            macs[stage] += count
    macs["total"] = sum(macs.values())
    return macs


def whisper_encoder_macs(
    mel_frames: int,
    mel_bins: int,
    dim: int,
    heads: Sequence[Size],
    head_dim: int,
    units: Sequence[Size],
    frames: Sequence[int],
    scored: Sequence[bool],
) -> dict[str, Size]:
    """MACs of Whisper's encoder by stage, for one clip: convolutions and matrix products.

    Args:
        mel_frames: that the convolutions work on, silence included.
        mel_bins: of each.
        dim, head_dim: of the transformer layers.
        heads, units: of each layer's attention and feed-forward block.
        frames: entering the first layer, and leaving each layer.
        scored: whether each layer computes the attention received.

    Returns:
        MACs under "extractor" (the two convolutions), "attention", "feed_forward" and "total".
    """
    kernel = 3
    halved = (mel_frames + 1) // 2
    macs = {
        "extractor": kernel * dim * (mel_frames * mel_bins + halved * dim),
        "attention": 0,
        "feed_forward": 0,
    }
    for before, after, width, own, is_scored in zip(frames, frames[1:], units, heads, scored):
        for stage, count in transformer_layer_macs(
            before, after, dim, width, own, is_scored, head_dim
        ).items():
            macs[stage] += count
    macs["total"] = sum(macs.values())
    return macs


def whisper_decoder_macs(
    tokens: int,
    memory: int,
    dim: int,
    head_dim: int,
    heads: Sequence[Size],
    cross_heads: Sequence[Size],
    units: Sequence[Size],
) -> dict[str, Size]:
    """MACs of the layers of Whisper's decoder, for one text that is written token by token.

    Args:
        tokens: of the text.
        memory: frames of the encoder's output, whose keys and values are computed once.
        dim, head_dim: of the layers.
        heads, cross_heads, units: of each layer's self-attention, cross-attention and feed-forward block.

    Returns:
        MACs under "attention", "cross_attention", "feed_forward" and "total".
    """
    seen = tokens * (tokens + 1) // 2  # of the tokens so far, by all tokens
    macs = {
        "attention": sum(heads) * head_dim * (4 * dim * tokens + 2 * seen),
        "cross_attention": sum(cross_heads) * head_dim * (2 * dim * (tokens + memory) + 2 * tokens * memory),
        "feed_forward": sum(units) * 2 * dim * tokens,
    }
    macs["total"] = sum(macs.values())
    return macs


def whisper_layer_parameters(dim: int, head_dim: int, layers: Sequence[LayerSize]) -> Size:
    """Parameters of Whisper's layers whose number depends on the sizes that pruning changes.

    A block that is gone leaves its output bias, which is therefore not counted, and takes its layer norm along.

    Args:
        dim, head_dim: of the layers.
        layers: what they have; a cross-attention is a `LayerSize` of its own, without a feed-forward block.
    """
    norms = sum(layer.attends + layer.feeds for layer in layers)
    heads, units = sum(layer.heads for layer in layers), sum(layer.units for layer in layers)
    return heads * head_dim * (4 * dim + 2) + units * (2 * dim + 1) + norms * 2 * dim


def hubert_prunable_parameters(
    conv_layers: Sequence[tuple[Size, int, int]],
    conv_norms: Sequence[bool],
    conv_bias: bool,
    projects: bool,
    dim: int,
    head_dim: int,
    layers: Sequence[LayerSize],
    norm_first: bool,
    position_gate: int = 0,
) -> Size:
    """Parameters of HuBERT whose number depends on the sizes that pruning changes.

    A block that is gone leaves its output bias, which is therefore not counted here, and its layer norm where
    that comes after the block.

    Args:
        conv_layers: (channels, kernel, stride) of the extractor.
        conv_norms: which of its layers normalise.
        conv_bias: whether they have biases.
        projects: whether a linear map leads from the extractor's channels to ``dim``.
        dim, head_dim: of the transformer layers.
        layers: what they have of heads and units.
        norm_first: layer norm before attention and feed-forward block, which goes with its block.
        position_gate: parameters of WavLM's gate of relative positions in a layer, beside one for each head.
    """
    parameters, channels = 0, 1
    for (out_channels, kernel, _), has_norm in zip(conv_layers, conv_norms):
        parameters += out_channels * (channels * kernel + conv_bias + 2 * has_norm)
        channels = out_channels
    parameters += channels * (2 + (dim if projects else 0))  # the features' layer norm, and the projection
    for layer in layers:
        parameters += layer.heads * head_dim * (4 * dim + 3) + layer.units * (2 * dim + 1)
        if position_gate:
            parameters += layer.heads + position_gate * layer.attends
        if norm_first:
            parameters += 2 * dim * (layer.attends + layer.feeds)
    return parameters
