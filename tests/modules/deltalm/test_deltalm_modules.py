import copy

import pytest
import torch
import torch.nn.functional as F
from fairseq.data import Dictionary

from fairseq_prune.modules import onednn
from fairseq_prune.modules.deltalm.model import DeltaLMDecoder, DeltaLMEncoder
from fairseq_prune.modules.deltalm.settings import DeltaLMSettings, transformer_config

DIM, HEADS, FRAMES = 16, 4, 7


def dictionary(size=30):
    symbols = Dictionary()
    for index in range(size):
        symbols.add_symbol(f"piece{index}")
    return symbols


def settings(**changes):
    sizes = {
        "embed_dim": DIM,
        "ffn_embed_dim": 24,
        "attention_heads": HEADS,
        "encoder_layers": 3,
        "decoder_layers": 2,
        "max_source_positions": 20,
        "max_target_positions": 20,
    }
    return DeltaLMSettings(**{**sizes, **changes})


def randomize(module):
    """Weights at which every part of the network has a visible say (layer norms do not start at 1 and 0)."""
    torch.manual_seed(3)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, mean=0.0 if parameter.dim() > 1 else 0.5, std=0.4)
    return module.eval()


def decoder(**changes):
    return randomize(DeltaLMDecoder.build(settings(**changes), dictionary()))


def encoder(**changes):
    return randomize(DeltaLMEncoder.build(settings(**changes), dictionary()))


def memory(batch=2, lengths=(FRAMES, 4)):
    """A speech encoder's output: (frames, batch, dim) and its padding mask."""
    torch.manual_seed(5)
    padding_mask = torch.arange(FRAMES) >= torch.tensor(lengths)[:, None]
    return {"encoder_out": [torch.randn(FRAMES, batch, DIM)], "encoder_padding_mask": [padding_mask]}


def tokens(batch=2, length=6):
    torch.manual_seed(7)
    return torch.cat([torch.full((batch, 1), 2), torch.randint(4, 30, (batch, length - 1))], dim=1)


@pytest.mark.parametrize("normalize_before", [False, True])
def test_incremental_decoding_equals_full_decoding(normalize_before):
    model, prefix, encoder_out = decoder(normalize_before=normalize_before), tokens(), memory()
    full, _ = model(prefix, encoder_out=encoder_out)
    state = {}
    steps = [
        model(prefix[:, :length], encoder_out=encoder_out, incremental_state=state)[0]
        for length in range(1, prefix.size(1) + 1)
    ]
    torch.testing.assert_close(torch.cat(steps, dim=1), full)


def test_cross_attention_projects_the_memory_once_a_sentence():
    model, encoder_out = decoder(), memory()
    projections = []
    model.layers[0].encoder_attn.k_proj.register_forward_hook(lambda *_: projections.append(1))
    state = {}
    for length in range(1, 5):
        model(tokens()[:, :length], encoder_out=encoder_out, incremental_state=state)
    assert len(projections) == 1


def attention_by_hand(weights, name, query, memory, mask):
    """(target, batch, dim) by plain matrix products; `mask` (batch, target, memory) is True where hidden."""

    def heads(x, projection):
        x = x @ weights[f"{name}.{projection}.weight"].T + weights[f"{name}.{projection}.bias"]
        return x.view(x.size(0), x.size(1), HEADS, DIM // HEADS).permute(1, 2, 0, 3)

    q, k, v = heads(query, "q_proj"), heads(memory, "k_proj"), heads(memory, "v_proj")
    scores = q @ k.transpose(2, 3) / (DIM // HEADS) ** 0.5
    x = scores.masked_fill(mask[:, None], float("-inf")).softmax(-1) @ v
    x = x.permute(2, 0, 1, 3).reshape(query.shape)
    return x @ weights[f"{name}.out_proj.weight"].T + weights[f"{name}.out_proj.bias"]


@pytest.mark.parametrize("normalize_before", [False, True])
def test_decoder_layer_interleaves_two_feed_forward_blocks_with_the_attentions(normalize_before):
    layer = decoder(normalize_before=normalize_before).layers[0]
    weights, encoder_out = layer.state_dict(), memory()
    x = torch.randn(5, 2, DIM)
    future = torch.ones(5, 5).triu(1).bool()
    found, _, _ = layer(
        x,
        encoder_out["encoder_out"][0],
        encoder_out["encoder_padding_mask"][0],
        self_attn_mask=torch.zeros(5, 5).masked_fill(future, float("-inf")),
    )

    def norm(x, name):
        return F.layer_norm(x, (DIM,), weights[f"{name}.weight"], weights[f"{name}.bias"])

    def feed_forward(x, inner, outer):
        x = F.gelu(x @ weights[f"{inner}.weight"].T + weights[f"{inner}.bias"])
        return x @ weights[f"{outer}.weight"].T + weights[f"{outer}.bias"]

    hidden = encoder_out["encoder_padding_mask"][0][:, None].expand(2, 5, FRAMES)
    blocks = [
        ("self_attn_layer_norm", lambda y: attention_by_hand(weights, "self_attn", y, y, future[None])),
        ("ffn_layer_norm", lambda y: feed_forward(y, "fc3", "fc4")),
        (
            "encoder_attn_layer_norm",
            lambda y: attention_by_hand(weights, "encoder_attn", y, encoder_out["encoder_out"][0], hidden),
        ),
        ("final_layer_norm", lambda y: feed_forward(y, "fc1", "fc2")),
    ]
    for name, block in blocks:
        x = x + block(norm(x, name)) if normalize_before else norm(x + block(x), name)
    torch.testing.assert_close(found, x)


def test_decoder_takes_a_memory_without_padding_mask():
    model, encoder_out = decoder(), memory(lengths=(FRAMES, FRAMES))
    unmasked = {"encoder_out": encoder_out["encoder_out"], "encoder_padding_mask": []}
    torch.testing.assert_close(model(tokens(), unmasked)[0], model(tokens(), encoder_out)[0])


def test_inference_on_onednn_gives_the_logits_of_torchs_own_functions():
    model, out = decoder(), memory()
    with torch.inference_mode():
        fast, _ = model(tokens(), encoder_out=out)
        with onednn.torchs_own():
            slow, _ = model(tokens(), encoder_out=out)
    torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-4)


def test_padded_frames_do_not_change_the_logits():
    model, encoder_out = decoder(), memory(lengths=(4, 4))
    cut = {"encoder_out": [encoder_out["encoder_out"][0][:4]], "encoder_padding_mask": []}
    torch.testing.assert_close(model(tokens(), encoder_out)[0], model(tokens(), cut)[0])


def test_decoder_returns_the_cross_attention_of_its_last_layer():
    encoder_out = memory()
    attention = decoder()(tokens(), encoder_out)[1]["attn"][0]
    assert attention.shape == (2, 6, FRAMES)
    torch.testing.assert_close(attention.sum(-1), torch.ones(2, 6))
    assert attention[1, :, 4:].eq(0).all()


@pytest.mark.parametrize("changes", [{}, {"normalize_before": True}, {"activation_fn": "relu"}])
def test_forward_layers_on_embedded_text_equals_the_encoder_on_text(changes):
    model, source = encoder(**changes), tokens()
    model.load_state_dict(model.state_dict())  # fairseq 0.12.2: only loaded models take its fast path
    source[1, 4:] = model.padding_idx
    expected = model(source)["encoder_out"][0].transpose(0, 1)
    padding_mask = source.eq(model.padding_idx)
    found = model.forward_layers(model.forward_embedding(source)[0], padding_mask)
    torch.testing.assert_close(found[~padding_mask], expected[~padding_mask])


def test_encoder_layer_holds_every_weight_once():
    ffn, projection, norm = 24, DIM * DIM + DIM, 2 * DIM
    expected = 4 * projection + (DIM * ffn + ffn) + (ffn * DIM + DIM) + 2 * norm
    assert sum(weight.numel() for weight in encoder().layers[0].state_dict().values()) == expected


def test_forward_layers_starts_at_the_first_layer_asked_for():
    model, frames = encoder(), torch.randn(2, FRAMES, DIM)
    padding_mask = memory()["encoder_padding_mask"][0]
    below = frames.transpose(0, 1)
    for layer in model.layers[:2]:
        below = layer(below, encoder_padding_mask=padding_mask)
    torch.testing.assert_close(
        model.forward_layers(below.transpose(0, 1), padding_mask, first_layer=2),
        model.forward_layers(frames, padding_mask),
    )


@pytest.mark.parametrize("normalize_before", [False, True])
def test_kept_layers_do_what_they_did_in_the_whole_encoder(normalize_before):
    whole = encoder(normalize_before=normalize_before)
    kept, frames = copy.deepcopy(whole), torch.randn(2, FRAMES, DIM)
    kept.keep_layers(1)
    torch.testing.assert_close(kept.forward_layers(frames), whole.forward_layers(frames, first_layer=1))
    assert not [name for name, _ in kept.named_parameters() if not name.startswith("layer")]
    assert len(kept.layers) == kept.num_layers == 2


def test_layerdrop_skips_layers_only_in_training():
    model, frames = encoder(layerdrop=0.999999), torch.randn(2, FRAMES, DIM)
    torch.testing.assert_close(model.train().forward_layers(frames), frames)
    torch.testing.assert_close(
        model.eval().forward_layers(frames), encoder(layerdrop=0.0).forward_layers(frames)
    )


def test_forward_in_half_precision_is_close_to_single(half_dtype):
    text, target = encoder(), decoder()
    expected = target(tokens(), encoder_out=text(tokens()))[0]
    text, target = text.to(half_dtype), target.to(half_dtype)
    found = target(tokens(), encoder_out=text(tokens()))[0]
    assert found.dtype == half_dtype
    relative = (found.float() - expected).norm() / expected.norm()
    assert relative < (0.01 if half_dtype == torch.float16 else 0.06)


def test_recomputed_activations_give_the_same_gradients():
    gradients = []
    for checkpoint_activations in (False, True):
        model = decoder(checkpoint_activations=checkpoint_activations, dropout=0.0).train()
        model(tokens(), encoder_out=memory())[0].sum().backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
    torch.testing.assert_close(*gradients)


def test_state_of_another_dictionary_of_the_same_size_is_refused():
    model = DeltaLMDecoder.build(settings(), dictionary())
    other = dictionary(0)
    for index in reversed(range(30)):
        other.add_symbol(f"piece{index}")
    state = DeltaLMDecoder.build(settings(), other).state_dict()
    with pytest.raises(ValueError, match=r"decoder: .* another dictionary .* 34 symbols"):
        model.upgrade_state_dict_named({f"decoder.{key}": value for key, value in state.items()}, "decoder")


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"attention_heads": 3}, "multiple of attention_heads, found 16 and 3"),
        ({"decoder_layers": 0}, "decoder_layers must be at least 1, found 0"),
        ({"dropout": 1.5}, r"dropout must lie in \[0, 1\), found 1.5"),
    ],
)
def test_settings_that_make_no_model_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        transformer_config(settings(**changes))
