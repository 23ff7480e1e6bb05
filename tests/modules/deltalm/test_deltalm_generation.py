"""A decoder made ready for generation, against fairseq's own attention and torch's linear layers."""

import pytest
import torch
from fairseq.modules import MultiheadAttention
from test_deltalm_modules import DIM, FRAMES, HEADS, decoder, memory, tokens

from fairseq_prune.benchmarks.converting import round_weights_
from fairseq_prune.compat import HAS_HALF_PRODUCTS
from fairseq_prune.modules.deltalm.generation import (
    GenerationCrossAttention,
    GenerationSelfAttention,
    prepare_for_generation_,
)
from fairseq_prune.modules.packed import HalfLinear


def attentions(own):
    """fairseq's attention of random weights, with biases, and ours."""
    torch.manual_seed(0)
    kind = "self_attention" if own else "encoder_decoder_attention"
    theirs = MultiheadAttention(DIM, HEADS, **{kind: True}).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return theirs, (GenerationSelfAttention if own else GenerationCrossAttention)(theirs, False)


def near(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_self_attention_by_steps_with_padding_that_comes_and_goes_and_rows_that_change_places():
    theirs, ours = attentions(own=True)
    paddings = [None, torch.tensor([[True], [False], [False]]), None, torch.tensor([[False], [True]])]
    orders = [torch.tensor([1, 1, 0]), torch.tensor([0, 1, 2]), torch.tensor([2, 0]), torch.tensor([1, 0])]
    states, rows = ({}, {}), 3
    for padding, order in zip(paddings, orders):
        x = torch.randn(1, rows, DIM)
        expected, found = (
            module(x, x, x, key_padding_mask=padding, incremental_state=state, need_weights=False)[0]
            for module, state in zip((theirs, ours), states)
        )
        near(found, expected)
        for module, state in zip((theirs, ours), states):
            module.reorder_incremental_state(state, order)
        rows = len(order)


@torch.inference_mode()
def test_self_attention_over_a_whole_text():
    theirs, ours = attentions(own=True)
    x, future = torch.randn(5, 2, DIM), torch.full((5, 5), -torch.inf).triu(1)
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    expected = theirs(x, x, x, key_padding_mask=padding, attn_mask=future)[0]
    near(ours(x, x, x, key_padding_mask=padding, attn_mask=future)[0], expected)


@pytest.mark.parametrize("beams", [1, 3])
@torch.inference_mode()
def test_cross_attention_by_steps_in_which_a_sentence_leaves(beams):
    theirs, ours = attentions(own=False)
    theirs.set_beam_size(beams)
    frames, padding = torch.randn(FRAMES, 2, DIM), torch.arange(FRAMES) >= torch.tensor([[FRAMES], [4]])
    states, stay = ({}, {}), torch.arange(beams, 2 * beams)  # the second sentence's
    for rows, mask, order in (
        (2 * beams, padding, torch.arange(2 * beams).view(2, beams).flip(1).flatten()),  # within sentences
        (2 * beams, padding, stay),
        (beams, padding[1:], torch.arange(beams)),
    ):
        x = torch.randn(1, rows, DIM)
        options = {"key_padding_mask": mask, "static_kv": True, "need_head_weights": True}
        (expected, theirs_weights), (found, weights) = (
            module(x, frames, frames, incremental_state=state, **options)
            for module, state in zip((theirs, ours), states)
        )
        near(found, expected)
        near(weights, theirs_weights)
        for module, state in zip((theirs, ours), states):
            module.reorder_incremental_state(state, order)


@torch.inference_mode()
def test_weights_averaged_over_heads_of_a_whole_text():
    theirs, ours = attentions(own=False)
    x, frames = torch.randn(5, 2, DIM), torch.randn(FRAMES, 2, DIM)
    (expected, theirs_weights), (found, weights) = (module(x, frames, frames) for module in (theirs, ours))
    near(found, expected)
    near(weights, theirs_weights)
    assert ours(x, frames, frames, need_weights=False)[1] is None


@pytest.mark.parametrize("digits", ["float32", "float16"])
@pytest.mark.parametrize("normalize_before", [False, True])
@torch.inference_mode()
def test_a_decoder_made_ready_gives_the_same_logits(normalize_before, digits):
    plain = decoder(normalize_before=normalize_before)
    if digits == "float16":
        round_weights_(plain)
    expected = plain(tokens(), memory())[0]
    prepare_for_generation_(plain)
    assert isinstance(plain.layers[0].fc1, HalfLinear) is (digits == "float16" and HAS_HALF_PRODUCTS)
    near(plain(tokens(), memory())[0], expected)
    state = {}
    steps = [plain(tokens()[:, : end + 1], memory(), state)[0][:, -1] for end in range(tokens().size(1))]
    near(torch.stack(steps, 1), expected)


@torch.inference_mode()
def test_logits_in_8_bits_are_near_those_of_float32():
    plain = decoder()
    embedding = plain.embed_tokens.weight.clone()
    expected = plain(tokens(), memory())[0]
    prepare_for_generation_(plain, int8=True)
    found = plain(tokens(), memory())[0]
    assert 0 < (found - expected).norm() < 0.05 * expected.norm()
    assert torch.equal(plain.embed_tokens.weight, embedding)


def test_layers_that_somebody_listens_to_stay():
    plain = decoder()
    plain.layers[0].self_attn.q_proj.register_forward_hook(lambda *args: None)
    prepare_for_generation_(plain)
    assert isinstance(plain.layers[0].self_attn, MultiheadAttention)
    assert isinstance(plain.layers[0].encoder_attn, GenerationCrossAttention)
