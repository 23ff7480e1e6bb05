"""What fairseq's trainer does for our models, beside what it does for all."""

import copy
from types import SimpleNamespace

import pytest
import torch
from fairseq import optim
from fairseq.dataclass.configs import EMAConfig, FairseqConfig
from fairseq.models.ema import build_ema
from fairseq.optim.adam import FairseqAdamConfig
from omegaconf import OmegaConf
from small_encoder import make_encoder
from small_speech_model import SAMPLES, make_model, speech
from torch import nn

from fairseq_prune.criterions.distill_prune import DistillPruneCriterion
from fairseq_prune.models.dphubert import DPHubert
from fairseq_prune.models.magnitude_pruning import MagnitudePruned
from fairseq_prune.models.trainer_hooks import check_frozen, leave_frozen, shape_average
from fairseq_prune.modules.hubert.architecture import architecture_of, build_encoder
from fairseq_prune.modules.hubert.gated import Gating
from fairseq_prune.modules.taking_part import take_part
from fairseq_prune.pruning.distillation import LayerMaps
from fairseq_prune.pruning.parp import MagnitudePruner, PruningPlan


def student(gated=True, **shapes):
    """A small dphubert with its teacher."""
    teacher = make_encoder(**shapes)
    architecture = architecture_of(teacher)
    encoder = build_encoder(architecture, gating=Gating() if gated else None)
    return DPHubert(encoder, LayerMaps([[0], [1, 2]], 32, 32), teacher)


def average_of(model, **options):
    """fairseq's moving average as the trainer builds it."""
    config = EMAConfig(store_ema=True, ema_decay=0.5, **options)
    trainer = SimpleNamespace(_ema=build_ema(model, config, torch.device("cpu")))
    shape_average(trainer)
    return trainer._ema


MODELS = {
    "hubert_deltalm": (
        make_model,
        lambda model: model(**speech(SAMPLES), prev_output_tokens=torch.tensor([[2]])),
    ),
    "dphubert": (student, lambda model: model(torch.randn(1, 6400), [6400])),
    "wavlm": (
        lambda: make_encoder(relative_buckets=32, relative_distance=64),
        lambda model: model(torch.randn(1, 6400), [6400]),
    ),
}


@pytest.mark.parametrize("fp32", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_a_model_that_has_run_is_averaged(name, fp32):
    build, run = MODELS[name]
    model = build().train()
    run(model)
    average = average_of(model, ema_fp32=fp32)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    average.step(model, 1)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for key, value in average.get_model().state_dict().items():
        if "version" in key:  # fairseq's own stamp of its layers' form
            continue
        expected = before[key] + 0.5 if key in parameters else before[key]
        torch.testing.assert_close(value, expected, msg=lambda found, key=key: f"{key}: {found}")
    run(average.get_model())


class Pruned(MagnitudePruned, nn.Linear):
    pass


def test_an_average_is_as_sparse_as_its_model_and_does_not_ask_for_the_state_of_pruning(monkeypatch):
    model = Pruned(8, 8)
    model.pruner = MagnitudePruner({"weight": model.weight}, PruningPlan("parp", 0.5, interval=4, end=8))
    model.pruner.after_update(0)
    average = average_of(model)
    model.pruner.before_update()
    with torch.no_grad():
        model.weight.add_(1.0)
    # it indexes by mask, a wait for the device for each parameter
    monkeypatch.setattr(MagnitudePruner, "state_dict", lambda self: pytest.fail("the state was asked for"))
    average.step(model, 1)
    assert int((average.get_model().weight == 0).sum()) == 32


def test_the_average_of_a_student_shares_its_teacher():
    model = student()
    assert copy.deepcopy(model)._teacher[0] is model._teacher[0]


def config(**sections):
    cfg = OmegaConf.structured(FairseqConfig())
    cfg.optimizer = {
        **OmegaConf.to_container(OmegaConf.structured(FairseqAdamConfig(lr=[0.1]))),
        "_name": "adam",
    }
    for section, values in sections.items():
        cfg[section].update(values)
    return cfg


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_gates_in_half_precision_buffers_are_refused(precision):
    cfg = config(
        common={precision: True},
        distributed_training={"ddp_backend": "legacy_ddp", "distributed_world_size": 2},
    )
    with pytest.raises(
        ValueError, match=f"found legacy_ddp with --{precision} and gates.* expected pytorch_ddp"
    ):
        student().prepare_training(cfg, None)
    student(gated=False).prepare_training(cfg, None)
    cfg.distributed_training.ddp_backend = "pytorch_ddp"
    student().prepare_training(cfg, None)


def test_frozen_weights_in_one_vector_may_not_decay():
    model = make_model(freeze_hubert_updates=5)
    cfg = config(common={"fp16": True}, optimizer={"weight_decay": 0.1})
    with pytest.raises(ValueError, match="--weight-decay: found 0.1 .* expected --fp16-no-flatten-grads"):
        check_frozen(model, cfg)
    cfg.common.fp16_no_flatten_grads = True
    check_frozen(model, cfg)
    check_frozen(make_model(), config(common={"fp16": True}, optimizer={"weight_decay": 0.1}))


@pytest.mark.parametrize("half", [False, True])
def test_frozen_weights_stay_where_they_are(half):
    weight, other = (nn.Parameter(torch.ones(3, dtype=torch.bfloat16 if half else None)) for _ in range(2))
    cfg = config(common={"fp16_no_flatten_grads": True, "bf16": half}, optimizer={"weight_decay": 0.5})
    if half:
        optimizer = optim.FP16Optimizer.build_optimizer(cfg, [weight, other])
    else:
        optimizer = optim.build_optimizer(cfg.optimizer, [weight, other])
    for _ in range(2):
        optimizer.zero_grad()
        optimizer.backward((take_part(other, [weight]) * 2).sum())
        optimizer.clip_grad_norm(1.0)
        assert weight.grad.tolist() == [0.0] * 3
        leave_frozen(optimizer, [weight])
        optimizer.step()
    assert weight.tolist() == [1.0] * 3 and other[0] < 1


@pytest.mark.parametrize("padded", [False, True])
def test_what_a_distillation_logs_is_of_one_kind_with_padding_and_without(padded):
    criterion = DistillPruneCriterion(None, 1.0, 1.0, 0.0, "raw", 0.5, "parameters", 10)
    lengths = [6400, 4000 if padded else 6400]
    sample = {"net_input": {"source": torch.randn(2, 6400), "lengths": lengths}, "nsentences": 2}
    _, sample_size, log = criterion(student(), sample)
    assert log["nsentences"] == 2
    kinds = {name: torch.is_tensor(value) and value.dim() == 0 for name, value in log.items()}
    assert kinds == {name: name != "nsentences" for name in kinds} and torch.is_tensor(sample_size)


@pytest.mark.parametrize("text_layers", [0, 1])
@pytest.mark.parametrize("used", [False, True])
def test_what_a_criterion_does_not_use_is_not_trained(text_layers, used):
    model = make_model(ctc=True, text_encoder=True, deltalm_encoder_layers=text_layers).train()
    model.prepare_training(config(), SimpleNamespace(ctc_weight=float(used), mt_loss_weight=float(used)))
    inputs = {**speech(SAMPLES), "prev_output_tokens": torch.tensor([[2]])}
    if used:
        inputs |= {"transcript": torch.tensor([[5, 2]]), "transcript_lengths": torch.tensor([2])}
    logits, extra = model(**inputs)
    loss = logits.sum()
    if used:
        loss = loss + extra["text"][0].sum() + model.encoder.ctc_logits(extra["speech"]).sum()
    loss.backward()
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {name for name, p in model.named_parameters() if p.grad is not None}
    assert any(name.startswith("encoder.ctc_head") for name in trained) == used
    assert any("text_encoder.embed_positions" in name for name in trained) == used


@pytest.mark.parametrize("relative", [{}, {"relative_buckets": 32, "relative_distance": 64}])
def test_a_layer_that_is_left_out_gets_a_gradient_of_zeros(relative):
    encoder = make_encoder(**relative).train()
    encoder.mask_emb.requires_grad_(False)
    encoder.encoder.layerdrop = 1.0
    encoder(torch.randn(1, 6400), [6400]).x.sum().backward()
    assert [name for name, p in encoder.named_parameters() if p.requires_grad and p.grad is None] == []
    assert not encoder.encoder.layers[0].fc1.weight.grad.any() and encoder.post_extract_proj.weight.grad.any()


@pytest.mark.parametrize("probability", [0.5, 0.999])
def test_drawn_layers_of_deltalm_get_gradients_too(probability):
    model = make_model(deltalm_layerdrop=probability, deltalm_encoder_layers=1).train()
    for _ in range(3):
        model.zero_grad(set_to_none=True)
        model(**speech(SAMPLES), prev_output_tokens=torch.tensor([[2, 5]]))[0].sum().backward()
        assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
