"""HuBERT's convolutional extractor for inference on the CPU: stretch by stretch, channels side by side in memory."""

import math
from collections.abc import Sequence
from typing import Optional

import torch.nn.functional as F
from fairseq.modules import Fp32GroupNorm, Fp32LayerNorm
from torch import Tensor, nn
from torch.nn.utils.weight_norm import WeightNorm

from fairseq_prune.modules import onednn

# frames that are computed at a time: memory does not grow with the audio, and stays near the processor
STRETCH = 512


def is_plain(conv_layers: nn.ModuleList) -> bool:
    """Whether these are blocks of fairseq's extractor as `extract` knows them, without dropout."""
    return all(_is_plain(block, index) for index, block in enumerate(conv_layers))


def _is_plain(block: nn.Sequential, index: int) -> bool:
    conv, dropout, *norms, activation = block
    norm = _norm(block)
    return (
        type(conv) is nn.Conv1d
        and folded_weight(conv) is not None
        and conv.groups == 1
        and conv.padding == (0,)
        and conv.dilation == (1,)
        and isinstance(dropout, nn.Dropout)
        and (dropout.p == 0 or not dropout.training)
        and len(norms) <= 1
        and type(activation) is nn.GELU
        and activation.approximate == "none"
        and (
            not norms
            or type(norm) is Fp32LayerNorm
            # its statistics follow from the windows of a single channel, the waveform
            or (type(norm) is Fp32GroupNorm and index == 0 and norm.num_groups == norm.num_channels)
        )
    )


def _norm(block: nn.Sequential) -> Optional[nn.Module]:
    """fairseq wraps a layer norm between two transpositions."""
    norm = block[2] if len(block) > 3 else None
    return norm[1] if isinstance(norm, nn.Sequential) else norm


def extract(
    conv_layers: nn.ModuleList, waveform: Tensor, lengths: Sequence[int], frames: Sequence[int]
) -> Tensor:
    """What the blocks make of (batch, samples), where `is_plain` and `onednn.convolves`.

    Args:
        conv_layers: of fairseq's extractor.
        waveform: (batch, samples).
        lengths: samples of each utterance that its statistics are taken of.
        frames: that are made of them, at least 1; others are left 0.

    Returns:
        (batch, max(frames), channels).
    """
    stride = math.prod(block[0].stride[0] for block in conv_layers)
    reach = 1
    for block in reversed(conv_layers):
        reach = (reach - 1) * block[0].stride[0] + block[0].kernel_size[0]
    channels = conv_layers[-1][0].out_channels
    out = waveform.new_zeros(len(waveform), max(frames), channels)
    for row, (length, count) in enumerate(zip(lengths, frames)):
        weight, bias = _first_map(conv_layers[0], waveform[row, :length])
        for start in range(0, count, STRETCH):
            end = min(start + STRETCH, count)
            samples = waveform[row, start * stride : (end - 1) * stride + reach]
            out[row, start:end] = _convolve(conv_layers, samples, weight, bias)
    return out


def _first_map(block: nn.Sequential, waveform: Tensor) -> tuple[Tensor, Optional[Tensor]]:
    """The first convolution as a map of windows, with its group norm folded in: weight (channels, kernel), bias.

    A channel is w . u of each window u, and so has the mean w . mean(u) and the variance w . cov(u) w: there is no
    need to compute it once for its statistics alone.
    """
    conv, norm = block[0], _norm(block)
    if not isinstance(norm, Fp32GroupNorm):
        return conv.weight.squeeze(1), conv.bias
    windows = waveform.unfold(
        0, conv.kernel_size[0], conv.stride[0]
    ).double()  # neighbours are nearly the same
    mean = windows.mean(0)
    windows = windows - mean
    covariance = windows.t() @ windows / len(windows)
    weight = conv.weight.squeeze(1).double()
    variance = ((weight @ covariance) * weight).sum(1).clamp(min=0)
    scale = norm.weight.double() * (variance + norm.eps).rsqrt()
    bias = norm.bias.double() - scale * (weight @ mean)  # the convolution's own bias falls out with the mean
    return (weight * scale.unsqueeze(1)).to(waveform.dtype), bias.to(waveform.dtype)


def _convolve(conv_layers: nn.ModuleList, samples: Tensor, weight: Tensor, bias: Optional[Tensor]) -> Tensor:
    """(samples,) -> (frames, channels), the first convolution being a linear map of windows."""
    first = conv_layers[0][0]
    x = samples.unfold(0, first.kernel_size[0], first.stride[0]).contiguous()
    for index, block in enumerate(conv_layers):
        conv, norm = block[0], _norm(block)
        has_layer_norm = isinstance(norm, Fp32LayerNorm)
        if index == 0:
            x = onednn.product(x, weight, bias, not has_layer_norm).unsqueeze(0)
        else:
            x = onednn.convolution(x, conv.weight, conv.bias, conv.stride[0], with_gelu=not has_layer_norm)
        if has_layer_norm:
            x = F.gelu(norm(x))
    return x.squeeze(0)


def folded_weight(conv: nn.Conv1d) -> Optional[Tensor]:
    """The weight of a convolution with or without weight norm; None if it is no plain one, or has other hooks."""
    hooks = [*conv._forward_hooks.values(), *conv._forward_pre_hooks.values()]
    if type(conv) is not nn.Conv1d or not all(isinstance(hook, WeightNorm) for hook in hooks):
        return None
    for hook in hooks:
        return hook.compute_weight(conv)
    return conv.weight
