"""A linear layer whose weight lies in memory as oneDNN reads it, for inference on the CPU."""

import torch
from torch import Tensor, nn

from fairseq_prune.modules import products


class Packed(nn.Module):
    """A linear layer of inference on the CPU, whose weight is kept in another form. weight_bytes: of this form."""

    def __init__(self, layer: nn.Linear, weight_bytes: int):
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.dtype, self.weight_bytes = layer.weight.dtype, weight_bytes

    def _apply(self, fn, recurse=True):
        tensor = torch.empty(0, dtype=self.dtype)
        if fn(tensor).type() != tensor.type():
            raise RuntimeError(
                "a packed layer keeps its device and type: convert the model before it is packed"
            )
        return self


class PackedLinear(Packed):
    """Its weight lies in memory as oneDNN reads it.

    With AVX-512 it takes half to three quarters of the time of `nn.Linear` with oneDNN's products for up to 8 rows,
    0.7 for 49, 0.93 for 149 and 0.96 for 499; with AVX2 as long as that.

    Args:
        layer: in float32 or bfloat16.
    """

    def __init__(self, layer: nn.Linear):
        super().__init__(layer, layer.weight.numel() * layer.weight.element_size())
        self.packed = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach())
        self.bias = None if layer.bias is None else layer.bias.detach()

    def forward(self, x: Tensor, with_gelu: bool = False) -> Tensor:
        """(..., inputs) -> (..., outputs), and GELU after it."""
        return products.product(x, self.packed, self.bias, with_gelu)


def is_plain(layer: nn.Module) -> bool:
    """Whether it is an `nn.Linear` without hooks, which another may replace."""
    return type(layer) is nn.Linear and not layer._forward_hooks and not layer._forward_pre_hooks
