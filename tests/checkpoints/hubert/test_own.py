"""Compressed encoders: what is written, read back by us and by fairseq, and cut out of a dphubert."""

import json

import pytest
import torch
from fairseq import checkpoint_utils
from hubert_files import BASE, LARGE, make_gated, save_dphubert

from fairseq_prune.checkpoints.hubert.own import materialise, read_student, save_pruned_hubert
from fairseq_prune.checkpoints.hubert.reading import read_hubert
from fairseq_prune.checkpoints.loading import load_state_dict_strictly
from fairseq_prune.models.pruned_hubert import PrunedHubert
from fairseq_prune.modules.hubert.architecture import architecture_of, build_encoder
from fairseq_prune.modules.hubert.encoder import TokenPrunedHubert
from fairseq_prune.modules.hubert.gated import GatedHubert, Gating

SIZES = pytest.mark.parametrize("options", [BASE, LARGE], ids=["base", "large"])
SAMPLES = 8000


@torch.no_grad()
def outputs(encoder):
    torch.manual_seed(1)
    source = torch.randn(2, SAMPLES)
    source[1, 5000:] = 0
    return encoder.layer_outputs(source, [SAMPLES, 5000])[0]


def assert_same_outputs(found, expected):
    for x, y in zip(outputs(found), outputs(expected)):
        torch.testing.assert_close(x, y, atol=1e-5, rtol=1e-4)


@SIZES
def test_a_compressed_encoder_is_read_from_its_file_alone(tmp_path, options):
    gated = make_gated(options)
    small, architecture = materialise(gated)
    assert architecture["pruned"]["heads"][1] == 0 and json.loads(json.dumps(architecture)) == architecture
    save_pruned_hubert(small, tmp_path / "pruned.pt")
    checkpoint = read_hubert(tmp_path / "pruned.pt")
    assert checkpoint.architecture == architecture
    loaded = build_encoder(checkpoint.architecture).eval()
    load_state_dict_strictly(loaded, checkpoint.state_dict, "pruned.pt")
    assert_same_outputs(loaded, gated)


@SIZES
def test_fairseq_loads_a_compressed_encoder_as_a_model_of_its_own(tmp_path, options):
    small, _ = materialise(make_gated(options))
    save_pruned_hubert(small, tmp_path / "pruned.pt")
    [model], cfg, task = checkpoint_utils.load_model_ensemble_and_task([str(tmp_path / "pruned.pt")])
    assert type(model) is PrunedHubert and cfg.model.encoder_embed_dim == 24
    assert task.cfg.normalize is (options is LARGE)
    assert_same_outputs(model.eval(), small)
    source, padding = torch.randn(2, SAMPLES), torch.zeros(2, SAMPLES, dtype=torch.bool)
    padding[1, 5000:] = True
    source[padding] = 0
    features, frame_padding = model.extract_features(source, padding)
    states, expected_padding = small.layer_outputs(source, [SAMPLES, 5000])
    assert torch.equal(frame_padding, expected_padding)
    torch.testing.assert_close(features, small(source, [SAMPLES, 5000]).x)
    torch.testing.assert_close(model.extract_features(source, padding, output_layer=1)[0], states[1])


@pytest.mark.parametrize("gating", [Gating(), Gating(attention_blocks=None, conv_channels=None)])
def test_the_student_of_a_dphubert_is_read_with_the_gates_that_it_has(tmp_path, gating):
    gated = make_gated(LARGE, gating)
    student = read_student(save_dphubert(tmp_path / "a.pt", gated))
    assert isinstance(student, GatedHubert) and set(student.gates) == set(gated.gates)
    for name, value in gated.state_dict().items():
        assert torch.equal(student.state_dict()[name], value)


def test_the_student_of_a_second_stage_has_no_gates_and_is_read_like_a_compressed_encoder(tmp_path):
    small, _ = materialise(make_gated(BASE))
    path = save_dphubert(tmp_path / "a.pt", small)
    student = read_student(path)
    assert type(student) is TokenPrunedHubert
    assert_same_outputs(student, small)
    assert read_hubert(path).architecture == architecture_of(small)


def test_an_encoder_with_gates_is_neither_read_nor_saved_as_one_without(tmp_path):
    gated = make_gated(BASE)
    with pytest.raises(
        ValueError, match=r"a\.pt: still has gates, expected what scripts/compress_hubert\.py"
    ):
        read_hubert(save_dphubert(tmp_path / "a.pt", gated))
    with pytest.raises(ValueError, match="an encoder with gates: expected what materialise makes of it"):
        save_pruned_hubert(gated, tmp_path / "b.pt")


@pytest.mark.parametrize("student_config", [None, "{", "[]", "{}"])
def test_a_dphubert_without_architecture_is_an_error(tmp_path, student_config):
    path = save_dphubert(tmp_path / "a.pt", make_gated(BASE), student_config=student_config)
    for read in (read_student, read_hubert):
        with pytest.raises(
            ValueError, match=r"a\.pt: option student_config of the model dphubert holds no arch"
        ):
            read(path)


def test_another_model_has_no_student(tmp_path):
    path = save_dphubert(tmp_path / "a.pt", make_gated(BASE), _name="hubert")
    with pytest.raises(ValueError, match=r"a\.pt: a checkpoint of model 'hubert', expected .*dphubert"):
        read_student(path)


def test_shapes_that_do_not_fit_the_weights_are_an_error(tmp_path):
    small, architecture = materialise(make_gated(BASE))
    architecture["pruned"]["units"][0] += 1
    path = save_dphubert(tmp_path / "a.pt", small, student_config=json.dumps(architecture))
    with pytest.raises(ValueError, match=r"a\.pt: weights do not fit .* encoder\.layers\.0\.fc1"):
        read_student(path)


@pytest.mark.parametrize(
    "field, value, message",
    [("heads", [1], "pruned: heads has 1 layers, expected 2"), ("head_dim", 0, "pruned: head_dim is 0")],
)
def test_an_impossible_shape_names_its_field(tmp_path, field, value, message):
    small, architecture = materialise(make_gated(BASE))
    architecture["pruned"][field] = value
    path = save_dphubert(tmp_path / "a.pt", small, student_config=json.dumps(architecture))
    with pytest.raises(ValueError, match=f"a.pt: {message}"):
        read_hubert(path)
