"""Linear layers and embeddings that compute in training what their 8-bit exports will.

Quantization-aware training (Jacob et al. 2018, arXiv 1712.05877, section 3): parameters stay in full precision. Each
forward pass sees them, and what enters a linear layer, rounded to 256 levels; gradients are not rounded. The levels are
those of `checkpoints.onnx_quantization`.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fairseq_prune.modules import onednn

STEPS = 255  # between the least level and the largest


def rounded(x: Tensor, dims: int) -> Tensor:
    """``x`` on the 256 levels of unsigned 8 bits, with the gradient of the identity.

    The levels are as far apart everywhere, reach from the least value to the largest, and 0 is one of them
    (DynamicQuantizeLinear in the ONNX standard, and DequantizeLinear after it).

    Args:
        x: of any shape.
        dims: the last so many dimensions have levels of their own.
    """
    rows = x.float().reshape(-1, x.shape[x.dim() - dims :].numel())
    low, high = rows.detach().aminmax(dim=1)
    low, high = low.clamp(max=0), high.clamp(min=0)
    step = (high - low) / STEPS
    step = step.where(step > 0, torch.ones_like(step))
    zero = (-low / step).round().int()
    near = torch.fake_quantize_per_channel_affine(rows, step, zero, 0, 0, STEPS)
    return near.view_as(x).to(x.dtype)


class RoundedLinear(nn.Module):
    """A linear layer whose inputs have 8 bits, and whose weights have 8 bits and a scale for each output.

    Args:
        layer: its parameters are used, under their names.
        dims: the last so many dimensions of the input have a range of their own: 2 where a clip is one tensor of the
            export, 1 where a token is.
    """

    def __init__(self, layer: nn.Linear, dims: int):
        super().__init__()
        self.weight, self.bias, self.dims = layer.weight, layer.bias, dims

    def forward(self, x: Tensor) -> Tensor:
        """(batch, positions, inputs) -> (batch, positions, outputs)."""
        return onednn.affine(rounded(x, self.dims), rounded(self.weight, 1), self.bias)


class RoundedEmbedding(nn.Module):
    """An embedding whose weights have 8 bits and one scale; the weights are the embedding's, under their name."""

    def __init__(self, embedding: nn.Embedding):
        super().__init__()
        self.weight = embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """(batch, tokens) -> (batch, tokens, dim)."""
        return F.embedding(tokens, rounded(self.weight, 2))


class RoundedProjection(nn.Module):
    """What `RoundedLinear` is for tokens, with the weights of an embedding; it has no parameters of its own."""

    def __init__(self, embedding: nn.Module):
        super().__init__()
        self._embedding = [embedding]  # in a list, so that its weights are not saved under a second name

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, dim) -> (batch, tokens, vocabulary)."""
        return onednn.affine(rounded(x, 1), rounded(self._embedding[0].weight, 1))
