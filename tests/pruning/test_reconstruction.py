"""Least squares layer after layer, against a restatement with torch.linalg.lstsq."""

import copy

import pytest
import torch
from torch import nn

from fairseq_prune.pruning.magnitude import apply_masks, magnitude_masks
from fairseq_prune.pruning.reconstruction import Place, Residuals, heard, input_groups, reconstruct


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
    [found] = heard(model, [Place("after", is_output=True)], x, run)
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


class Residual(nn.Module):
    """Blocks that each add to a residual, and a norm before and after each, as in a Transformer."""

    def __init__(self, blocks):
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(6) for _ in range(blocks + 1))
        self.inner = nn.ModuleList(nn.Linear(6, 12) for _ in range(blocks))
        self.outer = nn.ModuleList(nn.Linear(12, 6) for _ in range(blocks))

    def forward(self, x):
        for norm, inner, outer in zip(self.norms, self.inner, self.outer):
            x = x + outer(inner(norm(x)).tanh())
        return self.norms[-1](x)


def without_second(dense):
    """Three blocks of four, and how their norms are called there."""
    smaller = Residual(3)
    kept = [0, 2, 3]
    for mine, other in enumerate(kept):
        smaller.inner[mine].load_state_dict(dense.inner[other].state_dict())
        smaller.outer[mine].load_state_dict(dense.outer[other].state_dict())

    def counterpart(name):
        stack, _, number = name.partition(".")
        return f"{stack}.{[*kept, 4][int(number)]}"

    return smaller, counterpart


def test_the_block_before_one_that_is_gone_is_fitted_to_the_sum_after_it():
    torch.manual_seed(1)
    dense = Residual(4)
    smaller, counterpart = without_second(dense)
    expected = copy.deepcopy(smaller)
    examples = [torch.randn(2, frames, 6) for frames in (30, 50)]
    first = smaller.outer[0].weight
    sums = {"outer.0.weight": "norms.1"}
    masks = {"outer.0.weight": torch.ones_like(first, dtype=torch.bool)}
    reconstruct(smaller, dense, masks, [(x, x) for x in examples], run, 0.0, Residuals(sums, counterpart))
    x = torch.cat([example.flatten(0, 1) for example in examples])
    with torch.no_grad():
        inner = expected.inner[0](expected.norms[0](x)).tanh()
        total = x
        for i in range(2):
            total = total + dense.outer[i](dense.inner[i](dense.norms[i](total)).tanh())
        weight, bias = fitted(inner, total - x, first, smaller.outer[0].bias, masks["outer.0.weight"])
    torch.testing.assert_close(smaller.outer[0].weight, weight, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(smaller.outer[0].bias, bias, rtol=1e-3, atol=1e-4)
    for name, value in expected.state_dict().items():
        if not name.startswith("outer.0."):
            assert torch.equal(smaller.state_dict()[name], value), name


def test_sums_bring_the_output_nearer_than_outputs_alone():
    torch.manual_seed(1)
    dense, distances = Residual(4), []
    mixing, others = torch.randn(6, 6), torch.randn(4, 100, 6)
    examples = [torch.randn(2, 200, 6) @ mixing for _ in range(2)]
    for sums in ({}, {f"outer.{i}.weight": f"norms.{i + 1}" for i in range(3)}):
        smaller, counterpart = without_second(dense)
        weights = [name for name, _ in smaller.named_parameters() if "norms" not in name and "weight" in name]
        masks = {name: torch.ones_like(smaller.get_parameter(name), dtype=torch.bool) for name in weights}
        residuals = Residuals(sums, counterpart)
        reconstruct(smaller, dense, masks, [(x, x) for x in examples], run, 0.1, residuals)
        distances.append(float((smaller(others @ mixing) - dense(others @ mixing)).square().mean()))
    assert distances[1] < 0.5 * distances[0]
