"""A decoder with weights of 8 bits, against the one in float32."""

import torch
from small_whisper import clips, huggingface_whisper, our_names, small_whisper

from fairseq_prune.modules.whisper.int8 import int8_

TOKENS = torch.tensor([[5, 9, 7, 3]])


def outputs(model):
    with torch.inference_mode():
        return model.decoder(TOKENS, model.encoder(*clips(60)))[0]


def test_logits_are_near_those_of_float32():
    weights = our_names(huggingface_whisper())
    expected = outputs(small_whisper(weights))
    model = small_whisper(weights)
    int8_(model.decoder)
    found = outputs(model)
    assert 0 < (found - expected).norm() < 0.05 * expected.norm()


def test_a_step_with_a_cache_is_as_the_whole_text():
    model = small_whisper(our_names(huggingface_whisper()))
    int8_(model.decoder)
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
    int8_(model.decoder)
    assert torch.equal(model.decoder.embed_tokens.weight, weights["decoder.embed_tokens.weight"])
    assert isinstance(model.encoder.layers[0].fc1, torch.nn.Linear)
    assert type(model.decoder.layers[0].encoder_attn.k_proj) is torch.nn.Linear
