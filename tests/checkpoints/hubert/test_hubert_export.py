"""Encoders in the formats of other libraries, each held against that library."""

from types import SimpleNamespace

import pytest
import torch
import torchaudio
from fairseq.models.hubert import HubertConfig
from small_encoder import CHANNELS, make_encoder
from tones import SMALL_HUBERT, write_hubert

from fairseq_prune.checkpoints.formats import formats_of
from fairseq_prune.checkpoints.hubert.dphubert import dphubert_file
from fairseq_prune.checkpoints.hubert.reading import read_hubert
from fairseq_prune.checkpoints.loading import load_state_dict_strictly
from fairseq_prune.modules.hubert.architecture import build_encoder
from fairseq_prune.modules.hubert.convolution import normalize_waveform
from fairseq_prune.modules.hubert.gated import GatedHubert

OPTIONS = SimpleNamespace(int8=False)


def speech(samples=6000):
    torch.manual_seed(1)
    return torch.randn(1, samples)


def outputs(encoder, waveform):
    with torch.no_grad():
        return encoder.layer_outputs(waveform, [waveform.shape[1]])[0]


def export(encoder, name, out):
    formats_of("pruned_hubert")[name].write(encoder, None, out, OPTIONS)
    return out


def torchaudio_tree(config):
    """torchaudio's model with its modules cut to the lists of a DPHuBERT file: another reader of that layout."""
    names = (
        "encoder_num_heads",
        "encoder_ff_interm_features",
        "encoder_use_attention",
        "encoder_use_feed_forward",
    )
    by_layer = list(zip(*(config[name] for name in names)))
    known = torchaudio.models.wav2vec2_model.__code__.co_varnames
    plain = {name: value for name, value in config.items() if name in known}
    dim, head_dim = config["encoder_embed_dim"], config["encoder_head_dim"]
    plain.update(encoder_num_heads=dim // head_dim, encoder_ff_interm_features=8)
    model = torchaudio.models.wav2vec2_model(**plain)
    for layer, (heads, units, attends, feeds) in zip(model.encoder.transformer.layers, by_layer):
        attention, block = layer.attention, layer.feed_forward
        attention.num_heads, attention.head_dim = heads, head_dim
        for name in ("q_proj", "k_proj", "v_proj"):
            setattr(attention, name, torch.nn.Linear(dim, heads * head_dim))
        attention.out_proj = torch.nn.Linear(heads * head_dim, dim)
        block.intermediate_dense = torch.nn.Linear(dim, units)
        block.output_dense = torch.nn.Linear(units, dim)
        if not attends:
            layer.attention = None
        if not feeds:
            layer.feed_forward = None
    return model.eval()


def published_keys(model):
    """Of a torchaudio tree, in the torch of the published files, which had another weight norm."""
    names = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    keys = {"feature_extractor.dummy_weight"}
    for key in model.state_dict():
        for new, old in names.items():
            key = key.replace(new, old)
        keys.add(key)
    return keys


@pytest.mark.parametrize("form", ["base", "large"])
def test_a_dphubert_file_is_torchaudio_s_tree_with_lists(form, tmp_path):
    encoder = make_encoder(form, heads=(3, 0), units=(0, 20), channels=CHANNELS)
    content = torch.load(export(encoder, "dphubert", tmp_path / "x.pth"), weights_only=True)
    config, weights = content["config"], content["state_dict"]
    assert config["encoder_num_heads"] == [3, 1] and config["encoder_ff_interm_features"] == [1, 20]
    assert [layer[0] for layer in config["extractor_conv_layer_config"]] == CHANNELS
    assert config["normalize_waveform"] == (form == "large")
    theirs = torchaudio_tree(config)
    assert set(weights) == published_keys(theirs)
    assert (weights.pop("feature_extractor.dummy_weight") == 1).all()
    theirs.load_state_dict(weights)
    waveform = speech()
    source = normalize_waveform(waveform, [6000]) if form == "large" else waveform
    with torch.no_grad():
        found, _ = theirs.extract_features(source)
    for mine, other in zip(outputs(encoder, waveform)[1:], found):
        torch.testing.assert_close(other, mine, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", ["base", "large"])
def test_a_block_goes_where_not_even_its_bias_is_left(form, tmp_path):
    encoder = make_encoder(form, heads=(4, 0), units=(0, 48))
    encoder.encoder.layers[1].self_attn.out_proj.bias.data.zero_()
    encoder.encoder.layers[0].fc2.bias.data.zero_()
    out = export(encoder, "dphubert", tmp_path / "x.pth")
    content = torch.load(out, weights_only=True)
    assert content["config"]["encoder_use_attention"] == [True, False]
    assert content["config"]["encoder_use_feed_forward"] == [False, True]
    assert set(content["state_dict"]) == published_keys(torchaudio_tree(content["config"]))
    back = read_hubert(out)
    assert back.architecture["pruned"]["heads"] == [4, 0] and back.architecture["pruned"]["units"] == [0, 48]


def test_published_files_keep_the_factors_of_their_last_convolution(tmp_path):
    """Theirs are in front of the layer norm, as a parameter that ours does without."""
    content = torch.load(export(make_encoder(), "dphubert", tmp_path / "x.pth"), weights_only=True)
    factors = torch.rand(16) + 0.5
    content["state_dict"]["feature_extractor.dummy_weight"] = factors
    torch.save(content, tmp_path / "published.pth")
    checkpoint = read_hubert(tmp_path / "published.pth")
    encoder = build_encoder(checkpoint.architecture).eval()
    load_state_dict_strictly(encoder, checkpoint.state_dict, "")
    theirs = torchaudio_tree(content["config"])
    theirs.load_state_dict({k: v for k, v in content["state_dict"].items() if "dummy" not in k})
    theirs.feature_extractor.register_forward_hook(lambda module, args, out: (out[0] * factors, out[1]))
    with torch.no_grad():
        expected, _ = theirs.extract_features(speech())
    torch.testing.assert_close(outputs(encoder, speech())[-1], expected[-1], rtol=1e-4, atol=1e-5)
    again = torch.load(export(encoder, "dphubert", tmp_path / "again.pth"), weights_only=True)
    torch.testing.assert_close(again["state_dict"]["feature_extractor.dummy_weight"], factors)


def test_wavlm_has_its_positions_in_the_first_attention(tmp_path):
    encoder = make_encoder(heads=(0, 3), units=(48, 20), relative_buckets=32, relative_distance=64)
    gate = encoder.relative_position.layers["1"]
    gate.heads = torch.tensor([0, 2, 3])
    out = export(encoder, "dphubert", tmp_path / "x.pth")
    content = torch.load(out, weights_only=True)
    assert content["config"]["encoder_remaining_heads"] == [[0], [0, 2, 3]]
    assert content["config"]["encoder_total_num_heads"] == [4, 4]
    layer = "encoder.transformer.layers.{}.attention."
    shapes = {key: tuple(value.shape) for key, value in content["state_dict"].items() if "attention." in key}
    expected = {layer.format(0) + "rel_attn_embed.weight": (32, 4)}
    for index, heads in enumerate((1, 3)):
        name = layer.format(index)
        for part in ("q_proj", "k_proj", "v_proj"):
            expected.update({f"{name}{part}.weight": (8 * heads, 32), f"{name}{part}.bias": (8 * heads,)})
        expected.update({f"{name}out_proj.weight": (32, 8 * heads), f"{name}out_proj.bias": (32,)})
        expected.update({f"{name}gru_rel_pos_linear.weight": (8, 8), f"{name}gru_rel_pos_linear.bias": (8,)})
        expected[f"{name}gru_rel_pos_const"] = (1, 4, 1, 1)
    assert shapes == expected
    back = read_hubert(out)
    assert back.architecture["pruned"]["heads"] == [1, 3]
    torch.testing.assert_close(back.state_dict["relative_position.layers.1.scale"], gate.scale)


@pytest.mark.parametrize("form", ["base", "large"])
@pytest.mark.parametrize("channels", [None, CHANNELS], ids=["uncut", "fewer channels"])
def test_torchaudio_loads_what_has_one_shape(form, channels, tmp_path):
    encoder = make_encoder(form, channels=channels)
    content = torch.load(export(encoder, "torchaudio", tmp_path / "x.pth"), weights_only=True)
    theirs = torchaudio.models.wav2vec2_model(**content["config"]).eval()
    theirs.load_state_dict(content["state_dict"])
    source = normalize_waveform(speech(), [6000]) if content["normalize_waveform"] else speech()
    with torch.no_grad():
        torch.testing.assert_close(theirs(source)[0], encoder(speech(), [6000]).x, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", ["base", "large"])
def test_transformers_loads_what_has_one_shape(form, tmp_path):
    transformers = pytest.importorskip("transformers", reason="in the extra 'test' of the current stack only")
    encoder = make_encoder(form, channels=CHANNELS)
    out = export(encoder, "hf", tmp_path / "hf")
    theirs = transformers.HubertModel.from_pretrained(out).eval()
    extractor = transformers.AutoFeatureExtractor.from_pretrained(out)
    source = extractor(speech()[0].numpy(), sampling_rate=16000, return_tensors="pt").input_values
    with torch.no_grad():
        found = theirs(source).last_hidden_state
    torch.testing.assert_close(found, encoder(speech(), [6000]).x, rtol=1e-3, atol=1e-4)
    assert read_hubert(out).config["conv_feature_layers"] == encoder.cfg.conv_feature_layers


@pytest.mark.parametrize("name", ["torchaudio", "hf"])
def test_what_has_no_one_shape_is_refused_with_what_to_use(name, tmp_path):
    for encoder in (make_encoder(heads=(4, 3)), make_encoder(heads=(2, 2)), make_encoder(units=(0, 0))):
        with pytest.raises(ValueError, match="layers of one shape.*use --format dphubert or onnx"):
            export(encoder, name, tmp_path / "x")
    wavlm = make_encoder(relative_buckets=32, relative_distance=64)
    with pytest.raises(ValueError, match="no gated relative positions"):
        export(wavlm, name, tmp_path / "x")


def test_gates_have_to_be_cut_first(tmp_path):
    gated = GatedHubert(HubertConfig(label_rate=50.0, **SMALL_HUBERT))
    with pytest.raises(ValueError, match=r"still has gates.*compress_hubert.py"):
        export(gated, "dphubert", tmp_path / "x")


def test_another_activation_is_refused(tmp_path):
    encoder = make_encoder()
    encoder.cfg.activation_fn = "relu"
    with pytest.raises(ValueError, match="no activation_fn but gelu, found relu"):
        export(encoder, "dphubert", tmp_path / "x")


def test_a_difference_is_an_error(tmp_path, monkeypatch):
    encoder = make_encoder()
    monkeypatch.setattr(
        "fairseq_prune.checkpoints.hubert.export.expected_output", lambda *_: torch.ones(1, 49, 32)
    )
    with pytest.raises(ValueError, match="gives other outputs than the model"):
        export(encoder, "torchaudio", tmp_path / "x")


@pytest.mark.parametrize(
    ("entry", "value", "message"),
    [
        ("encoder_head_dim", None, "no file of DPHuBERT: it has no 'encoder_head_dim'"),
        ("encoder_head_dim", 0, "encoder_head_dim is 0, expected a whole number above 0"),
        ("extractor_mode", "batch_norm", "extractor_mode is 'batch_norm', expected group_norm or layer_norm"),
        ("encoder_num_heads", 4, "encoder_num_heads is 4, expected a list of whole numbers"),
        ("encoder_num_heads", [4], "encoder_num_heads is [4], expected one for each of the 2 layers"),
        (
            "encoder_use_attention",
            [1, 1],
            "encoder_use_attention is [1, 1], expected a list of true or false",
        ),
        ("extractor_conv_layer_config", [(8, 10)], "expected (channels, kernel, stride) of each layer"),
        ("normalize_waveform", "no", "normalize_waveform is 'no', expected true or false"),
    ],
)
def test_a_published_file_with_a_bad_entry_is_named(entry, value, message, tmp_path):
    content = dphubert_file(make_encoder())
    content["config"][entry] = value
    if value is None:
        del content["config"][entry]
    torch.save(content, tmp_path / "y.pth")
    with pytest.raises(ValueError) as caught:
        read_hubert(tmp_path / "y.pth")
    assert str(caught.value).startswith(f"{tmp_path}/y.pth: ") and message in str(caught.value)


def test_heads_that_a_published_wavlm_cannot_have_are_named(tmp_path):
    content = dphubert_file(make_encoder(relative_buckets=32, relative_distance=64))
    content["config"]["encoder_remaining_heads"][1] = [0, 4]
    torch.save(content, tmp_path / "y.pth")
    with pytest.raises(ValueError, match="encoder_remaining_heads is .* expected some of the heads 0 to 3"):
        read_hubert(tmp_path / "y.pth")


def test_a_hubert_that_was_never_cut_goes_through_too(tmp_path):
    checkpoint = read_hubert(write_hubert(tmp_path / "hubert.pt"))
    encoder = build_encoder(checkpoint.architecture).eval()
    load_state_dict_strictly(encoder, checkpoint.state_dict, "")
    back = read_hubert(export(encoder, "dphubert", tmp_path / "x.pth"))
    for name, value in checkpoint.state_dict.items():
        if name != "mask_emb":
            assert torch.equal(back.state_dict[name], value), name
