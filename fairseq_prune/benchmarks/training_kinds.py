"""Kinds of training as steps that can be timed: forward pass, backward pass and fairseq's Adam, on noise and random
weights."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any, Optional

import torch
from fairseq.models.hubert import HubertModel
from fairseq.optim.adam import FairseqAdam
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.nn import functional as F

from fairseq_prune.benchmarks.baselines import fairseqs_adam
from fairseq_prune.benchmarks.decoder_macs import adaptor_macs, beam_search_macs, text_layers_macs
from fairseq_prune.benchmarks.device_checks import build_translator, task_of
from fairseq_prune.benchmarks.entries import set_pruning
from fairseq_prune.benchmarks.plain_dphubert import PlainDPHubert
from fairseq_prune.benchmarks.specs import Spec, hubert_sizes
from fairseq_prune.constants import SAMPLE_RATE
from fairseq_prune.criterions.distill_prune import DistillPruneCriterion
from fairseq_prune.criterions.speech_translation import SpeechTranslationCriterion
from fairseq_prune.models.dphubert import DPHubert
from fairseq_prune.models.hubert_deltalm_config import HUBERT_FORMS
from fairseq_prune.modules.frames import Frames
from fairseq_prune.modules.hubert.architecture import build_encoder
from fairseq_prune.modules.hubert.encoder import TokenPrunedHubert
from fairseq_prune.modules.hubert.gated import Gating
from fairseq_prune.optim.adam_with_gates import AdamWithGates
from fairseq_prune.pruning.distillation import LayerMaps
from fairseq_prune.pruning.magnitude import TRANSFORMER_LAYERS, matching_parameters
from fairseq_prune.pruning.parp import MagnitudePruner, PruningPlan
from fairseq_prune.pruning.tokens import padding_mask_of

TRAININGS = {
    "st": "speech translation: hubert_deltalm, whose extractor is frozen (keep= and start= prune)",
    "st_fairseq": "the same model, with fairseq's own passes through HuBERT and its own Adam",
    "dphubert": "the first stage of DPHuBERT, with gates",
    "plain_dphubert": "the same on torchaudio's HuBERT, restated plainly as published",
    "ctc": "fine-tuning of fairseq's HuBERT with CTC",
    "parp": "the same, pruned to a half after each update (PARP; as published after every 50th)",
}
VOCABULARY = 12_000  # target pieces, as a cut vocabulary has
LETTERS = 32


@dataclass(frozen=True)
class Batch:
    """``batch`` utterances of so many seconds, with ``tokens`` each."""

    seconds: float = 5.0
    batch: int = 2
    tokens: int = 25

    def waveforms(self, device: torch.device) -> Tensor:
        """(batch, samples) of noise, always the same."""
        generator = torch.Generator().manual_seed(0)
        return 0.1 * torch.randn(self.batch, self.samples, generator=generator).to(device)

    @property
    def samples(self) -> int:
        """Of an utterance."""
        return round(self.seconds * SAMPLE_RATE)

    def targets(self, classes: int, device: torch.device) -> Tensor:
        """(batch, tokens)."""
        generator = torch.Generator().manual_seed(1)
        return torch.randint(4, classes, (self.batch, self.tokens), generator=generator).to(device)


@dataclass
class Step:
    """A kind of training: ``run`` does an update and returns its loss. macs: of a batch; trained parts count thrice."""

    name: str
    run: Callable[[], Tensor]
    macs: Optional[int] = None


def build_steps(
    specs: Sequence[Spec], batch: Batch, device: torch.device, sizes: Optional[dict[str, Any]] = None
) -> Iterator[list[Step]]:
    """The steps, in groups that are compared; those of a group share weights where they can.

    Args:
        sizes: options of hubert_deltalm, for smaller models in tests; default: the published sizes.

    Raises:
        ValueError: a name is none of TRAININGS, or an option is not for it.
    """
    for spec in specs:
        if spec.name not in TRAININGS:
            raise ValueError(f"training: found {spec.name!r}, expected some of {', '.join(TRAININGS)}")
        pruned = dict(keep=spec.keep, start=spec.start, keeps=spec.keeps) if spec.name == "st" else {}
        if spec != Spec(spec.name, label=spec.label, **pruned):
            raise ValueError(f"{spec}: training takes label=, and of st keep=, start= and keeps=")
    groups = (
        ({"st", "st_fairseq"}, _translation),
        ({"dphubert", "plain_dphubert"}, _distillation),
        ({"ctc", "parp"}, _recognition),
    )
    for names, build in groups:
        chosen = [spec for spec in specs if spec.name in names]
        if chosen:
            torch.manual_seed(0)
            yield build(chosen, batch, device, sizes)


def _update(loss_of: Callable[[], Tensor], optimizer) -> Tensor:
    optimizer.zero_grad()
    loss = loss_of()
    loss.backward()
    optimizer.step()
    return loss.detach()


def _adam(module: nn.Module, gates: bool = False):
    config = {"adam_betas": [0.9, 0.98], "adam_eps": 1e-8, "weight_decay": 0.0, "fp16_adam_stats": False}
    config = OmegaConf.create({**config, "lr": [1e-5], "tpu": False, "gate_lr": 0.02})
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return (AdamWithGates if gates else FairseqAdam)(config, parameters)


# -- speech translation


def _translation(specs, batch: Batch, device, sizes) -> list[Step]:
    vocabulary = VOCABULARY if sizes is None else 100
    model = build_translator(sizes or {}, vocabulary).to(device).train()
    criterion = SpeechTranslationCriterion(task_of(vocabulary), False, 0.1, 0, False, 0.0, 0.0)
    optimizer, hubert = _adam(model), model.encoder.hubert
    tokens, dense = batch.targets(vocabulary, device), hubert.pruning
    lengths = torch.full((batch.batch,), batch.samples, device=device)
    inputs = {"src_tokens": batch.waveforms(device), "src_lengths": lengths, "prev_output_tokens": tokens}
    sample = {"net_input": inputs, "target": tokens, "ntokens": tokens.numel()}

    def run(spec: Spec) -> Tensor:
        hubert.pruning = dense
        set_pruning(hubert, spec)
        if spec.name == "st":
            return _update(lambda: criterion(model, sample)[0] / sample["ntokens"], optimizer)
        with fairseqs_own(hubert), fairseqs_adam():
            return _update(lambda: criterion(model, sample)[0] / sample["ntokens"], optimizer)

    steps = []
    for spec in specs:
        set_pruning(hubert, spec)
        steps.append(Step(str(spec), partial(run, spec), batch.batch * _translation_macs(model, batch)))
        hubert.pruning = dense
    return steps


def _translation_macs(model: nn.Module, batch: Batch) -> int:
    """MACs of an utterance's update: a part that is trained has two products in its backward pass for each forward."""
    encoder = model.encoder
    hubert = encoder.hubert.macs(batch.samples)
    count, memory = adaptor_macs(encoder.adaptor, encoder.hubert.frame_counts(batch.samples)[-1])
    trained = hubert["total"] - hubert["extractor"] + count
    if encoder.text_encoder is not None:
        trained += text_layers_macs(encoder.text_encoder, encoder.first_text_layer, memory)
    trained += sum(beam_search_macs(model.decoder, memory, batch.tokens, 1).values())
    return hubert["extractor"] + 3 * trained


@contextmanager
def fairseqs_own(hubert: TokenPrunedHubert) -> Iterator[None]:
    """Within it the encoder is run by fairseq's code, without what this package adds to its layer norms."""
    norms = [module for module in hubert.modules() if isinstance(module, nn.LayerNorm)]
    hooks = [norm._forward_pre_hooks for norm in norms]

    def forward(source, lengths, mask=False):
        padding_mask = padding_mask_of(lengths, source.shape[1], source.device)
        out = HubertModel.forward(hubert, source, padding_mask=padding_mask, mask=mask, features_only=True)
        x = out["x"]
        positions = torch.arange(x.shape[1], device=x.device).expand(x.shape[:2])
        return Frames(x, [x.shape[1]] * len(x), None, positions)

    for norm in norms:
        norm._forward_pre_hooks = type(norm._forward_pre_hooks)()
    hubert.forward = forward  # of this object, which hides the methods of its class
    hubert.forward_features = partial(HubertModel.forward_features, hubert)
    try:
        yield
    finally:
        del hubert.forward, hubert.forward_features
        for norm, before in zip(norms, hooks):
            norm._forward_pre_hooks = before


# -- DPHuBERT


def _distillation(specs, batch: Batch, device, sizes) -> list[Step]:
    return [(_ours if spec.name == "dphubert" else _plain)(spec, batch, device, sizes) for spec in specs]


def _base(sizes, **more) -> TokenPrunedHubert:
    return build_encoder({**HUBERT_FORMS["base"], **hubert_sizes(sizes)}, **more)


def _layers(sizes) -> str:
    return "0|4,8,12" if sizes is None else "0|1,2"


def _ours(spec: Spec, batch: Batch, device, sizes) -> Step:
    student = _base(sizes, gating=Gating(), dropout=0.0, attention_dropout=0.0, encoder_layerdrop=0.0)
    dim = student.encoder.embedding_dim
    groups = [[int(layer) for layer in group.split(",")] for group in _layers(sizes).split("|")]
    model = DPHubert(student, LayerMaps(groups, dim, dim), _base(sizes)).to(device).train()
    criterion = DistillPruneCriterion(None, 1.0, 1.0, 0.0, "raw", 0.75, "parameters", 1)
    sample = {
        "net_input": {"source": batch.waveforms(device), "lengths": [batch.samples] * batch.batch},
        "nsentences": batch.batch,
    }

    def loss() -> Tensor:
        loss, frames, _ = criterion(model, sample)
        return loss / frames

    return Step(str(spec), partial(_update, loss, _adam(model, gates=True)))


def _plain(spec: Spec, batch: Batch, device, sizes) -> Step:
    model = PlainDPHubert(_layers(sizes), **(torchaudios_sizes(sizes) if sizes else {})).to(device).train()
    model.teacher.eval()
    waveforms = batch.waveforms(device)
    optimizer = _adam(model)

    def run() -> Tensor:
        with fairseqs_adam():
            return _update(lambda: model(waveforms), optimizer)

    return Step(str(spec), run)


def torchaudios_sizes(sizes: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `torchaudio.models.wav2vec2_model`, of fairseq's names."""
    hubert = _base(sizes)
    return {
        "extractor_mode": "group_norm",
        "extractor_conv_layer_config": [
            (conv[0].out_channels, *size)
            for conv, size in zip(hubert.feature_extractor.conv_layers, hubert.kernels_strides)
        ],
        "extractor_conv_bias": False,
        "encoder_embed_dim": hubert.encoder.embedding_dim,
        "encoder_projection_dropout": 0.0,
        "encoder_pos_conv_kernel": hubert.cfg.conv_pos,
        "encoder_pos_conv_groups": hubert.cfg.conv_pos_groups,
        "encoder_num_layers": len(hubert.encoder.layers),
        "encoder_num_heads": hubert.cfg.encoder_attention_heads,
        "encoder_attention_dropout": 0.0,
        "encoder_ff_interm_features": hubert.cfg.encoder_ffn_embed_dim,
        "encoder_ff_interm_dropout": 0.0,
        "encoder_dropout": 0.0,
        "encoder_layer_norm_first": False,
        "encoder_layer_drop": 0.0,
        "aux_num_out": None,
    }


# -- CTC


def _recognition(specs, batch: Batch, device, sizes) -> list[Step]:
    ours = _base(sizes, dropout=0.0, attention_dropout=0.0, encoder_layerdrop=0.0)
    hubert = HubertModel(ours.cfg, SimpleNamespace(sample_rate=SAMPLE_RATE), [None])
    hubert.remove_pretraining_modules()
    hubert.feature_grad_mult = 0.0
    model = nn.ModuleDict({"hubert": hubert, "head": nn.Linear(hubert.encoder.embedding_dim, LETTERS)})
    model = model.to(device).train()
    optimizer, waveforms = _adam(model), batch.waveforms(device)
    letters, counts = batch.targets(LETTERS, device), [batch.tokens] * batch.batch
    plan = PruningPlan("parp", 0.5, interval=1, end=2**31)
    pruner, updates = (
        MagnitudePruner(matching_parameters(hubert, TRANSFORMER_LAYERS), plan),
        iter(range(2**31)),
    )

    def loss() -> Tensor:
        x = model["head"](hubert.extract_features(waveforms)[0]).float().log_softmax(-1).transpose(0, 1)
        return F.ctc_loss(x, letters, [len(x)] * batch.batch, counts, zero_infinity=True)

    def run(spec: Spec) -> Tensor:
        if spec.name == "ctc":
            return _update(loss, optimizer)
        pruner.before_update()
        found = _update(loss, optimizer)
        pruner.after_update(next(updates))
        return found

    return [Step(str(spec), partial(run, spec)) for spec in specs]
