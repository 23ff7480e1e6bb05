"""Steps of training HuBERT: DPHuBERT's two stages, and fine-tuning with CTC, which PARP prunes."""

from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any, Optional

from fairseq.models.hubert import HubertModel
from torch import Tensor, nn
from torch.nn import functional as F

from fairseq_prune.benchmarks.baselines import fairseqs_adam
from fairseq_prune.benchmarks.plain_dphubert import PlainDPHubert
from fairseq_prune.benchmarks.specs import Spec, hubert_sizes
from fairseq_prune.benchmarks.updates import Batch, Step, adam, update
from fairseq_prune.constants import SAMPLE_RATE
from fairseq_prune.criterions.distill_prune import DistillPruneCriterion
from fairseq_prune.models.dphubert import DPHubert
from fairseq_prune.models.hubert_deltalm_config import HUBERT_FORMS
from fairseq_prune.modules.hubert.architecture import architecture_of, build_encoder
from fairseq_prune.modules.hubert.encoder import TokenPrunedHubert
from fairseq_prune.modules.hubert.gated import Gating
from fairseq_prune.pruning.distillation import LayerMaps
from fairseq_prune.pruning.magnitude import TRANSFORMER_LAYERS, matching_parameters
from fairseq_prune.pruning.parp import MagnitudePruner, PruningPlan

LETTERS = 32
STILL = dict(dropout=0.0, attention_dropout=0.0, encoder_layerdrop=0.0)
# what the model dphubert has by default, and torchaudio's HuBERT but for its layer drop
DROPOUT = dict(dropout=0.1, attention_dropout=0.1, dropout_input=0.1, encoder_layerdrop=0.0)


# -- DPHuBERT


def distillation(specs, batch: Batch, device, sizes) -> list[Step]:
    """The steps of DPHuBERT; arguments as of `training_kinds.build_steps`."""
    return [
        (_plain if spec.name == "plain_dphubert" else _ours)(spec, batch, device, sizes) for spec in specs
    ]


def base_hubert(sizes, **more) -> TokenPrunedHubert:
    """HuBERT base, or one of ``sizes`` (options of hubert_deltalm); ``more``: of `build_encoder`."""
    return build_encoder({**HUBERT_FORMS["base"], **hubert_sizes(sizes)}, **more)


def cut(hubert: TokenPrunedHubert) -> dict[str, Any]:
    """The architecture with half of the heads and a sixth of the units: layers of about a quarter of the weights."""
    whole = hubert.shapes
    heads, units = [size // 2 for size in whole.heads], [size // 6 for size in whole.units]
    shapes = replace(whole, heads=heads, units=units)
    return {**architecture_of(hubert), "pruned": shapes.to_dict()}


def _layers(sizes) -> str:
    return "0|4,8,12" if sizes is None else "0|1,2"


def _ours(spec: Spec, batch: Batch, device, sizes) -> Step:
    first, teacher = spec.name == "dphubert", base_hubert(sizes)
    student = (
        base_hubert(sizes, gating=Gating(), **DROPOUT) if first else build_encoder(cut(teacher), **DROPOUT)
    )
    dim = student.encoder.embedding_dim
    groups = [[int(layer) for layer in group.split(",")] for group in _layers(sizes).split("|")]
    model = DPHubert(student, LayerMaps(groups, dim, dim), teacher).to(device).train()
    criterion = DistillPruneCriterion(None, 1.0, 1.0, 0.0, "raw", 0.75, "parameters", 1)
    sample = {
        "net_input": {"source": batch.waveforms(device), "lengths": [batch.samples] * batch.batch},
        "nsentences": batch.batch,
    }

    def loss() -> Tensor:
        loss, frames, _ = criterion(model, sample)
        return loss / frames

    return Step(str(spec), partial(update, loss, adam(model, gates=first)))


def _plain(spec: Spec, batch: Batch, device, sizes) -> Step:
    model = PlainDPHubert(_layers(sizes), **torchaudios_sizes(sizes)).to(device).train()
    model.teacher.eval()
    waveforms = batch.waveforms(device)
    optimizer = adam(model)

    def run() -> Tensor:
        with fairseqs_adam():
            return update(lambda: model(waveforms), optimizer)

    return Step(str(spec), run)


def torchaudios_sizes(sizes: Optional[dict[str, Any]]) -> dict[str, Any]:
    """Arguments of `torchaudio.models.wav2vec2_model`, of fairseq's names."""
    hubert = base_hubert(sizes)
    return {
        "extractor_mode": "group_norm",
        "extractor_conv_layer_config": [
            (conv[0].out_channels, *size)
            for conv, size in zip(hubert.feature_extractor.conv_layers, hubert.kernels_strides)
        ],
        "extractor_conv_bias": False,
        "encoder_embed_dim": hubert.encoder.embedding_dim,
        "encoder_projection_dropout": 0.1,
        "encoder_pos_conv_kernel": hubert.cfg.conv_pos,
        "encoder_pos_conv_groups": hubert.cfg.conv_pos_groups,
        "encoder_num_layers": len(hubert.encoder.layers),
        "encoder_num_heads": hubert.cfg.encoder_attention_heads,
        "encoder_attention_dropout": 0.1,
        "encoder_ff_interm_features": hubert.cfg.encoder_ffn_embed_dim,
        "encoder_ff_interm_dropout": 0.0,
        "encoder_dropout": 0.1,
        "encoder_layer_norm_first": False,
        "encoder_layer_drop": 0.0,
        "aux_num_out": None,
    }


# -- CTC


def recognition(specs, batch: Batch, device, sizes) -> list[Step]:
    """The steps of one model; arguments as of `training_kinds.build_steps`."""
    ours = base_hubert(sizes, **STILL)
    hubert = HubertModel(ours.cfg, SimpleNamespace(sample_rate=SAMPLE_RATE), [None])
    hubert.remove_pretraining_modules()
    hubert.feature_grad_mult = 0.0
    model = nn.ModuleDict({"hubert": hubert, "head": nn.Linear(hubert.encoder.embedding_dim, LETTERS)})
    model = model.to(device).train()
    optimizer, waveforms = adam(model), batch.waveforms(device)
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
            return update(loss, optimizer)
        pruner.before_update()
        found = update(loss, optimizer)
        pruner.after_update(next(updates))
        return found

    return [Step(str(spec), partial(run, spec)) for spec in specs]
