"""Magnitude masks, held against torch.nn.utils.prune."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import prune

from fairseq_prune.pruning.magnitude import (
    _histogram,
    _scattered,
    agreement,
    apply_masks,
    check_masks,
    magnitude_masks,
    matching_parameters,
    overlap,
    pack_masks,
    random_masks,
    revived,
    sparsity_of,
    unpack_masks,
)

SPARSITIES = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]


def torch_masks(weights, sparsity):
    """What torch's own pruning keeps."""
    modules = {name: nn.Module() for name in weights}
    for name, module in modules.items():
        module.register_parameter("weight", nn.Parameter(weights[name].clone()))
    pairs = [(module, "weight") for module in modules.values()]
    prune.global_unstructured(pairs, prune.L1Unstructured, amount=sparsity)
    return {name: module.weight_mask.bool() for name, module in modules.items()}


def assert_same(found, expected):
    assert list(found) == list(expected)
    for name in found:
        assert torch.equal(found[name], expected[name]), name


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=4),
    st.sampled_from(SPARSITIES),
    st.integers(0, 999),
)
def test_masks_are_those_of_torch(shapes, sparsity, seed):
    generator = torch.Generator().manual_seed(seed)
    weights = {f"w{i}": torch.randn(shape, generator=generator) for i, shape in enumerate(shapes)}
    assert_same(magnitude_masks(weights, sparsity), torch_masks(weights, sparsity))


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(-3, 3), min_size=1, max_size=60),
    st.integers(0, 60),
    st.floats(0, 1, exclude_max=True),
)
def test_of_equal_magnitudes_the_right_number_is_left_out(values, cut, sparsity):
    values = torch.tensor(values, dtype=torch.float32)
    weights = {"a": values[:cut], "b": values[cut:]}
    masks = magnitude_masks(weights, sparsity)
    kept = torch.cat([masks["a"], masks["b"]])
    assert int((~kept).sum()) == round(sparsity * len(values))
    if kept.any() and not kept.all():
        assert values[kept].abs().min() >= values[~kept].abs().max()


def test_weights_of_the_smallest_magnitudes_are_told_apart():
    # denormal numbers, infinity, and neighbours that differ in the last bit
    one = torch.tensor(1.0)
    more = torch.nextafter(one, torch.tensor(2.0))
    weights = {"a": torch.tensor([float("inf"), -1e-45, 0.0, more, -one])}
    assert magnitude_masks(weights, 0.6)["a"].tolist() == [True, False, False, True, False]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_magnitudes_of_half_precision(dtype):
    weights = {"a": torch.randn(40, 30, generator=torch.Generator().manual_seed(0)).to(dtype)}
    mask = magnitude_masks(weights, 0.5)["a"]
    assert int(mask.sum()) == 600
    assert weights["a"][mask].abs().min() >= weights["a"][~mask].abs().max()


@pytest.mark.parametrize("scope", ["layer", "matrix"])
def test_weights_compete_in_their_scope(scope):
    names = [
        "e.layers.0.fc1.weight",
        "e.layers.0.fc2.weight",
        "e.layers.1.fc1.weight",
        "d.layers.1.fc1.weight",
    ]
    weights = {name: torch.randn(10, 10) * 10**i for i, name in enumerate(names)}
    groups = [names[:2], names[2:3], names[3:]] if scope == "layer" else [[name] for name in names]
    expected = {}
    for group in groups:
        expected.update(torch_masks({name: weights[name] for name in group}, 0.3))
    assert_same(magnitude_masks(weights, 0.3, scope), expected)


def test_random_masks_have_the_exact_sparsity_and_follow_the_seed():
    weights = {"a": torch.randn(17, 13), "b": torch.randn(5)}
    masks = random_masks(weights, 0.5, seed=3)
    assert sum(int((~mask).sum()) for mask in masks.values()) == round(0.5 * (17 * 13 + 5))
    assert_same(random_masks(weights, 0.5, seed=3), masks)
    assert overlap(random_masks(weights, 0.5, seed=4), masks) < 0.6


@settings(max_examples=20, deadline=None)
@given(st.lists(st.booleans(), max_size=40), st.integers(1, 3))
def test_packed_masks_come_back(bits, rows):
    masks = {"a": torch.tensor([bits] * rows, dtype=torch.bool)}
    packed = pack_masks(masks)
    assert_same(unpack_masks(packed), masks)
    assert packed["a"]["bits"].numel() == -(-len(bits) * rows // 8)


def test_broken_masks_are_refused():
    packed = pack_masks({"a": torch.ones(9, dtype=torch.bool)})
    packed["a"]["bits"] = packed["a"]["bits"][:1]
    with pytest.raises(ValueError, match="mask of a: expected its shape, and a bit for each weight"):
        unpack_masks(packed)


def test_figures_of_two_masks():
    first = {"a": torch.tensor([1, 1, 0, 0], dtype=torch.bool), "b": torch.tensor([1, 0], dtype=torch.bool)}
    second = {"a": torch.tensor([1, 0, 1, 0], dtype=torch.bool), "b": torch.tensor([1, 0], dtype=torch.bool)}
    assert overlap(first, second) == 2 / 4
    assert agreement(first, second) == 4 / 6
    assert revived(first, second) == 1 / 3
    assert sparsity_of(first) == 0.5


@pytest.mark.parametrize("pruned", [-1.0, -float("inf"), float("nan")])
def test_applying_leaves_no_negative_zero_and_nothing_infinite(pruned):
    weights = {"a": torch.tensor([pruned, 2.0, -3.0])}
    apply_masks(weights, {"a": torch.tensor([False, True, True])})
    assert weights["a"].tolist() == [0.0, 2.0, -3.0]
    assert not weights["a"][0].signbit()


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 2.0])
def test_a_sparsity_out_of_range_is_refused(sparsity):
    with pytest.raises(ValueError, match=rf"found {sparsity}, expected a share .* in \[0, 1\)"):
        magnitude_masks({"a": torch.ones(3)}, sparsity)


def test_the_published_set():
    layer = nn.Module()
    layer.self_attn = nn.MultiheadAttention(4, 1)
    for name in ("q_proj", "out_proj"):
        setattr(layer.self_attn, name, nn.Linear(4, 4))
    layer.self_attn_layer_norm, layer.fc1 = nn.LayerNorm(4), nn.Linear(4, 4)
    model = nn.Module()
    model.encoder = nn.Module()
    model.encoder.layers, model.fc1 = nn.ModuleList([layer]), nn.Linear(4, 4)
    assert list(matching_parameters(model)) == [
        f"encoder.layers.0.{module}.{kind}"
        for module in ("self_attn.out_proj", "self_attn.q_proj", "fc1")
        for kind in ("weight", "bias")
    ]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [("nothing", "matches no parameter of the model; one of them is weight"), ("(", "no regular expression")],
)
def test_a_pattern_that_finds_nothing_is_refused(pattern, message):
    with pytest.raises(ValueError, match=message):
        matching_parameters(nn.Linear(2, 2), pattern)


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ({"b": torch.ones(2, dtype=torch.bool)}, "m.pt: has b, which the model has not, expected a, ..."),
        ({"a": torch.ones(3, dtype=torch.bool)}, r"m.pt: a has the shape \(3,\), expected \(2,\)"),
    ],
)
def test_masks_of_other_parameters_are_refused(masks, message):
    with pytest.raises(ValueError, match=message):
        check_masks({"a": torch.ones(2)}, masks, "m.pt")


@pytest.mark.slow
def test_masks_of_wav2vec_base_are_those_of_torch():
    shapes = {f"self_attn.{name}_proj": (768, 768) for name in ("k", "v", "q", "out")}
    shapes |= {"fc1": (3072, 768), "fc2": (768, 3072)}
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for layer in range(12):
        for module, shape in shapes.items():
            for kind, size in (("weight", shape), ("bias", shape[:1])):
                # so many numbers tie in float32; these sums of two do so rarely
                values = torch.randn(size, generator=generator, dtype=torch.float64)
                weights[f"layers.{layer}.{module}.{kind}"] = (values * 0.05).float()
    for sparsity in SPARSITIES:
        found, expected = magnitude_masks(weights, sparsity), torch_masks(weights, sparsity)
        assert sparsity_of(found) == sparsity_of(expected)
        differ = torch.cat([weights[name][found[name] != expected[name]] for name in found]).abs()
        assert len(differ.unique()) <= 1  # only among weights that tie with the threshold


def test_digits_are_counted_on_a_gpu_as_on_the_cpu():
    digits = torch.randint(0, 7, (1000,), dtype=torch.int32)
    assert torch.equal(_scattered(digits, 9), _histogram(digits, 9))
