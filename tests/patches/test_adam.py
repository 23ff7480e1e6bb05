"""The fused step of Adam, against fairseq's own."""

import copy

import pytest
import torch
from fairseq.optim.adam import Adam

from fairseq_prune.compat import HAS_FUSED_ADAM
from fairseq_prune.patches import adam

pytestmark = pytest.mark.skipif(not HAS_FUSED_ADAM, reason="from torch 2.4 on")
SHAPES = [(5, 7), (3,), (2, 3, 4), ()]


def optimizer(**options):
    torch.manual_seed(0)
    parameters = [torch.nn.Parameter(torch.randn(shape)) for shape in SHAPES]
    decayed, others = {"params": parameters[:2]}, {"params": parameters[2:], "weight_decay": 0.0, "lr": 0.5}
    return Adam([decayed, others], **{"lr": 1e-2, "weight_decay": 0.1, "eps": 1e-3, **options})


def gradients(ours, seed, without=()):
    generator = torch.Generator().manual_seed(seed)
    for number, parameter in enumerate(adam_parameters(ours)):
        gradient = torch.randn(parameter.shape, generator=generator)
        parameter.grad = None if number in without else gradient


def adam_parameters(ours):
    return [parameter for group in ours.param_groups for parameter in group["params"]]


def test_steps_are_those_of_fairseq_also_of_what_begins_to_learn_later():
    ours, theirs = optimizer(), optimizer()
    for number in range(6):
        for one in (ours, theirs):
            gradients(one, number, without=(1,) if number < 3 else ())
        ours.step()
        adam.Adam.step.fairseqs(theirs)
    for found, expected in zip(adam_parameters(ours), adam_parameters(theirs)):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
        assert ours.state[found]["step"] == theirs.state[expected]["step"]
        for name in adam.MOMENTS:
            torch.testing.assert_close(ours.state[found][name], theirs.state[expected][name])


def test_a_state_of_fairseq_goes_on():
    theirs = optimizer()
    gradients(theirs, 0)
    adam.Adam.step.fairseqs(theirs)
    ours = optimizer()
    with torch.no_grad():
        for one, other in zip(adam_parameters(ours), adam_parameters(theirs)):
            one.copy_(other)
    ours.load_state_dict(copy.deepcopy(theirs.state_dict()))
    for one in (ours, theirs):
        gradients(one, 1)
    ours.step()
    adam.Adam.step.fairseqs(theirs)
    for found, expected in zip(adam_parameters(ours), adam_parameters(theirs)):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_the_fused_step_is_what_runs(monkeypatch):
    calls, fused = [], torch._fused_adamw_
    monkeypatch.setattr(torch, "_fused_adamw_", lambda *args, **more: calls.append(1) or fused(*args, **more))
    ours = optimizer()
    gradients(ours, 0)
    ours.step()
    assert len(calls) == 2  # one for each group


@pytest.mark.parametrize("case", ["another layout", "amsgrad", "half precision"])
def test_other_tensors_are_left_to_fairseq(case, monkeypatch):
    monkeypatch.setattr(torch, "_fused_adamw_", None)
    ours = optimizer(amsgrad=case == "amsgrad")
    gradients(ours, 0)
    parameter = adam_parameters(ours)[0]
    if case == "another layout":
        parameter.grad = torch.randn(7, 5).t()
    if case == "half precision":
        parameter.data, parameter.grad = parameter.data.half(), None
        parameter.grad = torch.randn(5, 7).half()
    before = parameter.detach().clone()
    ours.step()
    assert not torch.equal(parameter, before)


def test_a_closure_is_called_once():
    ours, calls = optimizer(), []
    gradients(ours, 0)
    assert ours.step(lambda: calls.append(1) or 7.0) == 7.0 and calls == [1]
