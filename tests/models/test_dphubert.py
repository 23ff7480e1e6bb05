"""The model dphubert and its criterion in one process."""

import copy

import pytest
import torch
from fairseq import models
from omegaconf import OmegaConf
from small_distillation import build, criterion, sample
from small_encoder import make_encoder
from tones import write_hubert, write_tones

from fairseq_prune.data.waveform_manifest import write_waveform_manifest
from fairseq_prune.models.dphubert import freeze_unused, parse_distill_layers
from fairseq_prune.optim.adam_with_gates import GATES
from fairseq_prune.tasks.ssl_distillation import SSLDistillationConfig, SSLDistillationTask

GATED = "conv_channels,attention_heads,feed_forward_units"


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return write_hubert(tmp_path_factory.mktemp("hubert") / "teacher.pt")


def test_an_ungated_copy_is_at_no_distance_from_its_teacher(teacher):
    model, _ = build(teacher, prune="none")
    loss, frames, log = criterion()(model.eval(), sample())
    assert frames == 19 + 12 and loss.item() / frames < 1e-5 and "expected_sparsity" not in log


@pytest.mark.parametrize("layer_zero, before", [("before_positions", True), ("after_positions", False)])
def test_layer_zero_is_the_published_one_unless_the_option_says_otherwise(teacher, layer_zero, before):
    assert build(teacher)[1].distill_layer_zero == "before_positions"
    model, _ = build(teacher, prune="none", distill_layer_zero=layer_zero)
    inputs = sample((6400,))["net_input"]
    expected, _ = model._teacher[0].layer_outputs(**inputs, before_positions=before)
    torch.testing.assert_close(model(**inputs)["teacher"][0], expected[0])


def test_the_teacher_is_frozen_hidden_and_moves_along(teacher):
    model, _ = build(teacher)
    hidden = model._teacher[0]
    assert not any("teacher" in name for name in model.state_dict())
    parameters = {id(parameter) for parameter in model.parameters()}
    assert all(id(p) not in parameters and not p.requires_grad for p in hidden.parameters())
    model.train()
    assert not hidden.training
    assert model.double()._teacher[0].mask_emb.dtype == torch.float64


def test_gates_and_multipliers_are_a_group_of_their_own_and_stay_in_float32(teacher):
    model = build(teacher)[0].half()
    for name, parameter in model.named_parameters():
        special = "log_alpha" in name or "multipliers" in name
        assert (getattr(parameter, "param_group", None) == GATES) == special
        assert parameter.dtype == (torch.float32 if special else torch.float16), name


def test_all_that_is_trained_gets_a_gradient_as_pytorch_ddp_demands(teacher, tmp_path):
    large = write_hubert(
        tmp_path / "large.pt", normalize=True, extractor_mode="layer_norm", layer_norm_first=True
    )
    for path in (teacher, large):
        model, _ = build(path)
        model.set_num_updates(5)
        criterion()(model.train(), sample())[0].backward()
        without = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
        assert without == []


@pytest.mark.parametrize("relative", [{}, {"relative_buckets": 32, "relative_distance": 64}])
@pytest.mark.parametrize("learned", ["0", "0|1", "1,2"])
def test_layers_above_those_that_are_learned_are_frozen(learned, relative):
    student = make_encoder(**relative)
    freeze_unused(student, parse_distill_layers(learned), "layers")
    highest = int(learned[-1])
    states, _ = student.train().layer_outputs(torch.randn(1, 6400), [6400])
    states[highest].sum().backward()
    trained = {name for name, p in student.named_parameters() if p.requires_grad}
    assert trained == {name for name, p in student.named_parameters() if p.grad is not None}
    assert any(name.startswith("encoder.layers.0") for name in trained) == (highest > 0)


@pytest.mark.parametrize("kind", ["parameters", "macs"])
def test_the_loss_is_the_distance_and_the_lagrangian_term(teacher, kind):
    model = build(teacher)[0].eval()
    model.multipliers.values.data = torch.tensor([2.0, 3.0])
    model.set_num_updates(5)  # half of the warm-up
    loss, frames, log = criterion(sparsity_of=kind)(model, sample())
    student = model.student
    dense, expected = (
        (student.dense_parameters(), student.expected_parameters())
        if kind == "parameters"
        else (student.dense_macs(160_000), student.expected_macs(160_000))
    )
    gap = 1 - expected / dense - 0.25
    torch.testing.assert_close(loss, log["distance"] + frames * (2 * gap + 3 * gap**2))
    assert log["target_sparsity"] / frames == pytest.approx(0.25)


def test_a_teacher_of_another_width(teacher, tmp_path):
    wide = write_hubert(tmp_path / "wide.pt", encoder_embed_dim=48, encoder_ffn_embed_dim=64)
    model, cfg = build(wide, student_path=str(teacher))
    assert cfg.teacher_dim == 48 and model.maps.maps[0].weight.shape == (48, 32)
    loss, _, _ = criterion()(model, sample())
    loss.backward()
    assert torch.isfinite(loss)


def test_distilhubert_like_heads(teacher):
    model, _ = build(teacher, prune="none", distill_by="heads")
    assert len(model.maps.heads) == 3
    assert torch.isfinite(criterion(cosine_form="log_sigmoid")(model, sample())[0])


@pytest.mark.parametrize("by", ["layers", "heads"])
def test_relations_alone_train_the_student_and_leave_no_parameter_without_gradient(teacher, by):
    model, _ = build(teacher, distill_by=by)
    relations = criterion(l1_weight=0.0, cosine_weight=0.0, relation_weight=1.0)
    loss, _, log = relations(model, sample())
    loss.backward()
    assert log["relation"] > 0 and "l1" not in log
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert all(model.get_parameter(name).grad is not None for name in trained)
    assert any(
        p.grad.abs().max() > 0 for p in model.student.encoder.layers[0].parameters() if p.requires_grad
    )


def test_the_checkpoint_s_configuration_builds_the_model_without_its_teacher(teacher):
    model, cfg = build(teacher)
    assert (cfg.teacher_path, cfg.student_path) == (None, None)
    again = models.build_model(copy.deepcopy(cfg), None)
    again.load_state_dict(model.state_dict())
    with pytest.raises(ValueError, match="--teacher-path"):
        again(**sample()["net_input"])


def test_only_what_is_asked_for_gets_gates(teacher):
    model, _ = build(teacher, prune="attention_blocks, feed_forward_units=0.2")
    assert set(model.student.gates) == {"attention_blocks", "feed_forward_units"}
    opened = torch.sigmoid(model.student.gates["feed_forward_units"]["0"].log_alpha)
    assert opened.mean().item() == pytest.approx(0.8, abs=0.01)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"distill_layers": "0|3"}, "--distill-layers: found layer 3, but the teacher has 2"),
        ({"distill_layers": "last"}, "--distill-layers: found 'last'"),
        ({"prune": "heads"}, "--prune: found 'heads', expected none, or some of conv_channels"),
        ({"prune": "attention_heads=much"}, "--prune: found 'attention_heads=much'"),
        ({"prune": "attention_heads=1"}, "--prune: found 'attention_heads=1', expected a drop probability"),
        ({"prune": "attention_heads="}, "--prune: found 'attention_heads=', expected a drop probability"),
        ({"prune": "conv_channels,conv_channels=0.5"}, "--prune: found conv_channels twice"),
        ({"mask_prob": 1.0}, "--mask-prob, --mask-length: found 1.0 and 10"),
        ({"mask_length": 0}, "--mask-prob, --mask-length: found 0.0 and 0"),
        ({"distill_by": "groups", "distill_layers": "0|3"}, "--distill-layers: found layer 3"),
        ({"teacher_path": None}, "neither --teacher-path nor --student-path"),
    ],
)
def test_bad_options_are_named(teacher, options, message):
    with pytest.raises(ValueError) as caught:
        build(**{"teacher_path": teacher, **options})
    assert message in str(caught.value)


def test_a_wrong_teacher_is_told_by_its_kind(tmp_path):
    torch.save({"cfg": {"model": {"_name": "roberta"}, "task": {}}, "model": {}}, tmp_path / "roberta.pt")
    with pytest.raises(ValueError, match=r"roberta.pt: a checkpoint of model 'roberta'"):
        build(tmp_path / "roberta.pt")


def test_models_with_other_frames_do_not_go_together(teacher, tmp_path):
    slow = write_hubert(
        tmp_path / "slow.pt", conv_feature_layers="[(16,10,5)] + [(16,3,2)] * 5 + [(16,2,2)] * 2"
    )
    with pytest.raises(ValueError, match="a frame every 320 and 640 samples"):
        build(slow, student_path=str(teacher))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_sparsity": 1.0}, "--target-sparsity: found 1.0"),
        ({"l1_weight": 0.0, "cosine_weight": 0.0}, "--l1-weight"),
    ],
)
def test_bad_options_of_the_criterion_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        criterion(**options)


def test_the_task_leaves_out_what_is_too_short_of_training_only(tmp_path):
    lengths = [2000, 8000, 6000]
    names = write_tones(tmp_path, lengths)
    for split in ("train", "valid"):
        write_waveform_manifest(tmp_path / f"{split}.tsv", tmp_path, names, lengths)
    options = {"data": str(tmp_path), "train_subset": "train", "seed": 1, "max_sample_size": 7000}
    cfg = OmegaConf.merge(SSLDistillationConfig(), {**options, "min_sample_size": 3000})
    task = SSLDistillationTask.setup_task(cfg)
    for split in ("train", "valid"):
        task.load_dataset(split)
    assert task.dataset("train").sizes.tolist() == [7000, 6000]
    assert task.dataset("valid").sizes.tolist() == [2000, 7000, 6000]
    cfg.min_sample_size = 7000
    SSLDistillationTask.setup_task(cfg)
    cfg.min_sample_size = 7001
    with pytest.raises(ValueError, match="--min-sample-size: found 7001"):
        SSLDistillationTask.setup_task(cfg)
