import pytest
import torch
from torch import nn

from fairseq_prune.pruning.layers import (
    BlockInfluence,
    drop_by_loss,
    keep_layers,
    merge_layers,
    most_influential,
    only_layers,
)


class Turn(nn.Module):
    """Turns vectors (..., 2) by an angle, in a tuple as decoder layers return it."""

    def __init__(self, angle):
        super().__init__()
        sine, cosine = torch.tensor(angle).sin(), torch.tensor(angle).cos()
        self.turn = nn.Parameter(torch.stack([torch.stack([cosine, -sine]), torch.stack([sine, cosine])]))

    def forward(self, x, mask=None):
        return x @ self.turn.T, None


def stack(*angles):
    return nn.ModuleList(Turn(angle) for angle in angles)


def run(layers, x):
    for layer in layers:
        x, _ = layer(x, mask=None)
    return x


def test_influence_is_one_minus_the_cosine_over_valid_positions():
    layers = stack(0.3, 0.0, 1.2)
    x = torch.randn(2, 5, 2)
    x[0, 3:] = float("nan")  # padding
    valid = torch.ones(2, 5, dtype=torch.bool)
    valid[0, 3:] = False
    with BlockInfluence(layers) as influence:
        for part in range(2):
            run(layers, x[part : part + 1])
            influence.add(valid[part : part + 1])
    expected = 1 - torch.tensor([0.3, 0.0, 1.2]).cos()
    torch.testing.assert_close(torch.tensor(influence.values()), expected, rtol=1e-4, atol=1e-6)
    assert not any(layer._forward_hooks for layer in layers)


def test_the_most_influential_are_kept_in_their_order():
    assert most_influential([0.1, 0.5, 0.1, 0.3], 2) == [1, 3]
    assert most_influential([0.1, 0.5, 0.1, 0.3], 3) == [1, 2, 3]


def test_within_the_block_only_some_layers_are_there_and_then_all_again():
    layers = stack(0.1, 0.2, 0.4)
    x, whole = torch.randn(3, 2), list(layers)
    with pytest.raises(KeyError), only_layers(layers, [0, 2]):
        torch.testing.assert_close(run(layers, x), run(stack(0.5), x))
        assert len(layers) == 2
        raise KeyError
    assert list(layers) == whole and list(layers.state_dict()) == ["0.turn", "1.turn", "2.turn"]


def test_layers_go_one_by_one_where_the_loss_is_lowest():
    """The loss is the distance of the angles' sum from 0.7: first -0.1 goes, then 0.3 (0.7 is left), never 0.7."""
    layers = stack(0.3, -0.1, 0.7)
    x = torch.tensor([1.0, 0.0])

    def loss():
        return float((run(layers, x) - run(stack(0.7), x)).norm())

    kept, steps = drop_by_loss(layers, 1, loss)
    assert kept == [2]
    assert [sorted(step) for step in steps] == [[0, 1, 2], [1, 2]]
    assert len(layers) == 3


def test_the_state_dict_of_the_layers_kept_fits_a_smaller_model():
    model = nn.ModuleDict(
        {"decoder": nn.ModuleDict({"layers": stack(0.1, 0.2, 0.3), "norm": nn.LayerNorm(2)})}
    )
    kept = keep_layers(model.state_dict(), "decoder.layers.", [0, 2])
    model["decoder"]["layers"] = stack(0.0, 0.0)
    model.load_state_dict(kept)
    assert torch.equal(model["decoder"]["layers"][1].turn, Turn(0.3).turn)


def test_a_layer_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match=r"expected a layer layers\.3, found 2 layers"):
        keep_layers({"layers.0.x": 1, "layers.1.x": 2}, "layers.", [1, 3])


def test_merged_layers_have_the_means_of_all_parameters():
    model = nn.ModuleDict({"layers": stack(0.1, 0.2, 0.3, 0.4), "norm": nn.LayerNorm(2)})
    state = model.state_dict()
    merged = merge_layers(state, "layers.", [[0, 1, 3], [2]])
    assert list(merged) == ["layers.0.turn", "layers.1.turn", "norm.weight", "norm.bias"]
    turns = [Turn(angle).turn for angle in (0.1, 0.2, 0.4)]
    torch.testing.assert_close(merged["layers.0.turn"], sum(turns).detach() / 3)
    assert merged["layers.1.turn"] is state["layers.2.turn"]
    half = {name: value.half() for name, value in state.items()}
    assert merge_layers(half, "layers.", [[0, 1]])["layers.0.turn"].dtype == torch.float16


def test_a_layer_merged_with_itself_is_that_layer():
    state = stack(0.3, 0.3).state_dict(prefix="layers.")
    torch.testing.assert_close(
        merge_layers(state, "layers.", [[0, 1]])["layers.0.turn"], Turn(0.3).turn.detach()
    )


def test_layers_of_different_sizes_are_not_merged():
    state = {"layers.0.fc1": torch.zeros(3, 2), "layers.1.fc1": torch.zeros(4, 2)}
    with pytest.raises(ValueError, match=r"layers layers\.0 and layers\.1 have different sizes"):
        merge_layers(state, "layers.", [[0, 1]])
    with pytest.raises(ValueError, match=r"expected a layer layers\.2, found none"):
        merge_layers(state, "layers.", [[0, 2]])
