"""Layers that read gated channels: closed ones do not count, neither in sums nor in statistics.

``mask``: (inputs,) values of the gates of the layer's inputs, set for the time of a forward pass; None opens all.
"""

from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairseq_prune.modules import onednn


class GatedLinear(nn.Linear):
    """A linear map that multiplies its inputs by their gates, with the parameters of ``linear``."""

    def __init__(self, linear: nn.Linear):
        super().__init__(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.mask: Optional[Tensor] = None

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs)."""
        if self.mask is None:
            return super().forward(x)
        mask = self.mask.to(self.weight.dtype)
        if x.numel() < self.weight.numel():  # the gates go where they are fewer multiplications
            return onednn.affine(x * mask, self.weight, self.bias)
        return onednn.affine(x, self.weight * mask, self.bias)


class GatedConv1d(nn.Conv1d):
    """A convolution that multiplies its input channels by their gates, with the parameters of ``conv``."""

    def __init__(self, conv: nn.Conv1d):
        super().__init__(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,
            conv.stride,
            bias=conv.bias is not None,
            device="meta",
        )
        self.weight, self.bias = conv.weight, conv.bias
        self.mask: Optional[Tensor] = None

    def forward(self, x: Tensor) -> Tensor:
        """(batch, inputs, time) -> (batch, outputs, time)."""
        return F.conv1d(x, self.gated_weight(), self.bias, self.stride)

    def gated_weight(self) -> Tensor:
        """(outputs, inputs, kernel), with which the convolution reads what it reads of open gates."""
        return (
            self.weight if self.mask is None else self.weight * self.mask.to(self.weight.dtype).unsqueeze(1)
        )


class OpenChannelNorm(nn.LayerNorm):
    """Layer norm over the channels that are open, as if the others were cut out, with the parameters of ``norm``.

    What it makes of closed channels means nothing: whoever reads them has to be gated.
    """

    def __init__(self, norm: nn.LayerNorm):
        super().__init__(norm.normalized_shape, norm.eps, device="meta")
        self.weight, self.bias = norm.weight, norm.bias
        self.mask: Optional[Tensor] = None

    def forward(self, x: Tensor) -> Tensor:
        """(..., channels), in float32 within."""
        weight, bias = self.weight.float(), self.bias.float()
        with torch.autocast(x.device.type, enabled=False):
            if self.mask is None:
                return F.layer_norm(x.float(), self.normalized_shape, weight, bias, self.eps).type_as(x)
            is_open = (self.mask > 0).float()
            share = is_open / is_open.sum().clamp(min=1)  # (channels,): a product with it is a mean
            centred = x.float() - (x.float() @ share).unsqueeze(-1)
            scale = (centred.square() @ share + self.eps).rsqrt().unsqueeze(-1)
            return (centred * scale * weight + bias).type_as(x)
