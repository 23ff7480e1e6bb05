"""A smaller Whisper learns of the whole one, from audio alone; its gates, where it has some, learn what can go.

DPHuBERT (arXiv 2305.17651) for an encoder with a decoder. The teacher hears what the student hears, and writes a text.
The student is to have the teacher's hidden states in encoder and decoder, and its distributions over the tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import List, Optional  # noqa: UP035 (fairseq's argparse bridge looks for this List)

from fairseq.criterions import register_criterion
from fairseq.dataclass import ChoiceEnum
from torch import Tensor

from fairseq_prune.criterions.teacher_text import TeacherTextConfig, TeacherTextCriterion
from fairseq_prune.modules.frames import TokenPruning
from fairseq_prune.pruning.distillation import DistillationLoss
from fairseq_prune.pruning.lagrangian import lagrangian, warmed_up_target

SIZES = ("expected_sparsity", "target_sparsity", "expected_parameters", "expected_macs", "lambda1", "lambda2")


@dataclass
class WhisperDistillationConfig(TeacherTextConfig):
    encoder_weight: float = field(
        default=1.0,
        metadata={
            "help": "weight of the distance between hidden states of the encoder: mean absolute difference and cosine "
            "distance, as in DPHuBERT"
        },
    )
    distill_layers: List[int] = field(  # noqa: UP006
        default_factory=list,
        metadata={"help": "encoder layers to learn, from 1, beside the encoder's output; not given: all"},
    )
    layer_map: List[int] = field(  # noqa: UP006
        default_factory=list,
        metadata={
            "help": "the teacher's decoder layer, from 1, that each decoder layer of a shorter student is to learn, "
            "such as 2,4; not given: layer by layer"
        },
    )
    target_sparsity: float = field(
        default=0.5,
        metadata={"help": "share to prune away of what the gates can close; without gates of no effect"},
    )
    sparsity_of: ChoiceEnum(["parameters", "macs"]) = field(
        default="parameters",
        metadata={
            "help": "what the target counts, of the layers of encoder and decoder: parameters, or multiply-accumulates "
            "for a clip of 10 s, as the model hears it, and 30 tokens"
        },
    )
    sparsity_warmup_updates: int = field(
        default=100, metadata={"help": "updates over which the target rises from 0 to its value"}
    )


@register_criterion("whisper_distillation", dataclass=WhisperDistillationConfig)
class WhisperDistillationCriterion(TeacherTextCriterion):
    """Distances of the encoder's and the decoder's states, divergence, and with gates a term for the size.

    For the models ``gated_whisper`` and ``whisper``; all are sums over the teacher's tokens.

    Raises:
        ValueError: an option makes no sense, there is no teacher, or it has another vocabulary or task.
    """

    losses = ("hidden_loss", "kl_loss", "encoder_loss", "sparsity_term", *SIZES)

    def __init__(self, cfg: WhisperDistillationConfig, task):
        weights = {name: getattr(cfg, f"{name}_weight") for name in ("hidden", "kl", "encoder")}
        if min(weights.values()) < 0 or max(weights.values()) == 0:
            found = ", ".join(f"{value:g}" for value in weights.values())
            raise ValueError(
                f"--hidden-weight, --kl-weight, --encoder-weight: found {found}, expected none below 0 and one above"
            )
        if not 0 < cfg.target_sparsity < 1:
            raise ValueError(
                f"--target-sparsity: found {cfg.target_sparsity}, expected a share to prune away between 0 and 1"
            )
        super().__init__(cfg, task)
        self.distance, self.encoder_weight = DistillationLoss(), cfg.encoder_weight
        self.target_sparsity, self.sparsity_of = cfg.target_sparsity, str(cfg.sparsity_of)
        self.warmup_updates = cfg.sparsity_warmup_updates
        self.layers, self.layer_map = (
            layers_of(self._teacher[0], side, getattr(cfg, option), option)
            for side, option in (("encoder", "distill_layers"), ("decoder", "layer_map"))
        )

    def heard_states(self, encoded: dict) -> list[Tensor]:
        """The states of the layers to learn, and the encoder's output."""
        if not self.encoder_weight:
            return []
        return [*(encoded["encoder_states"][layer - 1] for layer in self.layers), encoded["encoder_out"][0]]

    def forward(self, model, sample, reduce=True):
        """The loss of a batch, the number it is to be divided by, and what is logged."""
        hear_alike(self._teacher[0], model, self.encoder_weight, self.layer_map)
        texts = self.texts(sample)
        learned = [layer - 1 for layer in self.layer_map]
        texts = texts._replace(states=texts.states[[*learned, -1]])
        inputs = (sample["net_input"][name] for name in ("src_tokens", "src_lengths"))
        logits, extra = model(*inputs, texts.tokens[:, :-1], return_all_hiddens=True)
        losses = self.decoder_losses(logits, extra["inner_states"], texts)
        size = texts.valid.sum()
        if self.encoder_weight:
            padding: Optional[Tensor] = next(iter(extra["encoder"]["encoder_padding_mask"]), None)
            distance, _, frames = self.distance(self.heard_states(extra["encoder"]), texts.heard, padding)
            losses["encoder_loss"] = self.encoder_weight * size * distance / frames
        sizes = {}
        if "multipliers" in extra:
            sparsity = 1 - extra[self.sparsity_of]
            target = warmed_up_target(self.target_sparsity, model.num_updates, self.warmup_updates)
            losses["sparsity_term"] = size * lagrangian(sparsity, target, extra["multipliers"])
            means = (sparsity, target, extra["parameters"], extra["macs"], *extra["multipliers"])
            sizes = {name: (size * value).detach() for name, value in zip(SIZES, means)}
        return sum(losses.values()), size, {**self.logged(losses, logits, texts), **sizes}


def layers_of(teacher, side: str, listed: Sequence[int], option: str) -> list[int]:
    """The layers, from 1, that an option lists of the teacher's; all where it lists none.

    Raises:
        ValueError: the teacher has no such layer.
    """
    count = len(getattr(teacher, side).layers)
    layers = [int(layer) for layer in listed] or list(range(1, count + 1))
    if not all(1 <= layer <= count for layer in layers):
        found = ",".join(map(str, layers))
        raise ValueError(
            f"--{option.replace('_', '-')}: found {found}, expected layers from 1 to {count} of the teacher's {side}"
        )
    return layers


def hear_alike(teacher, student, encoder_weight: float, layer_map: Sequence[int]) -> None:
    """Let the teacher hear what the student hears, without dropping any frames.

    Raises:
        ValueError: the student drops frames, or has other layers than those whose states it is to learn.
    """
    mine, other = student.encoder, teacher.encoder
    other.audio_context, other.silence_stride = mine.audio_context, mine.silence_stride
    other.keeps_silence, other.pruning = False, TokenPruning([1.0] * len(other.layers))
    if encoder_weight and not mine.pruning.keeps_all:
        raise ValueError("--encoder-weight: found a student that drops frames, expected 0 for it")
    if len(mine.layers) != len(other.layers):
        raise ValueError(
            f"whisper_distillation: found {len(mine.layers)} layers in the student's encoder, expected the teacher's "
            f"{len(other.layers)}"
        )
    if len(student.decoder.layers) != len(layer_map):
        raise ValueError(
            f"--layer-map: found {','.join(map(str, layer_map))}, expected a layer of the teacher for each of the "
            f"{len(student.decoder.layers)} layers in the student's decoder"
        )
