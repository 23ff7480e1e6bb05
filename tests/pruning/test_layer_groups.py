"""Similarity of layers and their groups, against the kernels' definition and scipy."""

import pytest
import torch

from fairseq_prune.pruning.layer_groups import group_layers, linear_cka


def test_similarity_is_the_alignment_of_centred_kernels():
    torch.manual_seed(0)
    states = torch.randn(3, 20, 6, dtype=torch.float64) + 5
    centring = torch.eye(20, dtype=torch.float64) - 1 / 20
    kernels = [centring @ (x @ x.T) @ centring for x in states]
    found = linear_cka(states)
    for i, one in enumerate(kernels):
        for j, other in enumerate(kernels):
            expected = (one * other).sum() / (one.norm() * other.norm())
            torch.testing.assert_close(found[i, j], expected)


def test_rotation_scale_and_shift_make_no_difference():
    torch.manual_seed(0)
    x = torch.randn(20, 6)
    rotated = 3 * x @ torch.linalg.qr(torch.randn(6, 6))[0] + 1
    assert linear_cka(torch.stack([x, rotated])).min() > 1 - 1e-6


@pytest.mark.parametrize("count", [1, 2, 4, 9])
def test_groups_are_scipy_s_average_linkage(count):
    hierarchy = pytest.importorskip("scipy.cluster.hierarchy")
    distance = pytest.importorskip("scipy.spatial.distance")
    torch.manual_seed(0)
    similarity = linear_cka(torch.randn(9, 30, 4))
    condensed = distance.squareform((1 - similarity).numpy(), checks=False)
    labels = hierarchy.fcluster(hierarchy.linkage(condensed, "average"), count, "maxclust")
    expected = {frozenset(i for i in range(9) if labels[i] == label) for label in labels}
    groups = group_layers(similarity, count)
    assert {frozenset(group) for group in groups} == expected and groups == sorted(groups)


@pytest.mark.parametrize("count", [0, 4])
def test_a_number_of_groups_that_cannot_be_is_refused(count):
    with pytest.raises(ValueError, match=f"found {count}, expected 1 to 3"):
        group_layers(torch.eye(3), count)
