"""Multiply-accumulate operations (MACs) of encoders, by stage, from sizes alone."""

from collections.abc import Sequence


def extractor_macs(samples: int, conv_layers: Sequence[tuple[int, int, int]]) -> int:
    """MACs of unpadded one-dimensional convolutions on a waveform of one channel.

    Args:
        samples: length of the waveform.
        conv_layers: (channels, kernel, stride) of each layer.
    """
    macs, channels, length = 0, 1, samples
    for out_channels, kernel, stride in conv_layers:
        length = (length - kernel) // stride + 1
        macs += length * channels * out_channels * kernel
        channels = out_channels
    return macs


def transformer_layer_macs(
    frames: int, kept: int, dim: int, ffn_dim: int, heads: int, scored: bool = False
) -> dict[str, int]:
    """MACs of a layer that drops frames between its attention and its feed-forward block.

    Args:
        frames, kept: before and after the drop.
        dim, ffn_dim, heads: of the layer.
        scored: the attention that frames receive is summed over heads and queries.
    """
    attention = 4 * frames * dim * dim + 2 * frames * frames * dim
    if scored:
        attention += heads * frames * frames
    return {"attention": attention, "feed_forward": 2 * kept * dim * ffn_dim}


def hubert_macs(
    samples: int,
    conv_layers: Sequence[tuple[int, int, int]],
    dim: int,
    ffn_dim: int,
    heads: int,
    conv_pos: int,
    conv_pos_groups: int,
    frames: Sequence[int],
    scored: Sequence[bool],
) -> dict[str, int]:
    """MACs of HuBERT by stage, for one utterance.

    Args:
        samples: length of the waveform.
        conv_layers: (channels, kernel, stride) of the extractor.
        dim, ffn_dim, heads: of the transformer layers.
        conv_pos, conv_pos_groups: kernel and groups of the positional convolution.
        frames: entering the first layer, and leaving each layer.
        scored: whether each layer computes the attention received.

    Returns:
        MACs under "extractor", "positional" (the projection to ``dim`` and the positional convolution),
        "attention", "feed_forward" and "total".
    """
    channels = conv_layers[-1][0]
    # padding of half the kernel on both sides gives an even kernel one frame more, which is then cut off
    convolved = frames[0] + (1 - conv_pos % 2)
    macs = {
        "extractor": extractor_macs(samples, conv_layers),
        "positional": convolved * conv_pos * dim * dim // conv_pos_groups
        + (frames[0] * channels * dim if channels != dim else 0),
        "attention": 0,
        "feed_forward": 0,
    }
    for before, after, is_scored in zip(frames, frames[1:], scored):
        for stage, count in transformer_layer_macs(before, after, dim, ffn_dim, heads, is_scored).items():
            macs[stage] += count
    macs["total"] = sum(macs.values())
    return macs
