import argparse
import json
import re

import pytest
import torch
from fairseq.models.hubert import HubertConfig, HubertCtc, HubertModel
from fairseq.tasks.hubert_pretraining import HubertPretrainingConfig
from hubert_files import BASE, CONV, LARGE, pretrained, random_weights, save, sections
from omegaconf import OmegaConf

from fairseq_prune import compat
from fairseq_prune.checkpoints.hubert.reading import read_hubert
from fairseq_prune.checkpoints.loading import load_state_dict_strictly
from fairseq_prune.modules.hubert.architecture import (
    ARCHITECTURE,
    hubert_config,
    parse_conv_layers,
)

SIZES = pytest.mark.parametrize("options", [BASE, LARGE], ids=["base", "large"])


def rebuild(checkpoint):
    """A fairseq model from the checkpoint's own fields, after a round trip through JSON."""
    config = hubert_config(json.loads(json.dumps(checkpoint.config)))
    model = HubertModel(config, HubertPretrainingConfig(), [None])
    model.remove_pretraining_modules()
    load_state_dict_strictly(model, checkpoint.state_dict, "test")
    return model.eval()


@torch.no_grad()
def features(model, waveform):
    return model.extract_features(waveform)[0]


def assert_same_features(checkpoint, model):
    waveform = torch.randn(1, 4000)
    assert torch.equal(features(rebuild(checkpoint), waveform), features(model, waveform))


@SIZES
@pytest.mark.parametrize("form", ["dict", "omegaconf", "args"])
def test_a_pretrained_checkpoint_of_fairseq(tmp_path, options, form):
    model, config, dictionary = pretrained(options)
    normalize = options is LARGE
    cfg = sections(config, normalize)
    if form == "args":
        args = argparse.Namespace(
            **{**cfg["task"], **cfg["model"], "arch": "hubert", "task": "hubert_pretraining"}
        )
        del args._name
        written = {"args": args}
    else:
        written = {"cfg": cfg if form == "dict" else OmegaConf.create(cfg)}
    path = save(tmp_path / "a.pt", model, task_state={"dictionaries": [dictionary]}, **written)
    checkpoint = read_hubert(path)
    assert checkpoint.normalize is normalize
    assert set(checkpoint.config) == set(ARCHITECTURE)
    dropped = set(model.state_dict()) - set(checkpoint.state_dict)
    heads = {"final_proj", "target_glu", "label_embs_concat"}
    assert {key.split(".")[0] for key in dropped} == heads
    assert_same_features(checkpoint, model)


class FineTuned(torch.nn.Module):
    """The layout of the encoder in fairseq's HubertCtc, which fairseq-fixed 0.12.3.1 cannot build by itself."""

    def __init__(self, w2v_model):
        super().__init__()
        self.w2v_model = w2v_model
        self.proj = torch.nn.Linear(24, 7)


@SIZES
@pytest.mark.parametrize("form", ["dict", "namespaces", "old args"])
def test_a_checkpoint_fine_tuned_with_ctc(tmp_path, options, form):
    model, config, dictionary = pretrained(options, target_glu=False)
    pretraining = sections(config, normalize=True)
    model.final_proj = None  # fairseq removes this one, and leaves label_embs_concat
    cfg = {
        "model": {"_name": "hubert_ctc", "w2v_path": "/gone.pt", "dropout": 0.0, "w2v_args": pretraining},
        "task": {"_name": "hubert_pretraining", "normalize": True},
    }
    written = {"cfg": cfg}
    if form == "namespaces":
        old = argparse.Namespace(**pretraining["model"], normalize=True)
        cfg["model"] = argparse.Namespace(**{**cfg["model"], "w2v_args": old})
    elif form == "old args":
        old = argparse.Namespace(**pretraining["model"], normalize=True)
        args = {**cfg["model"], "arch": "hubert_ctc", "normalize": True, "w2v_args": old}
        written = {"args": argparse.Namespace(**args)}
    fine_tuned = HubertCtc(None, FineTuned(model))
    path = save(tmp_path / "a.pt", fine_tuned, task_state={"target_dictionary": dictionary}, **written)
    checkpoint = read_hubert(path)
    assert checkpoint.normalize is True
    assert_same_features(checkpoint, model)


def test_a_fine_tuned_checkpoint_without_architecture_takes_it_from_where_it_began(tmp_path):
    """What fairseq-hydra-train of 0.12 really writes: `w2v_args` is None."""
    model, config, _ = pretrained(LARGE)
    before = save(tmp_path / "before.pt", model, sections(config))
    cfg = {
        "model": {"_name": "hubert_ctc", "w2v_path": str(before), "w2v_args": None},
        "task": {"normalize": False},
    }
    path = save(tmp_path / "a.pt", HubertCtc(None, FineTuned(random_weights(model))), cfg)
    assert_same_features(read_hubert(path), model)
    before.unlink()
    with pytest.raises(ValueError, match=r"a\.pt: fine-tuned, without the architecture .*before\.pt"):
        read_hubert(path)


def test_half_precision_weights_become_float32(tmp_path):
    model, config, _ = pretrained(BASE)
    checkpoint = read_hubert(save(tmp_path / "a.pt", model.half(), sections(config)))
    assert {value.dtype for value in checkpoint.state_dict.values()} == {torch.float32}


def test_what_is_read_does_not_hang_on_the_file(tmp_path):
    model, config, _ = pretrained(BASE)
    path = save(tmp_path / "a.pt", model, sections(config))
    checkpoint = read_hubert(path)
    path.write_bytes(b"")
    assert_same_features(checkpoint, model)


@pytest.mark.skipif(compat.LEGACY, reason="fairseq 0.12.2 has no conv_pos_batch_norm")
def test_a_batch_norm_before_the_positions_is_kept(tmp_path):
    model, config, _ = pretrained(BASE, conv_pos_batch_norm=True)
    checkpoint = read_hubert(save(tmp_path / "a.pt", model, sections(config)))
    assert checkpoint.config["conv_pos_batch_norm"] is True
    assert_same_features(checkpoint, model)


def test_an_unknown_weight_is_an_error(tmp_path):
    model, config, _ = pretrained(BASE)
    model.adapter = torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"a\.pt: unknown weight 'adapter.weight'"):
        read_hubert(save(tmp_path / "a.pt", model, sections(config)))


def test_another_model_is_an_error(tmp_path):
    cfg = {"model": {"_name": "data2vec_audio"}, "task": {"normalize": False}}
    with pytest.raises(ValueError, match="a checkpoint of model 'data2vec_audio', expected one of hubert"):
        read_hubert(save(tmp_path / "a.pt", torch.nn.Linear(2, 2), cfg))


def test_a_file_without_configuration_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no configuration: found NoneType, expected cfg or args"):
        read_hubert(save(tmp_path / "a.pt", torch.nn.Linear(2, 2)))
    torch.save({"weights": {}}, tmp_path / "b.pt")
    with pytest.raises(ValueError, match="not a fairseq checkpoint: found .'weights'., expected 'model'"):
        read_hubert(tmp_path / "b.pt")


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("encoder_layers", "12", "encoder_layers is '12', expected 1 or more"),
        ("encoder_layers", 0, "encoder_layers is 0, expected 1 or more"),
        ("layer_type", "conformer", "layer_type is 'conformer', expected transformer"),
        ("extractor_mode", "group", "extractor_mode is 'group', expected default or layer_norm"),
        ("layer_norm_first", 1, "layer_norm_first is 1, expected bool"),
        ("encoder_attention_heads", 5, "encoder_attention_heads is 5, not a divisor of 24"),
    ],
)
def test_an_impossible_configuration_names_its_field(tmp_path, field, value, message):
    model, config, _ = pretrained(BASE)
    cfg = sections(config)
    cfg["model"][field] = value
    with pytest.raises(ValueError, match=f"a.pt: {re.escape(message)}"):
        read_hubert(save(tmp_path / "a.pt", model, cfg))


def test_layers_of_the_extractor_are_read_as_fairseq_evaluates_them():
    published = HubertConfig.conv_feature_layers
    assert parse_conv_layers(published) == eval(published)
    assert parse_conv_layers(BASE["conv_feature_layers"]) == CONV
    assert parse_conv_layers(str(CONV)) == CONV


def test_code_in_the_description_of_the_extractor_does_not_run(tmp_path):
    """fairseq's HubertModel calls eval() on this field of the checkpoint."""
    model, config, _ = pretrained(BASE)
    marker = tmp_path / "marker"
    attack = f"[(16, 10, 5)] + (open({str(marker)!r}, 'w').close() or [(12, 2, 2)])"
    eval(attack)
    assert marker.exists()  # it is live
    marker.unlink()
    cfg = sections(config)
    cfg["model"]["conv_feature_layers"] = attack
    with pytest.raises(ValueError, match=r"a\.pt: conv_feature_layers is "):
        read_hubert(save(tmp_path / "a.pt", model, cfg))
    with pytest.raises(ValueError, match="conv_feature_layers is "):
        hubert_config({"conv_feature_layers": attack})
    assert not marker.exists()


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "[]",
        "[(1, 2)]",
        "[(1, 2, 0)]",
        "[(1, 2, -3)]",
        "[(1, 2, 3)] * 10 ** 9",
        "[(1, 2, 3)] * 99999",
        "3",
        "a",
    ],
)
def test_a_description_of_the_extractor_that_is_none_is_an_error(expression):
    with pytest.raises(ValueError, match="expected .*channels, kernel, stride"):
        parse_conv_layers(expression)


def test_a_configuration_takes_other_fields_beside_the_architecture():
    config = hubert_config(BASE, dropout=0.3, mask_prob=0.2)
    assert (config.dropout, config.mask_prob, config.encoder_embed_dim) == (0.3, 0.2, 24)


def test_unknown_fields_of_a_configuration_are_errors():
    with pytest.raises(ValueError, match="'dropout' is not a field of a HuBERT's architecture"):
        hubert_config({"dropout": 0.1})
    with pytest.raises(ValueError, match="HubertConfig has no field 'dropuot'"):
        hubert_config(BASE, dropuot=0.1)


@pytest.mark.skipif(not compat.LEGACY, reason="only fairseq 0.12.2 lacks conv_pos_batch_norm")
def test_a_batch_norm_that_the_installed_fairseq_lacks_is_an_error():
    with pytest.raises(ValueError, match="HubertConfig has no field 'conv_pos_batch_norm'"):
        hubert_config({**BASE, "conv_pos_batch_norm": True})


@pytest.mark.slow
def test_a_checkpoint_of_the_size_and_layout_of_hubert_base_ls960(tmp_path):
    published = {"final_dim": 256, "untie_final_proj": True, "target_glu": False}
    model, config, dictionary = pretrained({}, classes=500, **published)
    assert model.label_embs_concat.shape == (504, 256)
    moments = {
        i: {"step": 400000, "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
        for i, p in enumerate(model.parameters())
    }
    path = save(
        tmp_path / "hubert_base_ls960.pt",
        model,
        sections(config),
        task_state={"dictionaries": [dictionary]},
        last_optimizer_state={"state": moments, "param_groups": []},
    )
    assert path.stat().st_size > 1.1e9
    checkpoint = read_hubert(path)
    assert sum(value.numel() for value in checkpoint.state_dict.values()) == 94_371_712
    assert_same_features(checkpoint, model)
