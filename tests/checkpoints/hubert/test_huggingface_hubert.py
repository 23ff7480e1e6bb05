import json

import pytest
import torch
import transformers
from fairseq.models.hubert import HubertModel
from fairseq.tasks.hubert_pretraining import HubertPretrainingConfig
from hubert_files import HF_BASE as BASE
from hubert_files import HF_LARGE as LARGE

from fairseq_prune import compat
from fairseq_prune.checkpoints.hubert.reading import read_hubert
from fairseq_prune.checkpoints.loading import load_state_dict_strictly
from fairseq_prune.modules.hubert.architecture import hubert_config

SIZES = pytest.mark.parametrize("options", [BASE, LARGE], ids=["base", "large"])


def build(options, kind=transformers.HubertModel):
    model = kind(transformers.HubertConfig(**options))
    with torch.no_grad():
        for parameter in model.parameters():  # so that no norm is the identity
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def save(model, folder, form="safetensors", rename=None):
    model.save_pretrained(folder)
    if form == "bin":
        (folder / "model.safetensors").unlink()
        weights = {rename(key) if rename else key: value for key, value in model.state_dict().items()}
        torch.save(weights, folder / "pytorch_model.bin")
    return folder


def change_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@torch.no_grad()
def assert_same_features(folder, model):
    checkpoint = read_hubert(folder)
    fairseq = HubertModel(hubert_config(checkpoint.config), HubertPretrainingConfig(), [None])
    fairseq.remove_pretraining_modules()
    load_state_dict_strictly(fairseq.eval(), checkpoint.state_dict, folder)
    waveform = torch.randn(2, 4000)
    expected = model(waveform).last_hidden_state
    found = fairseq.extract_features(waveform)[0]
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


@SIZES
@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_features_are_those_of_transformers(tmp_path, options, form):
    model = build(options)
    assert_same_features(save(model, tmp_path, form), model)


@SIZES
def test_a_model_fine_tuned_with_ctc(tmp_path, options):
    model = build(options, transformers.HubertForCTC)
    assert_same_features(save(model, tmp_path), model.hubert)


@pytest.mark.parametrize(
    "names",
    [("weight_g", "weight_v"), ("parametrizations.weight.original0", "parametrizations.weight.original1")],
    ids=["weight_norm", "parametrizations"],
)
def test_both_namings_of_a_weight_norm(tmp_path, names):
    model = build(BASE)
    pairs = dict(zip(("parametrizations.weight.original0", "parametrizations.weight.original1"), names))
    pairs.update(zip(("weight_g", "weight_v"), names))

    def rename(key):
        head, found, tail = key.partition("pos_conv_embed.conv.")
        return head + found + pairs.get(tail, tail)

    folder = save(model, tmp_path, "bin", rename)
    assert any(key.endswith(names[0]) for key in torch.load(folder / "pytorch_model.bin", weights_only=True))
    assert_same_features(folder, model)


@pytest.mark.skipif(compat.LEGACY, reason="fairseq 0.12.2 has no conv_pos_batch_norm")
def test_a_batch_norm_before_the_positions_is_kept(tmp_path):
    model = build({**BASE, "conv_pos_batch_norm": True})
    assert_same_features(save(model, tmp_path), model)


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu"])
def test_activations_of_the_layers(tmp_path, activation):
    model = build({**BASE, "hidden_act": activation})
    assert_same_features(save(model, tmp_path), model)


def test_layer_norm_in_the_extractor_goes_with_either_order_of_the_layers(tmp_path):
    model = build({**BASE, "feat_extract_norm": "layer"})
    assert_same_features(save(model, tmp_path), model)


def test_without_a_mask_embedding_masked_frames_are_empty(tmp_path):
    model = build({**BASE, "mask_time_prob": 0.0, "mask_feature_prob": 0.0})
    assert "masked_spec_embed" not in model.state_dict()
    folder = save(model, tmp_path)
    assert torch.equal(read_hubert(folder).state_dict["mask_emb"], torch.zeros(24))
    assert_same_features(folder, model)


def test_the_mask_embedding_is_kept(tmp_path):
    model = build(BASE)
    assert torch.equal(read_hubert(save(model, tmp_path)).state_dict["mask_emb"], model.masked_spec_embed)


@SIZES
def test_normalisation_follows_the_kind_of_model_or_the_feature_extractor(tmp_path, options):
    folder = save(build(options), tmp_path)
    assert read_hubert(folder).normalize is (options is LARGE)
    transformers.Wav2Vec2FeatureExtractor(do_normalize=options is BASE).save_pretrained(folder)
    assert read_hubert(folder).normalize is (options is BASE)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"model_type": "data2vec-audio"}, "model_type is 'data2vec-audio', expected hubert or wav2vec2"),
        ({"add_adapter": True}, "add_adapter is True, but fairseq's HuBERT has False"),
        ({"feat_proj_layer_norm": False}, "feat_proj_layer_norm is False, but fairseq's HuBERT has True"),
        ({"layer_norm_eps": 1e-3}, "layer_norm_eps is 0.001, but fairseq's HuBERT has 1e-05"),
        ({"feat_extract_activation": "relu"}, "feat_extract_activation is 'relu'"),
        ({"hidden_act": "silu"}, "hidden_act is 'silu', fairseq's HuBERT has gelu or gelu_new or relu"),
        ({"feat_extract_norm": "batch"}, "feat_extract_norm is 'batch', fairseq's HuBERT has group or layer"),
        ({"hidden_size": 12}, r"conv_dim ends with hidden_size \(12\)"),
        (
            {"conv_stride": [5, 2]},
            "conv_dim, conv_kernel and conv_stride are .* expected lists of one length",
        ),
        ({"conv_dim": 3}, r"conv_dim, conv_kernel and conv_stride are \[3, .* expected lists of one length"),
        ({"num_attention_heads": 5}, "encoder_attention_heads is 5, not a divisor of 24"),
    ],
)
def test_what_fairseq_cannot_express_is_an_error(tmp_path, changes, message):
    folder = save(build(BASE), tmp_path)
    change_config(folder, **changes)
    with pytest.raises(ValueError, match=rf"config\.json: {message}"):
        read_hubert(folder)


def test_an_unknown_weight_is_an_error(tmp_path):
    model = build(BASE)
    model.adapter = torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"pytorch_model\.bin: unknown weight 'adapter.weight'"):
        read_hubert(save(model, tmp_path, "bin"))


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.json: no such file"):
        read_hubert(tmp_path)
    save(build(BASE), tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"found no model\.safetensors or pytorch_model\.bin"):
        read_hubert(tmp_path)


@pytest.mark.parametrize("content", ["{", "[1]"])
def test_a_config_that_is_no_json_object_is_an_error(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=r"config\.json: "):
        read_hubert(tmp_path)
