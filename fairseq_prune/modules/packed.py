"""Linear layers of a decoder that writes token by token: a step of few rows reads all weights, and does little else."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.ao.quantization import per_channel_dynamic_qconfig, quantize_dynamic

from fairseq_prune.modules import onednn


class PackedLinear(nn.Module):
    """A linear layer of inference on the CPU, whose weight lies in memory as oneDNN reads it.

    With AVX-512 and up to 8 rows it takes half to three quarters of the time of `nn.Linear` with oneDNN's products;
    with AVX2 as long as that.

    Args:
        layer: in float32 or bfloat16.
    """

    def __init__(self, layer: nn.Linear):
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.packed = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach())
        self.bias = None if layer.bias is None else layer.bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs)."""
        return onednn.by_onednn(x, self.packed, self.bias)

    def _apply(self, fn, recurse=True):
        if (
            fn(torch.empty(0, dtype=self.packed.dtype)).type()
            != torch.empty(0, dtype=self.packed.dtype).type()
        ):
            raise RuntimeError(
                "a packed layer keeps its device and type: convert the model before it is packed"
            )
        return self


def is_plain(layer: nn.Module) -> bool:
    """Whether it is an `nn.Linear` without hooks, which another may replace."""
    return type(layer) is nn.Linear and not layer._forward_hooks and not layer._forward_pre_hooks


def require_cpu(device: torch.device) -> None:
    """Raise ValueError for a decoder that is to have weights of 8 bits on another device than the CPU."""
    if device.type != "cpu":
        raise ValueError(f"weights of 8 bits: found a decoder on {device}, expected the CPU")


def side_by_side(layers: Sequence[nn.Linear]) -> nn.Linear:
    """One layer that gives the outputs of all of them, of the same inputs, one after the other; bias 0 for none."""
    weight = torch.cat([layer.weight.detach() for layer in layers])
    biases = (weight.new_zeros(layer.out_features) if layer.bias is None else layer.bias for layer in layers)
    bias = torch.cat([bias.detach() for bias in biases])
    with torch.device("meta"):
        together = nn.Linear(weight.shape[1], weight.shape[0])
    together.weight, together.bias = (nn.Parameter(part, requires_grad=False) for part in (weight, bias))
    return together


def packed(*layers: nn.Linear, int8: bool = False) -> nn.Module:
    """The layers as one that is fast for few rows; on other devices than the CPU an `nn.Linear`.

    Args:
        layers: of the same inputs; their outputs follow each other.
        int8: with weights of 8 bits, each output by itself; inputs are quantised as they come.
    """
    layer = layers[0] if len(layers) == 1 else side_by_side(layers)
    if int8:
        alone = nn.Sequential(layer)
        return quantize_dynamic(alone, {"0": per_channel_dynamic_qconfig}, dtype=torch.qint8)[0]
    with torch.no_grad():
        return PackedLinear(layer) if onednn.packs(layer.weight) else layer
