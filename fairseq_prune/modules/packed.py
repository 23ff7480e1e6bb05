"""Linear layers of a decoder that writes token by token: a step of few rows reads all weights, and does little else."""

from collections.abc import Sequence
from typing import Optional

import torch
from torch import Tensor, nn
from torch.ao.quantization import per_channel_dynamic_qconfig, quantize_dynamic

from fairseq_prune.compat import HAS_HALF_PRODUCTS
from fairseq_prune.modules import onednn
from fairseq_prune.modules.kernels import instructions
from fairseq_prune.modules.packed_linear import Packed, PackedLinear, is_plain

# with AVX-512, more rows than these times a vocabulary's weights are faster where the weights have 32 bits
FEW_ROWS, MANY_OUTPUTS = 32, 8192


class HalfLinear(Packed):
    """Its weight is kept in 16 bits, which a step of few rows reads in half the time; products and sums are float32.

    Args:
        layer: in float32, with a weight that `is_held_in_half`: nothing is lost.
    """

    def __init__(self, layer: nn.Linear):
        super().__init__(layer, 2 * layer.weight.numel())
        bias = None if layer.bias is None else layer.bias.detach()
        self.packed = torch.ops.quantized.linear_prepack_fp16(layer.weight.detach(), bias)
        many = (
            layer.out_features >= MANY_OUTPUTS and onednn.packs(layer.weight) and instructions() == "AVX512"
        )
        # no second copy: a vocabulary's weights are those of its embedding
        self.of_many_rows: Optional[nn.Module] = layer if many else None

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs)."""
        rows = x.reshape(-1, self.in_features)
        if len(rows) <= FEW_ROWS or self.of_many_rows is None:
            found = torch.ops.quantized.linear_dynamic_fp16(rows, self.packed)
        else:
            if not isinstance(self.of_many_rows, PackedLinear):  # packed where it is needed
                self.of_many_rows = PackedLinear(self.of_many_rows)
            found = self.of_many_rows(rows)
        return found.view(*x.shape[:-1], self.out_features)


def is_held_in_half(weight: Tensor) -> bool:
    """Whether 16 bits hold each number of it as it is: published Whispers, and what was trained with --fp16."""
    return torch.equal(weight, weight.half().to(weight.dtype))


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
    weight = layer.weight
    with torch.no_grad():
        half = HAS_HALF_PRODUCTS and weight.dtype == torch.float32 and onednn.is_chosen_for(weight)
        if half and is_held_in_half(weight):
            return HalfLinear(layer)
        return PackedLinear(layer) if onednn.packs(weight) else layer


def pack_(module: nn.Module) -> None:
    """Replace the linear layers within by `PackedLinear` where that is oneDNN's, in place, for inference alone."""
    for parent in list(module.modules()):
        for name, layer in list(parent.named_children()):
            if is_plain(layer):
                with torch.no_grad():
                    if onednn.packs(layer.weight):
                        setattr(parent, name, PackedLinear(layer))
