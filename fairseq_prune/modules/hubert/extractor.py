"""HuBERT's convolutional extractor on the CPU: stretch by stretch, channels side by side in memory."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Optional

import torch
import torch.nn.functional as F
from fairseq.modules import Fp32GroupNorm, Fp32LayerNorm
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.nn.utils.weight_norm import WeightNorm

from fairseq_prune.modules import onednn
from fairseq_prune.modules.gated_layers import GatedConv1d, OpenChannelNorm
from fairseq_prune.modules.hubert.shapes import ChannelScale
from fairseq_prune.modules.recomputing import run

# frames that are computed at a time at most: memory does not grow with the audio, and stays near the processor
STRETCH = 192


def is_plain(conv_layers: nn.ModuleList) -> bool:
    """Whether these are blocks of fairseq's extractor as `extract` knows them, without dropout."""
    return all(_is_plain(block, index) for index, block in enumerate(conv_layers))


def _is_plain(block: nn.Sequential, index: int) -> bool:
    conv, dropout, *norms, activation = _without_scale(block)
    norm = _norm(block)
    return (
        _is_convolution(conv)
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
            or type(norm) in (Fp32LayerNorm, OpenChannelNorm)
            # its statistics follow from the windows of a single channel, the waveform
            or (type(norm) is Fp32GroupNorm and index == 0 and norm.num_groups == norm.num_channels)
        )
    )


def _norm(block: nn.Sequential) -> Optional[nn.Module]:
    """fairseq wraps a layer norm between two transpositions."""
    _, _, *norms, _ = _without_scale(block)
    norm = norms[0] if norms else None
    return norm[1] if isinstance(norm, nn.Sequential) else norm


def _without_scale(block: nn.Sequential) -> list[nn.Module]:
    return [module for module in block if not isinstance(module, ChannelScale)]


def extract(
    conv_layers: nn.ModuleList,
    waveform: Tensor,
    lengths: Sequence[int],
    frames: Sequence[int],
    runner: Callable[..., Tensor] = run,
) -> Tensor:
    """What the blocks make of (batch, samples), where `is_plain` and `onednn.convolves`.

    Args:
        conv_layers: of fairseq's extractor.
        waveform: (batch, samples).
        lengths: samples of each utterance that its statistics are taken of.
        frames: that are made of them, at least 1; others are left 0.
        runner: of each stretch: `recomputing.run` or `recomputing.recompute`.

    Returns:
        (batch, max(frames), channels).
    """
    stride = math.prod(block[0].stride[0] for block in conv_layers)
    reach = 1
    for block in reversed(conv_layers):
        reach = (reach - 1) * block[0].stride[0] + block[0].kernel_size[0]
    rows = []
    for samples, length, count in zip(waveform, lengths, frames):
        convolve = partial(_convolve, conv_layers, *_first_map(conv_layers[0], samples[:length]))
        size = math.ceil(count / math.ceil(count / STRETCH))  # equal parts
        bounds = [(start, min(start + size, count)) for start in range(0, count, size)]
        rows.append(
            torch.cat([runner(convolve, samples[i * stride : (j - 1) * stride + reach]) for i, j in bounds])
        )
    return pad_sequence(rows, batch_first=True)


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


def _convolve(
    conv_layers: nn.ModuleList, first_weight: Tensor, first_bias: Optional[Tensor], samples: Tensor
) -> Tensor:
    """(samples,) -> (frames, channels), the first convolution being a linear map of windows."""
    first = conv_layers[0][0]
    x = samples.unfold(0, first.kernel_size[0], first.stride[0]).contiguous()
    for index, block in enumerate(conv_layers):
        conv, norm = block[0], _norm(block)
        with_gelu = norm is None or isinstance(norm, Fp32GroupNorm)  # a group norm is in the first map
        if index == 0:
            x = onednn.product(x, first_weight, first_bias, with_gelu).unsqueeze(0)
        else:
            x = onednn.convolution(x, folded_weight(conv), conv.bias, conv.stride[0], with_gelu=with_gelu)
        if not with_gelu:
            x = F.gelu(norm(x))
        if isinstance(block[-1], ChannelScale):
            x = x * block[-1].weight
    return x.squeeze(0)


def _is_convolution(conv: nn.Module) -> bool:
    """Whether `folded_weight` knows its weight."""
    hooks = [*conv._forward_hooks.values(), *conv._forward_pre_hooks.values()]
    return type(conv) in (nn.Conv1d, GatedConv1d) and all(isinstance(hook, WeightNorm) for hook in hooks)


def folded_weight(conv: nn.Conv1d) -> Optional[Tensor]:
    """The weight of a convolution with weight norm, gates of its inputs or neither; None of any other module."""
    if not _is_convolution(conv):
        return None
    if isinstance(conv, GatedConv1d):
        return conv.gated_weight()
    for hook in conv._forward_pre_hooks.values():
        return hook.compute_weight(conv)
    return conv.weight
