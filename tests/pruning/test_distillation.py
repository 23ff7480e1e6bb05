"""Maps from a student's hidden states to its teacher's, and their distance."""

import pytest
import torch
import torch.nn.functional as F

from fairseq_prune.pruning.distillation import (
    DistillationLoss,
    GroupMaps,
    LayerMaps,
    PredictionHeads,
    parse_layers,
    relation_distances,
)

GROUPS = [[0], [1, 2]]


def states(dim, layers=3, seed=0):
    torch.manual_seed(seed)
    return [torch.randn(2, 5, dim) for _ in range(layers)]


def test_layers_are_parsed_in_groups():
    assert parse_layers("0|4, 8,12") == [[0], [4, 8, 12]]
    assert parse_layers("3") == [[3]]


@pytest.mark.parametrize("text", ["", "0|", "a", "0;1", "-1", "1,,2"])
def test_what_is_no_list_of_layers_is_refused(text):
    with pytest.raises(ValueError, match="expected layers"):
        parse_layers(text)


def test_a_layer_named_twice_is_refused():
    with pytest.raises(ValueError, match="twice"):
        parse_layers("0|4,0")


def test_maps_begin_as_the_identity_and_are_shared_in_groups():
    maps = LayerMaps(GROUPS, 8, 8)
    for mapped, state in zip(maps(states(8)), states(8)):
        torch.testing.assert_close(mapped, state)
    assert sum(p.numel() for p in maps.parameters()) == 2 * (8 * 8 + 8)
    maps.maps[1].bias.data += 1
    changed = [bool((mapped != state).all()) for mapped, state in zip(maps(states(8)), states(8))]
    assert changed == [False, True, True]


def test_maps_of_groups_map_the_mean_of_each_group():
    maps = GroupMaps(GROUPS, 8, 11)
    for linear in maps.maps:
        torch.nn.init.normal_(linear.weight)
    share = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.5, 0.5]])  # of each layer in each group
    weight = torch.stack([linear.weight for linear in maps.maps])
    means = torch.einsum("gl,lbtd->gbtd", share, torch.stack(states(8)))
    torch.testing.assert_close(torch.stack(maps.targets(states(8))), means)
    torch.testing.assert_close(torch.stack(maps(states(8))), torch.einsum("gbtd,ged->gbte", means, weight))


@pytest.mark.parametrize("width", [6, 11])
def test_the_teacher_may_be_narrower_or_wider(width):
    mapped = LayerMaps(GROUPS, 8, width)(states(8))[2]
    expected = F.pad(states(8)[2], (0, max(0, width - 8)))[..., :width]
    torch.testing.assert_close(mapped, expected)


def test_heads_read_the_last_layer_alone():
    heads = PredictionHeads(GROUPS, 8, 11)
    before = heads(states(8))
    others = [*states(8, seed=1)[:2], states(8)[2]]
    assert [tuple(x.shape) for x in before] == [(2, 5, 11)] * 3
    assert all(torch.equal(a, b) for a, b in zip(before, heads(others)))


@pytest.mark.parametrize("form", ["raw", "log_sigmoid"])
def test_the_loss_is_torch_s_when_nothing_is_padded(form):
    mine, other = states(8), states(8, seed=1)
    total, parts, frames = DistillationLoss(0.7, 0.3, 0.2, form)(mine, other, None)
    x, y = torch.stack(mine), torch.stack(other)
    cosine = F.cosine_similarity(x, y, dim=-1)
    expected = {
        "l1": F.l1_loss(x, y),
        "cosine": (1 - cosine).mean() if form == "raw" else -cosine.sigmoid().log().mean(),
        "mse": F.mse_loss(x, y),
    }
    assert frames == 10 and set(parts) == set(expected)
    for name, part in parts.items():
        torch.testing.assert_close(part / frames, expected[name])
    weighted = 0.7 * expected["l1"] + 0.3 * expected["cosine"] + 0.2 * expected["mse"]
    torch.testing.assert_close(total / frames, weighted)


def test_frames_of_padding_do_not_count():
    mine, other = states(8), states(8, seed=1)
    padding = torch.zeros(2, 5, dtype=torch.bool)
    padding[1, 3:] = True
    total, _, frames = DistillationLoss(mse=1.0)(mine, other, padding)
    assert frames == 8
    for x in (*mine, *other):
        x[1, 3:] = torch.randn(2, 8)
    again, _, _ = DistillationLoss(mse=1.0)(mine, other, padding)
    torch.testing.assert_close(total, again)
    alone = [DistillationLoss(mse=1.0)([x[:1] for x in mine], [y[:1] for y in other], None)[0]]
    alone += [DistillationLoss(mse=1.0)([x[1:, :3] for x in mine], [y[1:, :3] for y in other], None)[0]]
    torch.testing.assert_close(total, sum(alone))


def test_half_precision_is_compared_in_float32():
    mine, other = ([300 * x.half() for x in states(8, seed=seed)] for seed in (0, 1))
    total, _, _ = DistillationLoss(mse=1.0)(mine, other, None)  # squares beyond 65,504
    assert total.dtype == torch.float32 and torch.isfinite(total)


def test_relations_are_inner_products_of_frames_in_a_layer_and_between_two():
    mine, other = torch.stack(states(8)), torch.stack(states(11, seed=1))  # (layers, batch, frames, dim)

    def relations(x, y):
        return torch.einsum("lbtd,lbfd->lbtf", x, y) / x.size(-1)

    within = F.mse_loss(relations(mine, mine), relations(other, other))
    between = F.mse_loss(relations(mine[:-1], mine[1:]), relations(other[:-1], other[1:]))
    for of, expected in (("layers", within), ("between", between), ("both", within + between)):
        torch.testing.assert_close(relation_distances(list(mine), list(other), None, of).mean(), expected)


def test_a_rotation_changes_no_relation():
    rotation = torch.linalg.qr(torch.randn(8, 8))[0]
    mine = states(8)
    assert relation_distances([x @ rotation for x in mine], mine, None).abs().max() < 1e-10


def test_relations_to_padding_do_not_count():
    mine, other = states(8), states(8, seed=1)
    padding = torch.zeros(2, 5, dtype=torch.bool)
    padding[1, 3:] = True
    loss = DistillationLoss(0.0, 0.0, relation=1.0)
    total = loss(mine, other, padding)[0]
    alone = loss([x[:1] for x in mine], [y[:1] for y in other], None)[0]
    alone = alone + loss([x[1:, :3] for x in mine], [y[1:, :3] for y in other], None)[0]
    torch.testing.assert_close(total, alone)


def test_one_layer_has_no_relations_between_layers():
    with pytest.raises(ValueError, match="found 1 layer to learn"):
        relation_distances(states(8)[:1], states(8)[:1], None, "both")
