"""PARP and its baselines in a plain loop of torch."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fairseq_prune.pruning.magnitude import magnitude_masks
from fairseq_prune.pruning.parp import METHODS, ONE_SHOT, MagnitudePruner, PruningPlan
from fairseq_prune.pruning.schedules import SPARSITY_SCHEDULES

FIXED = [method for method in METHODS if method not in ("parp", "parp-p")]


@st.composite
def plans(draw):
    sparsity = draw(st.floats(0.01, 0.99))
    start = draw(st.integers(1, 20))
    return PruningPlan(
        method=draw(st.sampled_from(METHODS)),
        sparsity=sparsity,
        interval=draw(st.integers(1, 25)),
        start=start,
        end=start + draw(st.integers(1, 60)),
        initial_sparsity=draw(st.floats(0, 1)) * sparsity,
        schedule=draw(st.sampled_from(SPARSITY_SCHEDULES)),
    )


@settings(max_examples=80, deadline=None)
@given(plans())
def test_the_sparsity_rises_to_its_target_and_never_above(plan):
    course = [plan.sparsity_after(update) for update in range(plan.end + 10)]
    assert course == sorted(course)
    assert max(course) == plan.sparsity
    assert all(sparsity == plan.sparsity for sparsity in course[plan.end :])
    assert all(sparsity == 0 for sparsity in course[: plan.start])
    if plan.method not in ("parp", "omp", "mpi", "random"):
        assert course[plan.end - 1] <= plan.sparsity


@settings(max_examples=80, deadline=None)
@given(plans())
def test_prunings_are_an_interval_apart_and_end_at_the_end(plan):
    moments = [update for update in range(plan.end + 10) if plan.prunes_after(update)]
    if plan.method in ONE_SHOT:
        assert moments == [plan.start]
        return
    first = plan.start + (plan.interval if plan.method == "imp" else 0)
    assert moments == [*range(first, plan.end, plan.interval), plan.end]
    growing = [update for update in range(plan.end + 10) if plan.grows_after(update)]
    assert growing == ([] if plan.method == "imp" else list(range(plan.start, plan.end)))


def test_rounds_of_imp_leave_out_the_same_share_of_what_is_left():
    plan = PruningPlan("imp", 0.875, interval=10, end=30)
    assert [plan.sparsity_after(update) for update in (9, 10, 20, 30)] == pytest.approx([0, 0.5, 0.75, 0.875])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"method": "parb"}, "pruning method: found 'parb', expected one of parp, parp-p"),
        ({"sparsity": 1.0}, r"sparsity: found 1.0, expected a share of weights to set to zero in \[0, 1\)"),
        ({"sparsity": -0.5}, "sparsity: found -0.5"),
        ({"interval": 0}, "pruning interval: found 0, expected 1 update or more"),
        ({"start": -1}, "first pruning of parp: found update -1, expected 0 or later"),
        ({"method": "omp"}, "first pruning of omp: found update 0, expected 1 or later"),
        ({"start": 9, "end": 9}, r"last pruning: found update 9, expected one after the start \(9\)"),
        ({"method": "parp-p", "initial_sparsity": 0.6}, "initial sparsity: found 0.6, expected at most"),
        ({"schedule": "steep"}, "sparsity schedule: found 'steep', expected one of linear, cubic"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        PruningPlan(**{"method": "parp", "sparsity": 0.5, "end": 9, **fields})


class Training:
    """Adam on a line of matrices, with the pruner called as by fairseq's trainer."""

    def __init__(self, plan, seed=0):
        torch.manual_seed(seed)
        self.model = nn.Sequential(nn.Linear(12, 16), nn.Linear(16, 12))
        self.pruner = MagnitudePruner(dict(self.model.named_parameters()), plan)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.02)
        self.inputs = torch.randn(64, 12)
        self.updates = 0
        self.pruner.after_update(0)

    def train(self, updates):
        for _ in range(updates):
            for part in self.inputs.chunk(2):  # an update of two parts
                self.pruner.before_update()
                (self.model(part).roll(1, 1) - part).square().mean().backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.updates += 1
            self.pruner.after_update(self.updates)
        return self

    def zeros(self):
        return [parameter == 0 for parameter in self.model.parameters()]

    def sparsity(self):
        zeros = torch.cat([zero.view(-1) for zero in self.zeros()])
        return zeros.float().mean().item()

    def weights(self):
        return copy.deepcopy(self.model.state_dict())

    def saved(self):
        return copy.deepcopy([self.weights(), self.optimizer.state_dict(), self.pruner.state_dict()])

    def load(self, saved, updates):
        weights, optimizer, pruner = copy.deepcopy(saved)
        self.model.load_state_dict(weights)
        self.optimizer.load_state_dict(optimizer)
        self.pruner.load_state_dict(pruner)
        self.updates = updates
        self.pruner.after_update(updates)
        return self


def assert_equal(first, second):
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


@pytest.mark.parametrize("method", METHODS)
def test_after_every_update_the_sparsity_is_the_stated_one(method):
    plan = PruningPlan(method, 0.6, interval=4, start=3, end=20)
    training = Training(plan)
    total = sum(parameter.numel() for parameter in training.model.parameters())
    for update in range(1, 26):
        training.train(1)
        expected = round(plan.sparsity_after(update) * total) / total
        assert training.sparsity() == pytest.approx(expected, abs=1e-6), update
        assert training.pruner.sparsity == pytest.approx(expected)
        assert training.pruner.state_dict()["sparsity"] == pytest.approx(expected)


@pytest.mark.parametrize("method", FIXED)
def test_a_fixed_mask_holds_against_the_momentum_of_adam(method):
    training = Training(PruningPlan(method, 0.6, interval=4, start=4, end=8)).train(8)
    zeros = training.zeros()
    training.train(10)
    for before, after in zip(zeros, training.zeros()):
        assert torch.equal(before, after)


def test_parp_brings_weights_back_that_have_grown():
    training = Training(PruningPlan("parp", 0.6, interval=10, end=40))
    first = training.zeros()
    training.train(10)
    assert 0 < training.pruner.revived < 0.5
    assert training.pruner.overlap < 1
    back = sum(int((old & ~new).sum()) for old, new in zip(first, training.zeros()))
    assert training.pruner.revived == pytest.approx(back / sum(int(old.sum()) for old in first))


def test_a_pruning_takes_the_largest_of_what_has_grown():
    training = Training(PruningPlan("parp", 0.6, interval=10, end=40)).train(9)
    training.pruner.before_update()
    dense = {name: parameter.clone() for name, parameter in training.model.named_parameters()}
    assert all((value == 0).float().mean() < 0.1 for value in dense.values())
    training.updates = 10
    training.pruner.after_update(10)
    for name, mask in magnitude_masks(dense, 0.6).items():
        assert torch.equal(training.model.get_parameter(name), dense[name] * mask)


def test_pruned_weights_keep_their_gradients_in_parp():
    training = Training(PruningPlan("parp", 0.6, interval=100, end=200))
    (training.model(training.inputs) - 1).square().mean().backward()
    assert all((parameter.grad != 0).all() for parameter in training.model.parameters())


@pytest.mark.parametrize("method", ["parp", "parp-p", "imp"])
@pytest.mark.parametrize("interruption", [4, 7, 8, 19, 20, 22])
def test_a_resumed_training_ends_as_one_without_interruption(method, interruption):
    plan = PruningPlan(method, 0.6, interval=4, end=20)
    whole = Training(plan).train(25)
    saved = Training(plan).train(interruption).saved()
    resumed = Training(plan, seed=0).load(saved, interruption).train(25 - interruption)
    assert_equal(whole.weights(), resumed.weights())
    states = [training.pruner.state_dict() for training in (whole, resumed)]
    assert {**states[0], "masks": 0, "first_masks": 0} == {**states[1], "masks": 0, "first_masks": 0}
    for kind in ("masks", "first_masks"):
        for name, mask in states[0][kind].items():
            assert torch.equal(mask["bits"], states[1][kind][name]["bits"])


def test_what_was_set_aside_is_not_in_the_state_right_after_a_pruning():
    training = Training(PruningPlan("parp", 0.6, interval=4, end=20)).train(8)
    assert training.pruner.state_dict()["grown"] == {}
    assert training.train(1).pruner.state_dict()["grown"] != {}


def test_saving_and_validating_have_no_influence():
    plan = PruningPlan("parp", 0.6, interval=4, end=20)
    quiet, watched = Training(plan).train(22), Training(plan)
    for _ in range(22):
        watched.train(1).saved()
        watched.model(watched.inputs)
        watched.pruner.set_aside()
    assert_equal(quiet.weights(), watched.weights())


def test_a_checkpoint_within_an_update_is_sparse_too():
    training = Training(PruningPlan("parp", 0.5, interval=4, end=20)).train(6)
    training.pruner.before_update()
    assert training.sparsity() < 0.4
    training.pruner.set_aside()
    assert training.sparsity() == 0.5


def test_another_run_that_begins_with_the_weights_forgets_the_state():
    plan = PruningPlan("parp", 0.5, interval=4, end=20)
    saved = Training(plan).train(6).saved()
    training = Training(plan).load(saved, 0)
    assert training.pruner.update == 0
    assert training.pruner.state_dict()["grown"] == {} and training.pruner.overlap == 1


def test_a_state_of_other_parameters_is_refused():
    plan = PruningPlan("parp", 0.5, interval=4, end=20)
    state = Training(plan).pruner.state_dict()
    with pytest.raises(
        ValueError, match="pruning state of the checkpoint: has 0.weight, which the model has not"
    ):
        MagnitudePruner(dict(nn.Linear(3, 3).named_parameters()), plan).load_state_dict(state)


def test_masters_and_averages_get_the_same_zeros():
    plan = PruningPlan("parp", 0.5, interval=2, end=8)
    model = nn.Linear(8, 8).bfloat16()
    parameters = dict(model.named_parameters())
    masters = {
        name: torch.randn_like(parameter, dtype=torch.float32) for name, parameter in parameters.items()
    }
    average = {name: torch.randn_like(parameter) for name, parameter in parameters.items()}
    pruner = MagnitudePruner(parameters, plan)
    expected = magnitude_masks(masters, 0.5)
    pruner.after_update(0, masters, [average])
    for name, mask in expected.items():
        for weights in (parameters, masters, average):
            assert torch.equal(weights[name] != 0, mask)
