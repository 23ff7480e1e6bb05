"""Least squares layer after layer, against a restatement with torch.linalg.lstsq."""

import copy

import pytest
import torch
from torch import nn

from fairseq_prune.pruning.magnitude import apply_masks, magnitude_masks
from fairseq_prune.pruning.reconstruction import heard, input_groups, reconstruct


class Branches(nn.Module):
    """Two layers hear the same, a third hears their product."""

    def __init__(self):
        super().__init__()
        self.after, self.right = nn.Linear(6, 4), nn.Linear(5, 6)
        self.left = nn.Linear(5, 6, bias=False)
        self.ends = 0

    def forward(self, x):
        found = self.after(self.left(x).tanh() * self.right(x))
        self.ends += 1
        return found


NAMES = ["after.weight", "right.weight", "left.weight"]


def run(model, x):
    return model(x)


@pytest.fixture
def pruned():
    """Dense, sparse, masks and examples: speech of three lengths that both hear alike."""
    torch.manual_seed(1)
    dense = Branches()
    parameters = dict(dense.named_parameters())
    masks = magnitude_masks({name: parameters[name].detach().abs() for name in NAMES}, 0.5, "matrix")
    sparse = copy.deepcopy(dense)
    apply_masks({name: parameter.data for name, parameter in sparse.named_parameters()}, masks)
    examples = [torch.randn(2, frames, 5) + 0.3 for frames in (30, 50, 40)]
    return dense, sparse, masks, examples


def test_layers_of_one_input_are_a_group_in_the_order_of_calls():
    assert input_groups(Branches(), NAMES, torch.randn(1, 3, 5), run) == [
        ["left.weight", "right.weight"],
        ["after.weight"],
    ]


def test_a_layer_that_is_not_called_is_named():
    model = Branches()
    model.unused = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="unused.weight: its layer saw no input"):
        input_groups(model, [*NAMES, "unused.weight"], torch.randn(1, 3, 5), run)


def test_a_pass_ends_with_the_last_layer_that_is_asked_for():
    model, x = Branches(), torch.randn(2, 3, 5)
    [found] = heard(model, ["after.weight"], x, run, outputs=True)
    assert model.ends == 0
    torch.testing.assert_close(found, model(x).flatten(0, 1))


def fitted(x, target, weight, bias, mask):
    """Least squares of each output with torch.linalg.lstsq."""
    weight, bias = torch.zeros_like(weight), None if bias is None else bias.clone()
    for i, kept in enumerate(mask):
        columns = x[:, kept] if bias is None else torch.cat([x[:, kept], torch.ones(len(x), 1)], 1)
        solution = torch.linalg.lstsq(columns.double(), target[:, i : i + 1].double()).solution[:, 0].float()
        weight[i, kept] = solution[: int(kept.sum())]
        if bias is not None:
            bias[i] = solution[-1]
    return weight, bias


def test_each_layer_is_fitted_to_what_it_hears_after_those_before_it(pruned):
    dense, sparse, masks, examples = pruned
    expected = copy.deepcopy(sparse)
    before = copy.deepcopy(dense.state_dict())
    reconstruct(sparse, dense, masks, [(x, x) for x in examples], run, ridge=0.0)

    x = torch.cat([example.flatten(0, 1) for example in examples])
    with torch.no_grad():
        for name in ("left", "right"):
            mine, other = getattr(expected, name), getattr(dense, name)
            mine.weight.data, bias = fitted(x, other(x), mine.weight, mine.bias, masks[f"{name}.weight"])
            if bias is not None:
                mine.bias.data = bias
        hidden = expected.left(x).tanh() * expected.right(x)
        last = expected.after
        last.weight.data, last.bias.data = fitted(
            hidden, dense(x), last.weight, last.bias, masks["after.weight"]
        )
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(sparse.state_dict()[name], value, rtol=1e-3, atol=1e-4)
    assert all(torch.equal(value, before[name]) for name, value in dense.state_dict().items())


def test_the_output_is_nearer_and_the_zeros_stay(pruned):
    dense, sparse, masks, examples = pruned
    mixing = torch.randn(5, 5)  # inputs that know of each other can make up for one another
    examples, others = [x @ mixing for x in examples], torch.randn(4, 200, 5) @ mixing
    before = (sparse(others) - dense(others)).square().mean()
    reconstruct(sparse, dense, masks, [(x, x) for x in examples], run)
    assert (sparse(others) - dense(others)).square().mean() < 0.7 * before
    parameters = dict(sparse.named_parameters())
    assert all(not parameters[name][~mask].any() for name, mask in masks.items())


def test_both_models_may_hear_what_is_theirs(pruned):
    dense, sparse, masks, examples = pruned
    whole = {name: torch.ones_like(mask) for name, mask in masks.items()}
    sparse.load_state_dict(dense.state_dict())
    reconstruct(sparse, dense, whole, [(x / 2, x) for x in examples], run, ridge=0.0)  # half as loud
    x = torch.cat([example.flatten(0, 1) for example in examples])
    torch.testing.assert_close(sparse(x / 2), dense(x), rtol=1e-3, atol=1e-3)
