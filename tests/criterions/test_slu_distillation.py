"""The losses of slu_distillation against slow references, and its teacher."""

import pytest
import torch
from fairseq.criterions.label_smoothed_cross_entropy import LabelSmoothedCrossEntropyCriterion
from omegaconf import OmegaConf
from slu_corpus import small_task, small_whisper, tokenizer, write_data
from torch.nn import functional as F

from fairseq_prune.criterions.slu_distillation import (
    SluDistillationConfig,
    SluDistillationCriterion,
    distribution_loss,
    info_nce,
    pair_layers,
)


@pytest.fixture
def states():
    torch.manual_seed(0)
    valid = torch.tensor([[1, 1, 1, 1, 1], [0, 1, 1, 0, 0], [0, 0, 0, 1, 0]]).bool()
    return torch.randn(3, 5, 8), torch.randn(3, 5, 8), valid


def slow_info_nce(student, teacher, valid, temperature):
    """A position at a time, with candidates picked by hand."""
    loss = 0.0
    for own, other, mask in zip(student, teacher, valid):
        places = [place for place, counts in enumerate(mask.tolist()) if counts]
        for place in places:
            cosines = [F.cosine_similarity(own[place], other[candidate], dim=0) for candidate in places]
            exponentials = torch.stack(cosines).div(temperature).exp()
            loss -= (exponentials[places.index(place)] / exponentials.sum()).log()
    return loss


def test_contrastive_loss_is_that_of_the_slow_reference(states):
    assert torch.allclose(info_nce(*states, 0.1), slow_info_nce(*states, 0.1), rtol=1e-5)


def test_padded_positions_take_no_part_in_the_contrastive_loss(states):
    student, teacher, valid = states
    student.requires_grad_()
    loss = info_nce(student, teacher, valid, 0.1)
    loss.backward()
    assert student.grad[~valid].abs().max() == 0 and student.grad[valid].abs().max() > 0
    other = torch.where(valid[..., None], teacher, torch.full_like(teacher, 1e3))
    assert torch.equal(info_nce(student, other, valid, 0.1), loss)


def test_contrastive_loss_falls_with_nearness(states):
    student, teacher, valid = states
    near, far = (info_nce(near_to + student, teacher, valid, 0.1) for near_to in (3 * teacher, 0 * teacher))
    assert near < far / 4


def test_distribution_loss_is_the_divergence_of_softened_distributions_times_the_temperature_squared(states):
    student, teacher, valid = states
    p, q = (teacher / 2).softmax(-1), (student / 2).softmax(-1)
    expected = 4 * (p * (p / q).log()).sum(-1)[valid].sum()
    assert torch.allclose(distribution_loss(student, teacher, valid, 2.0), expected, rtol=1e-5)
    assert distribution_loss(teacher, teacher, valid, 2.0) == 0


def test_the_last_layers_of_the_teacher_are_the_default(states):
    layers = [torch.full((1, 1, 4), float(i)) for i in range(4)]
    assert [pair[1].max() for pair in pair_layers(layers[:2], layers, [])] == [2, 3]
    assert [pair[1].max() for pair in pair_layers(layers[:2], layers, [1, 3])] == [0, 2]


@pytest.mark.parametrize("layer_map", [[1], [0, 1], [3, 5], [1, 2, 3]])
def test_a_layer_map_that_does_not_fit_is_refused(layer_map):
    layers = [torch.zeros(1, 1, 4)] * 4
    with pytest.raises(ValueError, match="layer from 1 to 4 of the teacher for each of the student's 2"):
        pair_layers(layers[:2], layers, layer_map)


def test_layers_of_other_widths_are_refused():
    with pytest.raises(ValueError, match="one width, found 4 of the student and 6"):
        pair_layers([torch.zeros(1, 1, 4)], [torch.zeros(1, 1, 6)], [])


# -- with a teacher


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A checkpoint of three decoder layers."""
    path = tmp_path_factory.mktemp("teacher") / "teacher.pt"
    small_whisper(path, decoder_layers=3)
    return path


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return small_task(write_data(tmp_path_factory.mktemp("data") / "data"))


@pytest.fixture(scope="module")
def student(task):
    torch.manual_seed(1)
    cfg = OmegaConf.create(small_whisper(decoder_layers=2)["cfg"]["model"])
    return task.build_model(cfg, from_checkpoint=True).eval()


@pytest.fixture(scope="module")
def sample(task):
    task.load_dataset("dev")
    dataset = task.datasets["dev"]
    return dataset.collater([dataset[i] for i in range(len(dataset))])


def criterion(task, **options):
    cfg = OmegaConf.merge(SluDistillationConfig(), {"sentence_avg": False, **options})
    return SluDistillationCriterion.build_criterion(cfg, task)


def test_the_loss_is_the_weighted_sum(task, student, teacher, sample):
    weights = dict(ce_weight=0.8, kl_weight=0.5, contrastive_weight=0.1)
    loss, size, log = criterion(task, teacher_path=str(teacher), **weights)(student, sample)
    alone = {
        name: criterion(
            task, teacher_path=str(teacher), **{other: 1.0 * (other == name) for other in weights}
        )(student, sample)[0]
        for name in weights
    }
    assert torch.allclose(loss, sum(weights[name] * alone[name] for name in weights))
    assert size == sample["ntokens"] == int((sample["target"] != task.target_dictionary.pad()).sum())
    assert torch.allclose(log["ce_loss"] + log["kl_loss"] + log["contrastive_loss"], loss)
    assert all(value > 0 for value in alone.values())


def test_without_weights_no_teacher_is_read_and_the_loss_is_cross_entropy(task, student, sample):
    ours = criterion(task, teacher_path="/nowhere.pt", kl_weight=0.0, contrastive_weight=0.0, ce_weight=1.0)
    plain = LabelSmoothedCrossEntropyCriterion(task, sentence_avg=False, label_smoothing=0.0)
    assert torch.equal(ours(student, sample)[0], plain(student, sample)[0])


def test_the_teacher_is_neither_saved_nor_trained_but_follows_the_device(task, student, teacher, sample):
    ours = criterion(task, teacher_path=str(teacher))
    assert ours.state_dict() == {} and list(ours.parameters()) == []
    ours.to(torch.float64)
    (taught,) = ours._teacher
    assert {p.dtype for p in taught.parameters()} == {torch.float64}
    ours.to(torch.float32).train()
    assert not taught.training and not any(p.requires_grad for p in taught.parameters())


def test_a_teacher_of_itself_adds_no_divergence(task, teacher, sample):
    ours = criterion(task, teacher_path=str(teacher), ce_weight=0.0, contrastive_weight=0.0)
    assert ours(ours._teacher[0], sample)[0].abs() < 1e-5


def test_a_teacher_with_another_vocabulary_is_refused(task, tmp_path):
    path = tmp_path / "other.pt"
    small_whisper(path, decoder_layers=2, of=tokenizer(["[IN:other"]))
    with pytest.raises(ValueError, match="the teacher's dictionary does not fit") as error:
        criterion(task, teacher_path=str(path))
    assert "\n" not in str(error.value) and "other.pt" in str(error.value)


@pytest.mark.parametrize(
    "options, problem",
    [
        ({}, "--teacher-path"),
        ({"teacher_path": "/nowhere.pt"}, "nowhere.pt: no such checkpoint"),
        ({"kl_temperature": 0.0}, "--kl-temperature must be above 0, found 0"),
    ],
)
def test_bad_options_are_refused(task, options, problem):
    with pytest.raises((ValueError, FileNotFoundError), match=problem):
        criterion(task, **options)
