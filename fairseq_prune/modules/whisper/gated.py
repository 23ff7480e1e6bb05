"""Whisper with gates that learn which heads, units and blocks to prune (DPHuBERT, arXiv 2305.17651).

The gates are within the matrices that read heads and units: the output projections of attentions and ``fc2``. Each
draws its own in training, and in evaluation does what the pruned model will do, also in the steps of a generator.
"""

from dataclasses import dataclass
from typing import Optional

import torch
from torch import Tensor, nn

from fairseq_prune.modules import onednn
from fairseq_prune.pruning.counting import (
    LayerSize,
    Size,
    whisper_decoder_macs,
    whisper_encoder_macs,
    whisper_layer_parameters,
)
from fairseq_prune.pruning.hard_concrete import HardConcrete


@dataclass
class WhisperGating:
    """Drop probabilities that the gates begin with; None leaves a kind ungated.

    attention_heads: of both self-attentions and of the cross-attention. feed_forward_units: between the two linear
        maps. attention_blocks and feed_forward_blocks: whole ones.
    """

    attention_heads: Optional[float] = 0.01
    feed_forward_units: Optional[float] = 0.01
    attention_blocks: Optional[float] = 0.01
    feed_forward_blocks: Optional[float] = 0.01


class Gates(nn.Module):
    """Gates of the heads or units of a block, and one of the whole block.

    Args:
        size: heads or units.
        part_drop, block_drop: drop probabilities to begin with, None for no such gates.
    """

    def __init__(self, size: int, part_drop: Optional[float], block_drop: Optional[float]):
        super().__init__()
        self.size = size
        self.parts = None if part_drop is None else HardConcrete(size, part_drop)
        self.block = None if block_drop is None else HardConcrete(1, block_drop)

    def values(self, drawn: bool = False) -> Tensor:
        """(size,), that of the block multiplied into those of its parts: the deterministic ones, or drawn anew."""
        found = [
            gates.draw() if drawn else gates.evaluation_mask()
            for gates in (self.parts, self.block)
            if gates is not None
        ]
        product = found[0] if len(found) == 1 else found[0] * found[1]
        return product.expand(self.size)

    def expected_size(self) -> tuple[Size, Size]:
        """How many are expected to stay, and the probability that any does; in float64."""
        count, any_open = self.size, 1
        if self.parts is not None:
            count, any_open = (
                self.parts.expected_open().double(),
                self.parts.any_open_probability().double(),
            )
        if self.block is not None:
            block = self.block.expected_open().double()
            count, any_open = count * block, any_open * block
        return count, any_open


class GatedInputs(nn.Linear):
    """A linear map that multiplies its inputs by their gates, with the parameters of ``linear``."""

    def __init__(self, linear: nn.Linear, gates: Gates):
        super().__init__(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
        self.weight, self.bias, self.gates = linear.weight, linear.bias, gates
        self.width = linear.in_features // gates.size

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs)."""
        mask = self.gates.values(drawn=self.training).repeat_interleave(self.width)
        # gates on the weights, not on the frames: fewer products, and no second copy of the frames
        return onednn.affine(x, self.weight * mask.to(self.weight.dtype), self.bias)


def gate_layers(model: nn.Module, gating: WhisperGating) -> None:
    """Put gates into the layers of a `Whisper`, in place; blocks that pruning took before have none."""
    blocks = gating.attention_heads, gating.attention_blocks
    for layer in (*model.encoder.layers, *model.decoder.layers):
        for attention in (layer.self_attn, getattr(layer, "encoder_attn", None)):
            if attention is not None and attention.num_heads and blocks != (None, None):
                attention.out_proj = GatedInputs(attention.out_proj, Gates(attention.num_heads, *blocks))
        drops = gating.feed_forward_units, gating.feed_forward_blocks
        if layer.units and drops != (None, None):
            layer.fc2 = GatedInputs(layer.fc2, Gates(layer.units, *drops))


def gates_of(model: nn.Module) -> list[Gates]:
    """All gates of a model."""
    return [module for module in model.modules() if isinstance(module, Gates)]


def layer_sizes(model: nn.Module, expected: bool) -> dict[str, list[LayerSize]]:
    """Sizes of the layers by side, with "cross" those of the cross-attentions.

    Args:
        model: a `Whisper`.
        expected: those that the gates are expected to leave; else with all gates open.
    """

    def size(reader: nn.Module, dense: int) -> tuple[Size, Size]:
        gated = expected and isinstance(reader, GatedInputs)
        return reader.gates.expected_size() if gated else (dense, min(1, dense))

    def of(attention: nn.Module, layer: Optional[nn.Module] = None) -> LayerSize:
        heads, attends = size(attention.out_proj, attention.num_heads)
        units, feeds = (0, 0) if layer is None else size(layer.fc2, layer.units)
        return LayerSize(heads, units, attends, feeds)

    encoder, decoder = model.encoder.layers, model.decoder.layers
    return {
        "encoder": [of(layer.self_attn, layer) for layer in encoder],
        "decoder": [of(layer.self_attn, layer) for layer in decoder],
        "cross": [of(layer.encoder_attn) for layer in decoder],
    }


def layer_parameters(model: nn.Module, expected: bool = True) -> Tensor:
    """Parameters of the layers that gates can close, as `layer_sizes` counts them; 0-dim, float32, differentiable.

    Where every gate is sure to be open or closed, the cut model has so many fewer than the dense one.
    """
    attention, sizes = model.encoder.layers[0].self_attn, layer_sizes(model, expected)
    layers = [size for side in sizes.values() for size in side]
    count = whisper_layer_parameters(_dim(model), attention.head_dim, layers)
    return _float32(count, model)


def layer_macs(model: nn.Module, mel_frames: int, tokens: int, expected: bool = True) -> Tensor:
    """MACs of the layers for a clip of so many mel frames, as the model hears it, and a text of so many tokens.

    Arguments and what is returned as of `layer_parameters`.
    """
    encoder, dim = model.encoder, _dim(model)
    head_dim, sizes = encoder.layers[0].self_attn.head_dim, layer_sizes(model, expected)
    frames = encoder.frame_counts(mel_frames)
    heard = whisper_encoder_macs(
        0,
        0,
        dim,
        [layer.heads for layer in sizes["encoder"]],
        head_dim,
        [layer.units for layer in sizes["encoder"]],
        frames,
        [False] * len(encoder.layers),
    )
    written = whisper_decoder_macs(
        tokens,
        frames[-1],
        dim,
        head_dim,
        [layer.heads for layer in sizes["decoder"]],
        [layer.heads for layer in sizes["cross"]],
        [layer.units for layer in sizes["decoder"]],
    )
    return _float32(heard["total"] + written["total"], model)


@torch.no_grad()
def check_gates(model: nn.Module) -> None:
    """Waits for the device.

    Raises:
        ValueError: the gates close all blocks of the encoder or of the decoder.
    """
    for name in ("encoder", "decoder"):
        side = getattr(model, name)
        gates = gates_of(side)
        blocks = sum(layer.self_attn.num_heads > 0 for layer in side.layers)
        blocks += sum(layer.units > 0 for layer in side.layers)
        if name == "decoder":
            blocks += sum(layer.encoder_attn.num_heads > 0 for layer in side.layers)
        if len(gates) == blocks and not any(gate.values().any() for gate in gates):
            raise ValueError(
                f"pruning: the gates close all blocks of the {name}; ask for less sparsity, or for a slower warm-up"
            )


def _dim(model: nn.Module) -> int:
    return model.decoder.embed_tokens.embedding_dim


def _float32(count: Size, model: nn.Module) -> Tensor:
    """Counts pass 65,504, the largest number in float16."""
    return torch.as_tensor(count, dtype=torch.float32, device=model.decoder.embed_tokens.weight.device)
