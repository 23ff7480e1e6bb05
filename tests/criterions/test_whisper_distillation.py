"""Distillation of a smaller Whisper: what it is asked, and gates that reach their target."""

import pytest
import torch
from omegaconf import OmegaConf
from small_whisper import SIZES, clips, huggingface_whisper, our_names, small_whisper, tokenizer_json

from fairseq_prune.checkpoints.loading import load_fairseq_state
from fairseq_prune.checkpoints.whisper.own import WhisperCheckpoint
from fairseq_prune.criterions.whisper_distillation import (
    WhisperDistillationConfig,
    WhisperDistillationCriterion,
)
from fairseq_prune.models.gated_whisper import GatedWhisper, GatedWhisperConfig
from fairseq_prune.modules.frames import TokenPruning
from fairseq_prune.modules.whisper.gated import layer_parameters
from fairseq_prune.optim.adam_with_gates import GATES
from fairseq_prune.pruning.layers import merge_layers
from fairseq_prune.tasks.spoken_language_understanding import SpokenLanguageUnderstandingTask

WEIGHTS = our_names(huggingface_whisper())


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """The path of a checkpoint, and its task."""
    path = tmp_path_factory.mktemp("teacher") / "whisper.pt"
    torch.save(WhisperCheckpoint("here", SIZES, WEIGHTS, tokenizer_json()).to_fairseq(), path)
    state = load_fairseq_state(path)
    return path, SpokenLanguageUnderstandingTask.from_state(state["cfg"].task, state["task_state"])


def criterion_of(teacher, **options):
    path, task = teacher
    cfg = OmegaConf.merge(WhisperDistillationConfig(), {"teacher_path": str(path), **options})
    return WhisperDistillationCriterion.build_criterion(cfg, task)


def gated_of(teacher, **options):
    path, task = teacher
    given = {"whisper_path": str(path), "prune": "attention_heads=0.2,feed_forward_units=0.2", **options}
    return GatedWhisper.build_model(OmegaConf.merge(OmegaConf.structured(GatedWhisperConfig), given), task)


def sample(*frames):
    features, lengths = clips(*frames)
    return {"id": torch.arange(len(frames)), "net_input": {"src_tokens": features, "src_lengths": lengths}}


@torch.no_grad()
@pytest.mark.parametrize("context, stride", [("30s", 1), ("30s", 4), ("clip", 1)])
def test_the_teacher_hears_what_the_student_hears(teacher, context, stride):
    student = small_whisper(WEIGHTS, audio_context=context, silence_stride=stride)
    loss, size, log = criterion_of(teacher).eval()(student, sample(50, 31))
    assert float(loss / size) == pytest.approx(0, abs=1e-4) and log["n_agreed"] == size > 0


@torch.no_grad()
@pytest.mark.parametrize("name", ["hidden", "kl", "encoder"])
def test_each_part_sees_a_change_of_the_encoder(teacher, name):
    weights = {**dict.fromkeys(("hidden_weight", "kl_weight", "encoder_weight"), 0.0), f"{name}_weight": 1.0}
    student = small_whisper(WEIGHTS)
    student.encoder.layers[1].fc2.weight[:, :10] = 0
    assert float(criterion_of(teacher, **weights).eval()(student, sample(50, 31))[0]) > 0.01


@torch.no_grad()
def test_layers_that_are_not_learned_do_not_count(teacher):
    student = small_whisper(WEIGHTS)
    student.encoder.layers[0].fc2.weight[:] = 0
    weights = {"hidden_weight": 0.0, "kl_weight": 0.0}
    all_layers, last = (
        float(criterion_of(teacher, distill_layers=layers, **weights).eval()(student, sample(50))[0])
        for layers in ([], [2])
    )
    assert all_layers != last > 0


@torch.no_grad()
def test_the_encoders_distance_is_a_mean_over_the_frames_of_all_clips(teacher):
    criterion = criterion_of(teacher, hidden_weight=0.0, kl_weight=0.0).eval()
    student = small_whisper(WEIGHTS, audio_context="clip")
    student.encoder.layers[1].fc2.weight[:, :10] = 0
    batch, alone = sample(50, 30), []
    for row, length in enumerate((50, 30)):
        net_input = {
            "src_tokens": batch["net_input"]["src_tokens"][row : row + 1, :length],
            "src_lengths": batch["net_input"]["src_lengths"][row : row + 1],
        }
        loss, size, _ = criterion(student, {"id": batch["id"][row : row + 1], "net_input": net_input})
        alone.append(loss / size)
    loss, size, _ = criterion(student, batch)
    torch.testing.assert_close(loss / size, (25 * alone[0] + 15 * alone[1]) / 40, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_what_the_teacher_said_is_kept_where_asked_for(teacher):
    criterion = criterion_of(teacher, cache_teacher=True).eval()
    student = small_whisper(WEIGHTS, silence_stride=4)
    student.encoder.layers[1].fc2.weight[:, :10] = 0
    first = criterion(student, sample(50, 31))[0]
    criterion._teacher[0].encoder.forward = None  # a further call would fail
    torch.testing.assert_close(criterion(student, sample(50, 31))[0], first)


@pytest.mark.parametrize("counted", ["parameters", "macs"])
def test_training_brings_the_size_to_its_target(teacher, counted):
    weights = dict.fromkeys(("hidden_weight", "kl_weight", "encoder_weight"), 0.02)
    options = dict(target_sparsity=0.5, sparsity_of=counted, sparsity_warmup_updates=100, **weights)
    criterion, model = criterion_of(teacher, **options).train(), gated_of(teacher).train()
    groups = {True: [], False: []}
    for parameter in model.parameters():
        groups[getattr(parameter, "param_group", None) == GATES].append(parameter)
    rates = [{"params": groups[False]}, {"params": groups[True], "lr": 0.1}]
    optimizer = torch.optim.Adam(rates, 1e-3, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, 200)
    batch, logs = sample(50, 31), []
    for update in range(200):
        torch.manual_seed(update)
        model.set_num_updates(update)
        loss, size, log = criterion(model, batch)
        optimizer.zero_grad()
        (loss / size).backward()
        optimizer.step()
        schedule.step()
        logs.append({name: float(value) for name, value in log.items()})
    last = logs[-1]
    assert last["expected_sparsity"] / last["sample_size"] == pytest.approx(0.5, abs=0.08)
    assert logs[0]["target_sparsity"] == 0 and logs[-1]["target_sparsity"] == 0.5 * last["sample_size"]
    assert last["n_agreed"] > 0
    share = float(layer_parameters(model) / layer_parameters(model, expected=False))
    assert share == pytest.approx(last["expected_parameters"] / last["sample_size"], abs=0.02)


def test_a_model_without_gates_has_no_term_for_the_size(teacher):
    _, _, log = criterion_of(teacher)(small_whisper(WEIGHTS), sample(50))
    assert "sparsity_term" not in log and "encoder_loss" in log


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(teacher_path=None), "--teacher-path: found none"),
        (dict(target_sparsity=1.0), "--target-sparsity: found 1.0, expected a share"),
        (dict(hidden_weight=-1.0), "found -1, 1, 1, expected none below 0 and one above"),
        (dict(hidden_weight=0, kl_weight=0, encoder_weight=0), "found 0, 0, 0, expected none below 0"),
        (dict(distill_layers=[2, 3]), "--distill-layers: found 2,3, expected layers from 1 to 2"),
        (dict(layer_map=[0, 3]), "--layer-map: found 0,3, expected layers from 1 to 3"),
    ],
)
def test_options_out_of_range_are_refused(teacher, options, message):
    with pytest.raises(ValueError, match=message):
        criterion_of(teacher, **options)


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(prune="none"), "--prune: found 'none', expected some of attention_heads, feed_forward_units"),
        (dict(prune="conv_channels"), "--prune: found 'conv_channels', expected none, or some of attention"),
        (dict(prune_sparsity=0.5), "--prune-sparsity: found 0.5 for a gated_whisper"),
        (dict(int8_aware=True), "--int8-aware: found it for a gated_whisper"),
    ],
)
def test_models_that_make_no_sense_are_refused(teacher, options, message):
    with pytest.raises(ValueError, match=message):
        gated_of(teacher, **options)


def test_students_of_other_frames_or_layers_are_refused(teacher):
    student = small_whisper(WEIGHTS)
    student.encoder.pruning = TokenPruning([0.6, 0.6])
    with pytest.raises(ValueError, match="--encoder-weight: found a student that drops frames"):
        criterion_of(teacher)(student, sample(50))
    with pytest.raises(ValueError, match="found 1 layers in the student's encoder, expected the teacher's 2"):
        criterion_of(teacher)(small_whisper(encoder_layers=1), sample(50))
    with pytest.raises(
        ValueError, match="--layer-map: found 1,2,3, expected .* each of the 1 layers in the student"
    ):
        criterion_of(teacher)(small_whisper(decoder_layers=1), sample(50))


@torch.no_grad()
def test_a_student_of_fewer_decoder_layers_learns_those_of_the_map(teacher):
    """Layers that are the teacher's first and last hear other inputs, but the first is the teacher's layer 1."""
    student = small_whisper(merge_layers(WEIGHTS, "decoder.layers.", [[0], [2]]), decoder_layers=2)
    only_hidden = dict(kl_weight=0.0, encoder_weight=0.0)
    batch = sample(50, 31)
    losses = {
        layer: float(criterion_of(teacher, layer_map=[layer, 3], **only_hidden).eval()(student, batch)[0])
        for layer in (1, 2)
    }
    criterion = criterion_of(teacher, layer_map=[1, 3], **only_hidden).eval()
    texts = criterion.texts(batch)
    inputs = (batch["net_input"][name] for name in ("src_tokens", "src_lengths"))
    states = student(*inputs, texts.tokens[:, :-1])[1]["inner_states"]
    last = ((states[2] - texts.states[2]).square().mean(-1) * texts.valid).sum()
    assert losses[1] == pytest.approx(
        float(last) / 2, rel=1e-4
    )  # the mean with layer 1, which has no distance
    assert losses[2] > 1.1 * losses[1]


def test_gradients_of_gates_are_not_sent_in_half_precision(teacher):
    model = gated_of(teacher)
    cfg = OmegaConf.create(
        {
            "common": {"fp16": True, "bf16": False},
            "distributed_training": {"ddp_backend": "legacy_ddp", "distributed_world_size": 2},
        }
    )
    with pytest.raises(ValueError, match="--ddp-backend: found legacy_ddp with --fp16 and gates"):
        model.prepare_training(cfg, None)
