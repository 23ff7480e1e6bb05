"""Convolutions on padded batches: what an utterance becomes does not depend on its padding."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Optional

import torch
import torch.nn.functional as F
from fairseq.modules import Fp32GroupNorm
from torch import Tensor, nn

from fairseq_prune.modules import onednn
from fairseq_prune.modules.hubert import extractor
from fairseq_prune.modules.recomputing import run
from fairseq_prune.pruning.tokens import padding_mask_of


def conv_output_length(length: int, layers: Sequence[tuple[int, int]]) -> int:
    """Frames that unpadded convolutions of (kernel, stride) make of ``length`` samples; 0 of too few."""
    for kernel, stride in layers:
        length = (length - kernel) // stride + 1 if length >= kernel else 0
    return length


def samples_of_a_frame(layers: Sequence[tuple[int, int]]) -> int:
    """The fewest samples of which unpadded convolutions of (kernel, stride) make a frame."""
    samples = 1
    for kernel, stride in reversed(layers):
        samples = (samples - 1) * stride + kernel
    return samples


def chunked_frame_lengths(lengths: Sequence[int], samples: int, frames: int) -> list[int]:
    """Valid frames as fairseq counts them: ``samples`` fall into as many equal parts as there are ``frames``."""
    chunk = samples // frames
    return [min(frames, (n - 1) // chunk + 1) for n in lengths]


def masked_norm(x: Tensor, lengths: Sequence[int], eps: float) -> Tensor:
    """Normalise each channel over an utterance's valid steps: (batch, channels, time), returned as such."""
    valid = torch.ones(x.shape[0], x.shape[2], device=x.device)
    padding = padding_mask_of(lengths, x.shape[2], x.device)
    if padding is not None:
        valid = valid.masked_fill(padding, 0)
    with torch.autocast(x.device.type, enabled=False):  # which would take these products in half precision
        return norm_over_valid(x, valid, eps)


def norm_over_valid(x: Tensor, valid: Tensor, eps: float) -> Tensor:
    """`masked_norm` over the steps where ``valid`` (batch, time) is 1; it is 0 at the others."""
    share = (valid / valid.sum(1, keepdim=True)).unsqueeze(2)  # (batch, time, 1): a product with it is a mean
    centred = x - x @ share
    return centred * (centred.square() @ share + eps).rsqrt()


def normalize_waveform(waveform: Tensor, lengths: Sequence[int]) -> Tensor:
    """Zero mean and unit variance over each utterance's own samples, (batch, samples); padding stays zero."""
    normal = masked_norm(waveform.float().unsqueeze(1), lengths, eps=1e-5).squeeze(1)
    padding = padding_mask_of(lengths, waveform.shape[1], waveform.device)
    if padding is not None:
        normal = normal.masked_fill(padding, 0)
    return normal.to(waveform.dtype)


def extract_conv_features(
    conv_layers: nn.ModuleList,
    waveform: Tensor,
    lengths: Optional[Sequence[int]],
    runner: Callable[..., Tensor] = run,
) -> Tensor:
    """fairseq's ``ConvFeatureExtractionModel.forward`` with statistics over valid samples only.

    HuBERT base normalises its first convolution over time. fairseq, transformers and torchaudio all let the
    padding take part, which changes the features of a 3 s utterance padded to 8 s by 40 % (relative L2).

    Args:
        conv_layers: of fairseq's extractor.
        waveform: (batch, samples).
        lengths: valid samples of each utterance; None includes the padding, as fairseq does.
        runner: of each block, or stretch: `recomputing.run` or `recomputing.recompute`.

    Returns:
        (batch, channels, frames).
    """
    if lengths is not None and all(n == waveform.shape[1] for n in lengths):
        lengths = None
    same_type = conv_layers[0][0].weight.dtype == waveform.dtype
    if same_type and onednn.convolves(waveform) and extractor.is_plain(conv_layers):
        sizes = [(block[0].kernel_size[0], block[0].stride[0]) for block in conv_layers]
        lengths = lengths or [waveform.shape[1]] * len(waveform)
        frames = [conv_output_length(n, sizes) for n in lengths]
        return extractor.extract(conv_layers, waveform, lengths, frames, runner).transpose(1, 2)
    x = waveform.unsqueeze(1)
    for block in conv_layers:
        if lengths is not None:  # of the first module, the convolution
            kernel_stride = [(block[0].kernel_size[0], block[0].stride[0])]
            lengths = [conv_output_length(n, kernel_stride) for n in lengths]
        x = runner(partial(_run_block, block, lengths), x)
    return x


def _run_block(block: nn.Sequential, lengths: Optional[list[int]], x: Tensor) -> Tensor:
    """``lengths``: valid steps after the convolution; None: all."""
    if lengths is None:
        return block(x)
    for module in block:
        x = _masked_group_norm(module, x, lengths) if isinstance(module, Fp32GroupNorm) else module(x)
    return x


def positional_features(pos_conv: nn.Sequential, x: Tensor, padding_mask: Optional[Tensor]) -> Tensor:
    """fairseq's positional convolution of frames (batch, frames, dim), which are zero on padding.

    With ``padding_mask`` (batch, frames) the convolution sees zeros there also after a batch norm.
    """
    x = x.transpose(1, 2)
    for module in pos_conv:
        weight = (
            extractor.folded_weight(module) if isinstance(module, nn.Conv1d) and onednn.convolves(x) else None
        )
        if weight is None or weight.dtype != x.dtype:
            x = module(x)
        else:
            sizes = module.stride[0], module.padding[0], module.groups
            x = onednn.convolution(x.transpose(1, 2), weight, module.bias, *sizes).transpose(1, 2)
        if isinstance(module, nn.BatchNorm1d) and padding_mask is not None:
            x = x.masked_fill(padding_mask.unsqueeze(1), 0)
    return x.transpose(1, 2)


def _masked_group_norm(norm: Fp32GroupNorm, x: Tensor, lengths: list[int]) -> Tensor:
    if norm.num_groups != norm.num_channels:
        raise ValueError(
            f"group norm with {norm.num_groups} groups: expected one a channel, as in HuBERT base"
        )
    normal = masked_norm(x.float(), lengths, norm.eps)
    return torch.addcmul(norm.bias.float()[:, None], normal, norm.weight.float()[:, None]).type_as(x)


class ConvAdaptor(nn.Module):
    """Strided convolutions with GLU that shorten the encoder's output; a linear map when there are none.

    Padding is set to zero before each convolution, as it would be seen past the end of an unpadded utterance.

    Args:
        in_dim, out_dim: of the frames before and after.
        channels: inner width; the last layer has ``out_dim``.
        kernels: odd kernel sizes, one a layer.
        stride: of every layer.
    """

    def __init__(self, in_dim: int, out_dim: int, channels: int, kernels: Sequence[int], stride: int = 2):
        super().__init__()
        if any(kernel % 2 == 0 or kernel < 1 for kernel in kernels):
            raise ValueError(f"adaptor kernels: found {list(kernels)}, expected odd sizes")
        self.stride = stride
        self.out_dim = out_dim
        dims = [in_dim] + [channels] * (len(kernels) - 1) + [out_dim]
        self.convs = nn.ModuleList(
            nn.Conv1d(dims[i], 2 * dims[i + 1], kernel, stride, padding=kernel // 2)
            for i, kernel in enumerate(kernels)
        )
        self.linear = None if self.convs else nn.Linear(in_dim, out_dim)

    def forward(
        self, x: Tensor, lengths: Sequence[int], positions: Tensor
    ) -> tuple[Tensor, list[int], Tensor]:
        """(batch, frames, in_dim), valid frames, positions (batch, frames) -> the same three, shortened."""
        lengths = list(lengths)
        if self.linear is not None:
            return self.linear(x), lengths, positions
        x = x.transpose(1, 2)
        for conv in self.convs:
            padding = padding_mask_of(lengths, x.shape[2], x.device)
            if padding is not None:
                x = x.masked_fill(padding.unsqueeze(1), 0)
            x = F.glu(conv(x), dim=1)
            # output j is centred on input j * stride
            lengths = [(n - 1) // self.stride + 1 for n in lengths]
            positions = positions[:, :: self.stride]
        return x.transpose(1, 2), lengths, positions
