"""DPHuBERT (Peng et al. 2023, arXiv 2305.17651): a student that learns its teacher's features and what to prune."""

import json
import math
from dataclasses import dataclass
from typing import Optional, Union

from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.models import BaseFairseqModel, register_model
from torch import Tensor

from fairseq_prune.checkpoints.hubert.reading import HubertCheckpoint, read_hubert
from fairseq_prune.checkpoints.loading import load_checkpoint_file, load_state_dict_strictly
from fairseq_prune.models import trainer_hooks  # noqa: F401 (calls `prepare_training`)
from fairseq_prune.models.gating import CHECK_INTERVAL, parse_gating, refuse_half_gradients
from fairseq_prune.models.options import keep_in_checkpoint, option
from fairseq_prune.modules.copying import copy_without_history
from fairseq_prune.modules.hubert.architecture import build_encoder
from fairseq_prune.modules.hubert.encoder import SAMPLE_RATE, TokenPrunedHubert
from fairseq_prune.modules.hubert.gated import GatedHubert, Gating
from fairseq_prune.modules.hubert.masked_distillation import draw_mask, teacher_states
from fairseq_prune.optim.adam_with_gates import GATES
from fairseq_prune.pruning.distillation import MAPS, LayerMaps, PredictionHeads, parse_layers
from fairseq_prune.pruning.lagrangian import Multipliers

MACS_SAMPLES = 10 * SAMPLE_RATE  # of the utterance whose MACs are counted


@dataclass
class DPHubertConfig(FairseqDataclass):
    teacher_path: Optional[str] = option(
        None,
        "what to learn from: fairseq checkpoint or Hugging Face folder; needed in training only, never kept",
    )
    student_path: Optional[str] = option(
        None, "what the student begins as: the same kinds, or a compressed model; default: the teacher"
    )
    maps_path: Optional[str] = option(
        None, "checkpoint of a dphubert whose maps from student to teacher to begin with (second stage)"
    )
    student_config: Optional[str] = option(
        None, "architecture of the student as JSON; filled in and kept in our checkpoints"
    )
    teacher_dim: int = option(0, "width of the teacher; filled in and kept in our checkpoints")
    prune: str = option(
        "conv_channels,attention_heads,feed_forward_units",
        f"what gets gates, separated by commas: {', '.join(Gating.__dataclass_fields__)}; each optionally with the drop"
        " probability that its gates begin with, as in feed_forward_units=0.5; none: no gates (second stage)",
    )
    distill_layers: str = option(
        "0|4,8,12",
        "layers to learn, 0 as --distill-layer-zero says; those of a group (groups have | between) share a map",
    )
    distill_layer_zero: ChoiceEnum(["before_positions", "after_positions"]) = option(
        "before_positions",
        "what layer 0 of --distill-layers is: the input of the positional convolution, as in the published code, or"
        " what enters the first layer, which has the positions added",
    )
    distill_by: ChoiceEnum(list(MAPS)) = option(
        "layers",
        "layers: each layer of the student learns that of the teacher; groups: the mean over a group of"
        " --distill-layers learns that of the teacher (SKILL); heads: the last one learns all of them",
    )
    mask_prob: float = option(
        0.0,
        "share of the student's frames in masked spans while it is trained, which may overlap: these learn what the"
        " teacher makes of all frames, the others what it makes of those left (ARMHuBERT); 0: no masks",
    )
    mask_length: int = option(10, "length of a masked span in frames")
    dropout: float = option(0.1, "dropout in the student's transformer")
    attention_dropout: float = option(0.1, "dropout of its attention weights")
    activation_dropout: float = option(0.0, "dropout inside its feed-forward blocks")
    input_dropout: float = option(0.1, "dropout of the features that enter its transformer")
    checkpoint_activations: bool = option(
        False, "compute the student's activations again in the backward pass, to save GPU memory"
    )


def load_encoder(encoder: Union[TokenPrunedHubert, GatedHubert], checkpoint: HubertCheckpoint, path) -> None:
    """Load weights strictly; gates, which no such checkpoint has, stay as they are."""
    gates = {name: value for name, value in encoder.state_dict().items() if name.startswith("gates.")}
    load_state_dict_strictly(encoder, {**checkpoint.state_dict, **gates}, path)


def load_maps(maps: Union[LayerMaps, PredictionHeads], path) -> None:
    """Load the maps of another dphubert, strictly.

    Raises:
        ValueError: the checkpoint has none, or other ones.
    """
    weights = load_checkpoint_file(path, mmap=True).get("model", {})
    found = {name[5:]: value.float() for name, value in weights.items() if name.startswith("maps.")}
    if not found:
        raise ValueError(f"{path}: has no maps, expected a checkpoint of a model dphubert (--maps-path)")
    load_state_dict_strictly(maps, found, path)


@register_model("dphubert", dataclass=DPHubertConfig)
class DPHubert(BaseFairseqModel):
    """A student and its maps to the teacher; in the first stage with gates and Lagrange multipliers.

    The teacher is no part of the model's parameters or of its checkpoints, and not needed once it is trained.

    Args:
        student, maps, teacher: the two models, and what makes the teacher's states of the student's.
        before_positions: what layer 0 is (`TokenPrunedHubert.layer_outputs`).
        mask_prob, mask_length: of the spans that the student does not hear in training (`masked_distillation`).
    """

    def __init__(
        self,
        student: Union[TokenPrunedHubert, GatedHubert],
        maps: Union[LayerMaps, PredictionHeads],
        teacher: Optional[TokenPrunedHubert] = None,
        before_positions: bool = True,
        mask_prob: float = 0.0,
        mask_length: int = 10,
    ):
        super().__init__()
        self.student = student
        self.before_positions = before_positions
        self.mask_prob, self.mask_length = mask_prob, mask_length
        self.maps = maps
        self._teacher = [] if teacher is None else [teacher.eval().requires_grad_(False)]  # a list hides it
        self.multipliers = None
        self.num_updates = 0
        if isinstance(student, GatedHubert):
            self.multipliers = Multipliers()
            for parameter in (*student.gate_parameters(), *self.multipliers.parameters()):
                parameter.param_group = GATES

    @classmethod
    def build_model(cls, cfg: DPHubertConfig, task):
        """Build from options.

        Raises:
            ValueError: a path is of no such encoder, or an option does not fit them.
        """
        gating = parse_gating(cfg.prune, Gating)
        groups = parse_distill_layers(cfg.distill_layers)
        if not (0 <= cfg.mask_prob < 1 and cfg.mask_length > 0):
            raise ValueError(
                f"--mask-prob, --mask-length: found {cfg.mask_prob} and {cfg.mask_length}, expected a share from 0 to"
                " less than 1, and 1 frame or more"
            )
        teacher = read_hubert(cfg.teacher_path) if cfg.teacher_path else None
        # a checkpoint of ours says what it is, and brings its weights later; its teacher is then a teacher only
        start = teacher if not cfg.student_config else None
        if cfg.student_path:
            start = read_hubert(cfg.student_path)
        if start is None and not cfg.student_config:
            raise ValueError("model dphubert: neither --teacher-path nor --student-path was given")
        architecture = start.architecture if start is not None else json.loads(cfg.student_config)
        student = build_encoder(
            architecture,
            gating=gating,
            dropout=cfg.dropout,
            attention_dropout=cfg.attention_dropout,
            activation_dropout=cfg.activation_dropout,
            dropout_input=cfg.input_dropout,
            encoder_layerdrop=0.0,
        )
        student.checkpoint_activations = cfg.checkpoint_activations
        if start is not None:
            load_encoder(student, start, cfg.student_path or cfg.teacher_path)
        teacher_model, teacher_dim = None, cfg.teacher_dim
        if teacher is not None:
            teacher_model = build_encoder(teacher.architecture)
            load_encoder(teacher_model, teacher, cfg.teacher_path)
            teacher_dim = teacher_model.encoder.embedding_dim
            check_layers(groups, cfg.distill_by, student, teacher_model)
        maps = MAPS[str(cfg.distill_by)](groups, student.encoder.embedding_dim, teacher_dim)
        if cfg.maps_path:
            load_maps(maps, cfg.maps_path)
        before_positions = str(cfg.distill_layer_zero) == "before_positions"
        freeze_unused(student, groups, cfg.distill_by, before_positions)
        student.mask_emb.requires_grad_(cfg.mask_prob > 0)
        keep_in_checkpoint(
            cfg,
            student_config=json.dumps(architecture),
            teacher_dim=teacher_dim,
            teacher_path=None,
            student_path=None,
            maps_path=None,
        )
        return cls(student, maps, teacher_model, before_positions, cfg.mask_prob, cfg.mask_length)

    def _apply(self, fn, *args, **kwargs):
        for teacher in self._teacher:
            teacher._apply(fn, *args, **kwargs)
        return super()._apply(fn, *args, **kwargs)

    def __deepcopy__(self, memo):
        """A copy for fairseq's moving average (--store-ema), of the student and the maps: the teacher is the same."""
        memo.update({id(teacher): teacher for teacher in self._teacher})
        return copy_without_history(self, memo)

    def prepare_training(self, cfg, criterion) -> None:
        """Raise ValueError where gradients of gates would lose their precision (called by fairseq's trainer)."""
        if self.multipliers is not None:
            refuse_half_gradients(cfg)

    def set_num_updates(self, num_updates: int) -> None:
        """Called by fairseq's trainer before each update and when a checkpoint is loaded.

        Raises:
            ValueError: nothing is left of a part of the student (looked at every 200 updates).
        """
        super().set_num_updates(num_updates)
        self.num_updates = num_updates
        if self.multipliers is not None and num_updates % CHECK_INTERVAL == 0:
            self.student.check_gates()

    def forward(self, source: Tensor, lengths: list[int]) -> dict:
        """Hidden states of both models for waveforms (batch, samples) with ``lengths`` valid samples.

        Returns:
            "student", mapped, and "teacher": (batch, frames, teacher's dim) for each layer to learn; "unmapped": the
            student's states of the same layers, (batch, frames, student's dim); "padding_mask": (batch, frames) or
            None; and of a student with gates "parameters" and "macs" that pruning is expected
            to leave, as shares of the dense student (0-dim), and "multipliers" (2,).

        Raises:
            ValueError: there is no teacher.
        """
        if not self._teacher:
            raise ValueError("distillation needs the teacher (--teacher-path)")
        masked = None
        if self.training and self.mask_prob:
            masked = draw_mask(self.student, lengths, self.mask_prob, self.mask_length, source.device)
        states = teacher_states(self._teacher[0], source, lengths, self.before_positions, masked)
        targets = self.maps.targets(states)
        states, padding_mask = self.student.layer_outputs(source, lengths, self.before_positions, masked)
        out = {"student": self.maps(states), "teacher": targets, "padding_mask": padding_mask}
        # the heads have one layer of the student for all
        out["unmapped"] = self.maps.targets(states) if isinstance(self.maps, LayerMaps) else None
        if self.multipliers is not None:
            student = self.student
            out["parameters"] = student.expected_parameters() / student.dense_parameters()
            out["macs"] = student.expected_macs(MACS_SAMPLES) / student.dense_macs(MACS_SAMPLES)
            out["multipliers"] = (
                self.multipliers()
            )  # here, for all that a loss reads has to come out of `forward`
        return out


def parse_distill_layers(text: str) -> list[list[int]]:
    """The groups that ``distill_layers`` lists."""
    try:
        return parse_layers(text)
    except ValueError as error:
        raise ValueError(f"--distill-layers: {error}") from None


def check_layers(groups: list[list[int]], distill_by, student: TokenPrunedHubert, teacher: TokenPrunedHubert):
    """Raise ValueError if a layer to learn does not exist, or the models make frames at different rates."""
    highest = max(layer for group in groups for layer in group)
    models = {"teacher": teacher, **({"student": student} if str(distill_by) != "heads" else {})}
    for name, model in models.items():
        layers = len(model.encoder.layers)
        if highest > layers:
            raise ValueError(
                f"--distill-layers: found layer {highest}, but the {name} has {layers} (0 is what enters the first)"
            )
    strides = [[stride for _, stride in model.kernels_strides] for model in (student, teacher)]
    if math.prod(strides[0]) != math.prod(strides[1]):
        raise ValueError(
            f"student and teacher: a frame every {math.prod(strides[0])} and {math.prod(strides[1])} samples,"
            " expected the same"
        )


def freeze_unused(
    student: TokenPrunedHubert, groups: list[list[int]], distill_by, before_positions: bool = False
) -> None:
    """Parameters that distillation gives no gradient, which fairseq's default --ddp-backend stops at.

    Among them are the layers above the highest that is learned. Their gates are not: size alone closes these.
    """
    student.mask_emb.requires_grad_(False)
    encoder, positions = student.encoder, student.relative_position
    if encoder.layer_norm_first:  # hidden states are taken before the last norm
        encoder.layer_norm.requires_grad_(False)
    if str(distill_by) == "heads":  # which read the last layer
        return
    highest = max(layer for group in groups for layer in group)
    encoder.layers[highest:].requires_grad_(False)
    if highest == 0 and before_positions:
        encoder.pos_conv.requires_grad_(False)
        encoder.layer_norm.requires_grad_(False)
    if positions is not None:
        for index, gate in positions.layers.items():
            gate.requires_grad_(int(index) < highest)
        positions.table.requires_grad_(any(student.shapes.heads[:highest]))
