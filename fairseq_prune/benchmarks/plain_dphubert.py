"""DPHuBERT's training step as published, restated plainly on torchaudio's HuBERT, to compare speed with.

Peng et al. 2023 (arXiv 2305.17651), section 3: gates of hard concrete are multiplied into what channels, heads, units
and blocks give; the loss is the distance to the teacher's layers and a Lagrangian term on the expected size.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fairseq_prune.pruning.distillation import parse_layers
from fairseq_prune.pruning.hard_concrete import HardConcrete


class PlainDPHubert(nn.Module):
    """Teacher and student of HuBERT base's size, with maps, gates and multipliers.

    Args:
        distill_layers: as of the model dphubert.
        options: of `torchaudio.models.wav2vec2_model`.
    """

    def __init__(self, distill_layers: str = "0|4,8,12", **options):
        super().__init__()
        import torchaudio

        def build():
            return torchaudio.models.wav2vec2_model(**options)

        self.teacher, self.student = build().eval().requires_grad_(False), build()
        groups = parse_layers(distill_layers)
        self.layers = [layer for group in groups for layer in group]
        self.map_of = {layer: index for index, group in enumerate(groups) for layer in group}
        dim = self.student.encoder.transformer.layers[0].attention.embed_dim
        self.maps = nn.ModuleList(nn.Linear(dim, dim) for _ in groups)
        self.multipliers = nn.Parameter(torch.zeros(2))
        self.gates, self.sizes = nn.ModuleList(), []
        self._values: list[Tensor] = []
        self._gate_student()

    def _gate_student(self) -> None:
        convs = self.student.feature_extractor.conv_layers
        for block in convs:
            channels = block.conv.out_channels
            weights = block.conv.weight.numel() // channels
            index = self._gate(channels, 0.01, weights)
            block.register_forward_hook(
                lambda module, inputs, out, index=index: (out[0] * self._values[index].unsqueeze(-1), out[1])
            )
        for layer in self.student.encoder.transformer.layers:
            attention, feed_forward = layer.attention, layer.feed_forward
            dim, units = attention.embed_dim, feed_forward.intermediate_dense.out_features
            heads = self._gate(attention.num_heads, 0.01, 4 * dim * attention.head_dim)
            inner = self._gate(units, 0.5, 2 * dim)
            self._multiply_input(attention.out_proj, heads, attention.head_dim)
            self._multiply_input(feed_forward.output_dense, inner)
            for block in (attention, feed_forward):
                self._multiply_output(block, self._gate(1, 0.01, 0))

    def _gate(self, size: int, drop: float, weights: int) -> int:
        self.gates.append(HardConcrete(size, drop))
        self.sizes.append(weights)
        return len(self.gates) - 1

    def _multiply_input(self, module: nn.Module, index: int, repeats: int = 1) -> None:
        module.register_forward_pre_hook(
            lambda module, inputs: (inputs[0] * self._values[index].repeat_interleave(repeats),)
        )

    def _multiply_output(self, module: nn.Module, index: int) -> None:
        module.register_forward_hook(
            lambda module, inputs, out: (
                (out[0] * self._values[index], *out[1:])
                if isinstance(out, tuple)
                else out * self._values[index]
            )
        )

    def sparsity(self) -> Tensor:
        """Expected share of the gated weights that are pruned, 0-dim."""
        left = sum(gate.expected_open() * size for gate, size in zip(self.gates, self.sizes))
        return 1 - left / sum(len(gate.log_alpha) * size for gate, size in zip(self.gates, self.sizes))

    def forward(self, waveforms: Tensor, target: float = 0.75) -> Tensor:
        """The loss of waveforms (batch, samples) of one length; 0-dim."""
        with torch.no_grad():
            expected = self._states(self.teacher, waveforms)
        self._values = [gate.draw() for gate in self.gates]
        found = self._states(self.student, waveforms)
        loss = 0
        for layer in self.layers:
            mine = self.maps[self.map_of[layer]](found[layer])
            loss = loss + F.l1_loss(mine, expected[layer])
            loss = loss - F.cosine_similarity(mine, expected[layer], dim=-1).mean()
        gap = self.sparsity() - target
        multipliers = 2 * self.multipliers.detach() - self.multipliers
        return loss / len(self.layers) + multipliers[0] * gap + multipliers[1] * gap.square()

    @staticmethod
    def _states(module: nn.Module, waveforms: Tensor) -> list[Tensor]:
        features, _ = module.feature_extractor(waveforms, None)
        projected = module.encoder.feature_projection(features)
        return [projected, *module.encoder.transformer.get_intermediate_outputs(projected)]
