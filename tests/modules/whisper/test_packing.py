"""A decoder made ready for generation, against the one of plain layers."""

import pytest
import torch
from small_whisper import clips, huggingface_whisper, our_names, small_whisper

from fairseq_prune.compat import HAS_HALF_PRODUCTS, HAS_ONEDNN_PRODUCTS
from fairseq_prune.modules.packed import HalfLinear, PackedLinear
from fairseq_prune.modules.whisper.packing import prepare_for_generation_

TOKENS = torch.tensor([[5, 9, 7, 3]])


def outputs(model):
    with torch.inference_mode():
        return model.decoder(TOKENS, model.encoder(*clips(60)))[0]


@pytest.mark.parametrize("digits", ["float32", "float16"])
def test_packed_logits_are_those_of_plain_layers(digits):
    weights = our_names(huggingface_whisper())
    if digits == "float16":
        weights = {name: weight.half().float() for name, weight in weights.items()}
    expected = outputs(small_whisper(weights))
    model = small_whisper(weights)
    model.make_generation_fast_()
    in_half = digits == "float16" and HAS_HALF_PRODUCTS
    for layer in (model.decoder.layers[0].fc1, model.decoder.layers[0].self_attn.in_proj):
        assert isinstance(layer, HalfLinear) is in_half
        assert isinstance(layer, PackedLinear) is (HAS_ONEDNN_PRODUCTS and not in_half)
    torch.testing.assert_close(outputs(model), expected, rtol=1e-4, atol=1e-5)


def test_logits_of_8_bits_are_near_those_of_float32():
    weights = our_names(huggingface_whisper())
    expected = outputs(small_whisper(weights))
    model = small_whisper(weights)
    prepare_for_generation_(model.decoder, int8=True)
    found = outputs(model)
    assert 0 < (found - expected).norm() < 0.05 * expected.norm()


def test_a_step_with_a_cache_is_as_the_whole_text():
    model = small_whisper(our_names(huggingface_whisper()))
    prepare_for_generation_(model.decoder, int8=True)
    whole = outputs(model)
    state = {}
    with torch.inference_mode():
        heard = model.encoder(*clips(60))
        steps = [model.decoder(TOKENS[:, : end + 1], heard, state)[0][:, -1] for end in range(TOKENS.size(1))]
    # activations are quantised by call: a step has other scales than the whole text
    assert (torch.stack(steps, 1) - whole).norm() < 0.03 * whole.norm()


def test_embedding_and_encoder_stay_as_they_are():
    weights = our_names(huggingface_whisper())
    model = small_whisper(weights)
    prepare_for_generation_(model.decoder, int8=True)
    assert torch.equal(model.decoder.embed_tokens.weight, weights["decoder.embed_tokens.weight"])
    assert isinstance(model.encoder.layers[0].fc1, torch.nn.Linear)
    assert type(model.decoder.layers[0].encoder_attn.k_proj) is torch.nn.Linear
