"""Digital silence in training, with weights as they are initialised."""

import pytest
import torch
from fairseq.models.hubert import HubertConfig
from hubert_models import FORMS, SIZES
from small_speech_model import make_model
from torch import nn

from fairseq_prune.modules.constant_frames import rest_in_constant_frames
from fairseq_prune.modules.hubert.encoder import TokenPrunedHubert
from fairseq_prune.modules.hubert.gated import GatedHubert

SAME_WIDTH = {"conv_feature_layers": "[(64,10,5)] + [(64,3,2)] * 4 + [(64,2,2)] * 2", "encoder_layers": 12}
FORMS_OF_SILENCE = {
    "layer norms in the extractor": {**FORMS["large"], "conv_bias": False},
    "no projection before the layers": SAME_WIDTH,
    "layer norms everywhere": {**SAME_WIDTH, "extractor_mode": "layer_norm"},
}


def largest_gradient(model, loss):
    loss.backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    return max(float(gradient.abs().max()) for gradient in gradients)


@pytest.mark.parametrize("form", FORMS_OF_SILENCE)
@pytest.mark.parametrize("kind", [TokenPrunedHubert, GatedHubert])
def test_silence_makes_small_gradients(form, kind):
    torch.manual_seed(0)
    encoder = kind(HubertConfig(**{**SIZES, **FORMS_OF_SILENCE[form]}), normalize=True).train()
    x = encoder(torch.zeros(2, 8000), [8000, 6000]).x
    assert largest_gradient(encoder, (x * torch.randn_like(x)).sum()) < 1e5


def test_silence_makes_small_gradients_in_translation():
    model = make_model().train()
    targets = torch.tensor([[2, 5, 6], [2, 7, 8]])
    net_input = {"src_tokens": torch.zeros(2, 8000), "src_lengths": torch.tensor([8000, 6000])}
    logits = model(**net_input, prev_output_tokens=targets)[0]
    assert largest_gradient(model, logits.log_softmax(-1)[..., 3].sum()) < 1e5


def test_other_frames_and_the_residual_keep_their_gradients():
    torch.manual_seed(0)
    x = torch.randn(2, 5, 8)
    x[0, 2] = 3.0
    held, plain = nn.LayerNorm(8), nn.LayerNorm(8)
    rest_in_constant_frames(held)
    gradients = []
    for norm in (held, plain):
        given = x.clone().requires_grad_()
        (given + (norm(given) * torch.arange(8.0))).square().sum().backward()
        gradients.append(given.grad)
        norm_only = torch.autograd.grad((norm(given) * torch.arange(8.0)).sum(), given)[0]
        gradients.append(norm_only)
    assert torch.equal(held(x), plain(x))
    others = torch.ones(2, 5, dtype=torch.bool)
    others[0, 2] = False
    assert torch.allclose(gradients[0][others], gradients[2][others])
    assert not gradients[1][0, 2].any() and gradients[3][0, 2].any()
    assert gradients[0][0, 2].any()
