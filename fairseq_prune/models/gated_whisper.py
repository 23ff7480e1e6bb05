"""Whisper with gates, which learn while it is distilled what of it to prune (DPHuBERT, arXiv 2305.17651)."""

from dataclasses import dataclass
from typing import Any

from fairseq.models import register_model
from torch import Tensor

from fairseq_prune.models import trainer_hooks  # noqa: F401 (calls `prepare_training`)
from fairseq_prune.models.gating import CHECK_INTERVAL, parse_gating, refuse_half_gradients
from fairseq_prune.models.options import option
from fairseq_prune.models.whisper import Whisper, WhisperConfig
from fairseq_prune.modules.whisper.gated import (
    WhisperGating,
    check_gates,
    gate_layers,
    gates_of,
    layer_macs,
    layer_parameters,
)
from fairseq_prune.optim.adam_with_gates import GATES
from fairseq_prune.pruning.lagrangian import Multipliers

MACS_MEL_FRAMES, MACS_TOKENS = 1000, 30  # the clip of 10 s whose MACs are counted, and its text


@dataclass
class GatedWhisperConfig(WhisperConfig):
    prune: str = option(
        "attention_heads,feed_forward_units",
        f"what gets gates, separated by commas: {', '.join(WhisperGating.__dataclass_fields__)}; each optionally with "
        "the drop probability that its gates begin with, as in feed_forward_units=0.5",
    )


@register_model("gated_whisper", dataclass=GatedWhisperConfig)
class GatedWhisper(Whisper):
    """For the criterion ``whisper_distillation``. Its checkpoint is used as any, and scripts/compress_whisper.py cuts
    out of it what the gates close.
    """

    num_updates = 0

    @classmethod
    def build_model(cls, cfg: GatedWhisperConfig, task):
        """As of `Whisper`.

        Raises:
            ValueError: also where ``prune`` names nothing, or weights are pruned by magnitude or rounded too.
        """
        gating = parse_gating(cfg.prune, WhisperGating)
        if gating is None:
            raise ValueError(
                f"--prune: found {cfg.prune!r}, expected some of {', '.join(WhisperGating.__dataclass_fields__)};"
                " without gates, train a model whisper"
            )
        if cfg.prune_sparsity:
            raise ValueError(
                f"--prune-sparsity: found {cfg.prune_sparsity} for a gated_whisper, expected gates alone"
            )
        if cfg.int8_aware:
            raise ValueError("--int8-aware: found it for a gated_whisper, expected gates alone")
        model = super().build_model(cfg, task)
        gate_layers(model, gating)
        model.multipliers = Multipliers()
        gates = [parameter for module in gates_of(model) for parameter in module.parameters()]
        for parameter in (*gates, *model.multipliers.parameters()):
            parameter.param_group = GATES
        return model

    def prepare_training(self, cfg, criterion) -> None:
        """Raise ValueError where gradients of gates would lose their precision (called by fairseq's trainer)."""
        refuse_half_gradients(cfg)

    def set_num_updates(self, num_updates: int) -> None:
        """Called by fairseq's trainer before each update and when a checkpoint is loaded.

        Raises:
            ValueError: nothing is left of the encoder or of the decoder (looked at every 200 updates).
        """
        super().set_num_updates(num_updates)
        self.num_updates = num_updates
        if num_updates % CHECK_INTERVAL == 0:
            check_gates(self)

    def forward(
        self, src_tokens, src_lengths, prev_output_tokens, return_all_hiddens=False, **kwargs
    ) -> tuple[Tensor, dict[str, Any]]:
        """As of `Whisper`; with ``return_all_hiddens``, also the sizes that pruning is expected to leave.

        These are "parameters" and "macs" of the layers, as shares of the dense ones (0-dim), and "multipliers" (2,).
        """
        logits, extra = super().forward(
            src_tokens, src_lengths, prev_output_tokens, return_all_hiddens, **kwargs
        )
        if return_all_hiddens:
            clip = min(MACS_MEL_FRAMES, self.encoder.max_positions()), MACS_TOKENS
            extra["parameters"] = layer_parameters(self) / layer_parameters(self, expected=False)
            extra["macs"] = layer_macs(self, *clip) / layer_macs(self, *clip, expected=False)
            # here, for all that a loss reads comes out of `forward`
            extra["multipliers"] = self.multipliers()
        return logits, extra
