"""PruneSLU's training step, restated plainly on transformers' Whisper, to compare speed with."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fairseq_prune.checkpoints.extras import import_extra


class PlainPruneSLU(nn.Module):
    """A teacher of random weights, and a student of half its layers.

    The losses are those of the criterion slu_distillation with its default temperatures, as means over the tokens.
    What the last layer says is here taken after the last norm, as transformers gives it.

    Args:
        layers: of the teacher's encoder and decoder.
        weights: of cross-entropy, divergence and contrastive loss.
        options: of transformers' `WhisperConfig`.

    Raises:
        ValueError: transformers is not installed.
    """

    def __init__(
        self, layers: int = 4, weights: tuple[float, float, float] = (0.8, 1.0, 0.1), **options: Any
    ):
        super().__init__()
        transformers = import_extra("transformers", "bench")

        def build(count: int) -> nn.Module:
            config = transformers.WhisperConfig(encoder_layers=count, decoder_layers=count, **options)
            return transformers.WhisperForConditionalGeneration(config)

        self.student, self.teacher = build(layers // 2), build(layers).requires_grad_(False)
        self.weights = weights

    def forward(self, features: Tensor, tokens: Tensor, target: Tensor) -> Tensor:
        """The loss of log-mel features (batch, mel bins, 3000), the decoder's input and what it is to say, 0-dim.

        Args:
            tokens, target: (batch, tokens).
        """
        inputs = dict(decoder_input_ids=tokens, output_hidden_states=True, use_cache=False)
        with torch.no_grad():
            taught = self.teacher.eval()(features, **inputs)
        said = self.student(features, **inputs)
        cross_entropy = F.cross_entropy(said.logits.flatten(0, 1), target.flatten())
        mine, theirs = ((out.logits / 2).log_softmax(-1).flatten(0, 1) for out in (said, taught))
        divergence = 4 * F.kl_div(mine, theirs, reduction="batchmean", log_target=True)
        contrasts = []
        places = torch.arange(tokens.size(1), device=tokens.device).expand_as(tokens)
        layers = said.decoder_hidden_states[1:]  # without the embedded tokens
        for states, expected in zip(layers, taught.decoder_hidden_states[-len(layers) :]):
            cosines = F.normalize(states, dim=-1) @ F.normalize(expected, dim=-1).transpose(1, 2)
            contrasts.append(F.cross_entropy((cosines / 0.1).transpose(1, 2), places))
        losses = (cross_entropy, divergence, torch.stack(contrasts).mean())
        return sum(weight * loss for weight, loss in zip(self.weights, losses))
