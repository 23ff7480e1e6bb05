"""A pruned Whisper that makes up for what is gone: which sums its layers are fitted to, and what comes of it."""

import pytest
import torch
from small_whisper import clips as features_of
from small_whisper import huggingface_whisper, our_names, small_whisper

from fairseq_prune.benchmarks.weight_calibration import Clip
from fairseq_prune.benchmarks.weight_fitting import refitted, residual_sums, whole_masks, whole_name
from fairseq_prune.modules.packed import is_held_in_half


@pytest.fixture(scope="module")
def weights():
    return our_names(huggingface_whisper())


@pytest.fixture(scope="module")
def clips():
    features, lengths = features_of(90, 110, 120, 70)
    texts = torch.randint(10, 200, (4, 25), generator=torch.Generator().manual_seed(1)).tolist()
    return [Clip(row[:length], text, 2) for row, length, text in zip(features, lengths.tolist(), texts)]


def logits(model, clip):
    with torch.no_grad():
        return model(
            clip.features[None], torch.tensor([len(clip.features)]), torch.tensor([clip.tokens[:-1]])
        )[0]


@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_each_sum_is_what_was_heard_before_and_the_output(weights, clips, side):
    model = small_whisper(weights)
    half = getattr(model, side)
    modules, heard, said = dict(half.named_modules()), {}, {}
    sums = residual_sums(half)
    order = [*sums.values()][::-1]  # norms, from the second of the half to the last
    for name in ("layers.0.self_attn_layer_norm", *order):
        modules[name].register_forward_pre_hook(lambda _, inputs, name=name: heard.update({name: inputs[0]}))
    for name in sums:
        layer = name.rpartition(".")[0]
        modules[layer].register_forward_hook(lambda *call, name=name: said.update({name: call[2]}))
    logits(model, clips[0])
    before = "layers.0.self_attn_layer_norm"
    for name in [*sums][::-1]:
        torch.testing.assert_close(heard[sums[name]], heard[before] + said[name])
        before = sums[name]
    assert before == "layer_norm" and len(sums) == len(half.layers) * (2 if side == "encoder" else 3)


@pytest.mark.parametrize(
    "name, whole",
    [
        ("decoder.layers.1.fc1", "decoder.layers.2.fc1"),
        ("decoder.layers.0", "decoder.layers.0"),
        ("decoder.layers.1.self_attn.out_proj.weight", "decoder.layers.2.self_attn.out_proj.weight"),
        ("decoder.layer_norm", "decoder.layer_norm"),
        ("encoder.layers.1.fc1", "encoder.layers.1.fc1"),
    ],
)
def test_the_name_in_the_whole_model(name, whole):
    assert whole_name(name, {"decoder": [0, 2]}) == whole


def test_a_layer_that_adds_the_same_everywhere_can_go_without_a_trace(weights, clips):
    weights = {name: weight.clone() for name, weight in weights.items()}
    for part in ("self_attn.out_proj", "encoder_attn.out_proj", "fc2"):
        weights[f"decoder.layers.1.{part}.weight"].zero_()  # biases stay
    dense = small_whisper(weights)
    kept = {name: w for name, w in weights.items() if not name.startswith("decoder.layers.1.")}
    kept = {name.replace("decoder.layers.2.", "decoder.layers.1."): w for name, w in kept.items()}
    smaller = small_whisper(kept, decoder_layers=2)
    before = {name: weight.clone() for name, weight in smaller.state_dict().items()}
    found = refitted(dense, whole_masks(smaller), clips, smaller, {"decoder": [0, 2]})
    assert all(torch.equal(weight, before[name]) for name, weight in smaller.state_dict().items())
    assert (logits(smaller, clips[0]) - logits(dense, clips[0])).abs().max() > 0.1
    smaller.load_state_dict({**before, **found})
    torch.testing.assert_close(logits(smaller, clips[0]), logits(dense, clips[0]), rtol=1e-3, atol=1e-3)


def test_a_model_that_has_lost_nothing_stays_as_it_is(weights, clips):
    dense = small_whisper(weights)
    found = refitted(dense, whole_masks(dense), clips)
    for name, weight in found.items():
        torch.testing.assert_close(weight, dense.state_dict()[name], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("digits", ["float16", "float32"])
def test_what_is_fitted_has_the_digits_of_the_whole_model(weights, clips, digits):
    if digits == "float16":
        weights = {name: weight.half().float() for name, weight in weights.items()}
    dense = small_whisper(weights)
    masks = whole_masks(dense)
    for mask in masks.values():
        mask[:, ::2] = False
    found = refitted(dense, masks, clips)
    assert all(is_held_in_half(found[name]) == (digits == "float16") for name in masks)
    assert not any(found[name][:, ::2].any() for name in masks)
