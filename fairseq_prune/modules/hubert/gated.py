"""HuBERT with gates that learn which channels, heads, units and blocks to prune (DPHuBERT, arXiv 2305.17651)."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from typing import Optional

import torch
from fairseq.models.hubert import HubertConfig
from torch import Tensor, nn

from fairseq_prune.modules.constant_frames import rest_in_constant_frames
from fairseq_prune.modules.frames import Frames
from fairseq_prune.modules.gated_layers import GatedConv1d, GatedLinear, OpenChannelNorm
from fairseq_prune.modules.hubert.encoder import TokenPrunedHubert
from fairseq_prune.modules.hubert.shapes import HubertShapes
from fairseq_prune.pruning.counting import LayerSize, Size, hubert_prunable_parameters
from fairseq_prune.pruning.hard_concrete import HardConcrete


@dataclass
class Gating:
    """Drop probabilities that the gates begin with, as published; None leaves a kind ungated.

    conv_channels: output channels of each convolution of the extractor; not of the last one where no projection
        follows. attention_heads. feed_forward_units: between the two linear maps. attention_blocks and
        feed_forward_blocks: whole ones.
    """

    conv_channels: Optional[float] = 0.01
    attention_heads: Optional[float] = 0.01
    feed_forward_units: Optional[float] = 0.5
    attention_blocks: Optional[float] = 0.01
    feed_forward_blocks: Optional[float] = 0.01


@dataclass
class GateValues:
    """Values of gates: by convolution (channels,), by layer (heads,) and (units,); None where all are open.

    The gate of a whole block is multiplied into those of its heads or units.
    """

    channels: list[Optional[Tensor]]
    heads: list[Optional[Tensor]]
    units: list[Optional[Tensor]]


class GatedHubert(TokenPrunedHubert):
    """HuBERT whose forward pass draws gates in training, and in evaluation does what the pruned model will do.

    Modifications:
    - what reads gated channels, heads or units multiplies them by their gates. Layer norms over channels take their
      statistics from those that are open, so that closed ones can be cut out without a trace;
    - the gate of a block multiplies what its heads or units give, not its output bias, which stays.

    Parameters have the names of fairseq's HuBERT, beside ``gates.<kind>.<index>.log_alpha``.

    Args:
        cfg: fairseq's.
        gating: what is gated.
        normalize, pad_invariant, shapes: see `TokenPrunedHubert`.
    """

    def __init__(
        self,
        cfg: HubertConfig,
        gating: Optional[Gating] = None,
        normalize: bool = False,
        pad_invariant: bool = True,
        shapes: Optional[HubertShapes] = None,
    ):
        super().__init__(cfg, None, normalize, pad_invariant, shapes)
        self._readers: list[tuple[nn.Module, Tensor]] = []
        self._dense_parameters = sum(parameter.numel() for parameter in self.parameters())
        self._channels = [conv[0].out_channels for conv in self._convs]
        heads, units = dict(enumerate(self.shapes.heads)), dict(enumerate(self.shapes.units))
        sizes = {
            "conv_channels": dict(enumerate(self._channels[: None if self.shapes.projection else -1])),
            "attention_heads": heads,
            "feed_forward_units": units,
            "attention_blocks": {i: min(1, size) for i, size in heads.items()},
            "feed_forward_blocks": {i: min(1, size) for i, size in units.items()},
        }
        drops = dict(zip(Gating.__dataclass_fields__, astuple(gating or Gating())))
        if self.shapes.channel_scale and drops["conv_channels"] is not None:
            raise ValueError(
                "the extractor's channels have factors already, as pruning left them: gate the others"
            )
        self.gates = nn.ModuleDict(
            {
                kind: nn.ModuleDict(
                    {str(index): HardConcrete(size, drops[kind]) for index, size in by_index.items() if size}
                )
                for kind, by_index in sizes.items()
                if drops[kind] is not None
            }
        )
        self._gate_layers()

    def _gate_layers(self) -> None:
        """Exchange the modules that read gated channels, heads and units."""
        convs = self._convs
        for index in range(len(convs)):
            if self._gate("conv_channels", index) is None:
                continue
            if index + 1 < len(convs):
                convs[index + 1][0] = GatedConv1d(convs[index + 1][0])
            else:
                self.layer_norm = OpenChannelNorm(self.layer_norm)
                self.post_extract_proj = GatedLinear(self.post_extract_proj)
            if self.cfg.extractor_mode == "layer_norm":
                convs[index][2][1] = OpenChannelNorm(convs[index][2][1])
        for layer, heads, units in zip(self.encoder.layers, self.shapes.heads, self.shapes.units):
            if heads:
                layer.self_attn.out_proj = GatedLinear(layer.self_attn.out_proj)
            if units:
                layer.fc2 = GatedLinear(layer.fc2)
        rest_in_constant_frames(self)

    def _gate(self, kind: str, index: int) -> Optional[HardConcrete]:
        return self.gates[kind][str(index)] if kind in self.gates and str(index) in self.gates[kind] else None

    def gate_parameters(self) -> list[nn.Parameter]:
        """The ``log_alpha`` of all gates."""
        return list(self.gates.parameters())

    def masks(self, drawn: bool = False) -> GateValues:
        """Values of all gates: the deterministic ones, or drawn anew."""

        def values(index: int, *kinds: str) -> Optional[Tensor]:
            product = None
            for gate in (self._gate(kind, index) for kind in kinds):
                if gate is not None:
                    mask = gate.draw() if drawn else gate.evaluation_mask()
                    product = mask if product is None else product * mask
            return product

        layers = range(len(self.shapes.heads))
        masks = GateValues(
            [values(i, "conv_channels") for i in range(len(self._channels))],
            [values(i, "attention_heads", "attention_blocks") for i in layers],
            [values(i, "feed_forward_units", "feed_forward_blocks") for i in layers],
        )
        # a block's gate alone stands for all of its heads or units
        for values_by_layer, sizes in ((masks.heads, self.shapes.heads), (masks.units, self.shapes.units)):
            for i, mask in enumerate(values_by_layer):
                values_by_layer[i] = None if mask is None else mask.expand(sizes[i])
        return masks

    @contextmanager
    def _gated(self) -> Iterator[None]:
        """Hand the gates' values to the layers that read them, for one forward pass."""
        masks = self.masks(drawn=self.training)
        readers: list[tuple[nn.Module, Optional[Tensor]]] = []
        for index, mask in enumerate(masks.channels):
            if index + 1 < len(masks.channels):
                readers.append((self._convs[index + 1][0], mask))
            else:
                readers += [(self.layer_norm, mask), (self.post_extract_proj, mask)]
            if self.cfg.extractor_mode == "layer_norm":
                readers.append((self._convs[index][2][1], mask))
        for layer, heads, units in zip(self.encoder.layers, masks.heads, masks.units):
            if heads is not None:
                readers.append((layer.self_attn.out_proj, heads.repeat_interleave(self.shapes.head_dim)))
            readers.append((layer.fc2, units))
        self._readers = [(module, mask) for module, mask in readers if mask is not None]
        try:
            with _handed_out(self._readers):
                yield
        finally:  # or the graph of a mask would live until the next pass
            self._readers = []

    def _runner(self) -> Callable:
        """A second pass over a part, while gradients are computed, has the gates of the first."""
        runner, readers = super()._runner(), self._readers

        def run(function, x):
            def gated(x):
                with _handed_out(readers):
                    return function(x)

            return runner(gated, x)

        return run

    def forward(
        self, source: Tensor, lengths: Sequence[int], mask: bool = False, trace: bool = False
    ) -> Frames:
        """As `TokenPrunedHubert.forward`."""
        with self._gated():
            return super().forward(source, lengths, mask, trace)

    def layer_outputs(
        self,
        source: Tensor,
        lengths: Sequence[int],
        before_positions: bool = False,
        masked: Optional[Tensor] = None,
    ) -> tuple[list[Tensor], Optional[Tensor]]:
        """As `TokenPrunedHubert.layer_outputs`."""
        with self._gated():
            return super().layer_outputs(source, lengths, before_positions, masked)

    def dense_parameters(self) -> int:
        """Parameters with all gates open, without those of the gates."""
        return self._dense_parameters

    def expected_parameters(self) -> Tensor:
        """Parameters that pruning is expected to leave; 0-dim, float32, differentiable.

        Where every gate is sure to be open or closed, it is the size of what `cut_hubert.cut_gates` gives.
        """
        fixed = self.dense_parameters() - self._prunable_parameters(self._channels, self.shapes.layer_sizes())
        return _float32(fixed + self._prunable_parameters(*self._expected_sizes()), self.mask_emb.device)

    def dense_macs(self, samples: int) -> int:
        """MACs of one utterance of ``samples`` with all gates open."""
        return self.macs(samples)["total"]

    def expected_macs(self, samples: int) -> Tensor:
        """MACs of one utterance of ``samples`` that pruning is expected to leave; 0-dim, float32, differentiable."""
        return _float32(self._macs(samples, *self._expected_sizes())["total"], self.mask_emb.device)

    def _prunable_parameters(self, channels: Sequence[Size], layers: Sequence[LayerSize]) -> Size:
        return hubert_prunable_parameters(
            [(size, *kernel_stride) for size, kernel_stride in zip(channels, self.kernels_strides)],
            [self.cfg.extractor_mode == "layer_norm" or i == 0 for i in range(len(channels))],
            self.cfg.conv_bias,
            self.shapes.projection,
            self.encoder.embedding_dim,
            self.shapes.head_dim,
            layers,
            self.cfg.layer_norm_first,
            self.shapes.gate_units * (self.shapes.head_dim + 1),
        )

    def _expected_sizes(self) -> tuple[list[Size], list[LayerSize]]:
        """Channels by convolution, sizes by layer; in float64, since float32 has no odd numbers above 2^24."""

        def expected(index: int, size: int, parts: str, whole: str = "") -> tuple[Size, Size]:
            """How many are open, and the probability that any is."""
            count, any_open = size, min(1, size)
            gate = self._gate(parts, index)
            if gate is not None:
                count, any_open = gate.expected_open().double(), gate.any_open_probability().double()
            gate = self._gate(whole, index)
            if gate is not None:
                block = gate.expected_open().double()
                count, any_open = count * block, any_open * block
            return count, any_open

        channels = [expected(i, size, "conv_channels")[0] for i, size in enumerate(self._channels)]
        layers = []
        for i, (heads, units) in enumerate(zip(self.shapes.heads, self.shapes.units)):
            heads, attends = expected(i, heads, "attention_heads", "attention_blocks")
            units, feeds = expected(i, units, "feed_forward_units", "feed_forward_blocks")
            layers.append(LayerSize(heads, units, attends, feeds))
        return channels, layers

    @torch.no_grad()
    def check_gates(self) -> None:
        """Waits for the device.

        Raises:
            ValueError: the gates close all channels of a convolution, or all blocks of the transformer.
        """
        masks = self.masks()
        for i, mask in enumerate(masks.channels):
            if mask is not None and not mask.any():
                raise ValueError(
                    f"pruning: the gates close all {len(mask)} channels of convolution {i} (counted from 0);"
                    " ask for less sparsity, or for a slower warm-up of it"
                )
        if not any(mask is None or mask.any() for mask in (*masks.heads, *masks.units)):
            raise ValueError("pruning: the gates close all blocks of the transformer; ask for less sparsity")


@contextmanager
def _handed_out(readers: Sequence[tuple[nn.Module, Tensor]]) -> Iterator[None]:
    before = [module.mask for module, _ in readers]
    try:
        for module, mask in readers:
            module.mask = mask
        yield
    finally:
        for (module, _), mask in zip(readers, before):
            module.mask = mask


def _float32(count: Size, device: torch.device) -> Tensor:
    """Counts pass 65,504, the largest number in float16."""
    return torch.as_tensor(count, dtype=torch.float32, device=device)
