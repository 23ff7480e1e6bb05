import argparse
import collections
import fractions
import os
import pickle
import re

import pytest
import safetensors.torch
import torch
from fairseq import checkpoint_utils
from fairseq.data import Dictionary
from fairseq.models.transformer import TransformerConfig
from fairseq.modules.transformer_layer import TransformerEncoderLayerBase
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fairseq_prune import compat
from fairseq_prune.checkpoints.loading import (
    load_checkpoint_file,
    load_fairseq_state,
    load_state_dict_strictly,
)

FORMATS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


def save(content, path, zipped=True, **kwargs):
    torch.save(content, path, _use_new_zipfile_serialization=zipped, **kwargs)
    return path


class Runs:
    """Pickles as a call."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def one_line(error):
    message = str(error.value)
    assert "\n" not in message
    return message


@FORMATS
@pytest.mark.parametrize("mmap", [False, True])
def test_what_fairseq_saves_comes_back(tmp_path, zipped, mmap):
    dictionary = Dictionary()
    dictionary.add_symbol("word")
    content = {
        "args": argparse.Namespace(lr=[0.1], arch="hubert"),
        "model": collections.OrderedDict(weight=torch.randn(3, 4), half=torch.randn(3).half()),
        "task_state": {"dictionaries": [dictionary]},
        "flags": {1, 2},
    }
    loaded = load_checkpoint_file(save(content, tmp_path / "a.pt", zipped), mmap=mmap)
    assert loaded["args"] == content["args"] and loaded["flags"] == {1, 2}
    assert loaded["task_state"]["dictionaries"][0].index("word") == dictionary.index("word")
    for name, tensor in content["model"].items():
        assert loaded["model"][name].dtype == tensor.dtype and torch.equal(loaded["model"][name], tensor)


def test_a_safetensors_file_is_read(tmp_path):
    tensors = {"weight": torch.randn(2, 3)}
    safetensors.torch.save_file(tensors, tmp_path / "model.safetensors")
    assert torch.equal(load_checkpoint_file(tmp_path / "model.safetensors")["weight"], tensors["weight"])


def write_marker(path):
    """What an attack does here; only its effect on the file system counts."""
    with open(path, "w") as marker:
        marker.write("ran")


@FORMATS
@pytest.mark.parametrize("attack", ["os.system", "eval", "function"])
def test_a_malicious_pickle_is_refused_by_name_and_nothing_runs(tmp_path, zipped, attack):
    marker = tmp_path / "marker"
    payload, name = {
        "os.system": (Runs(os.system, f"touch {marker}"), f"{os.system.__module__}.system"),
        "eval": (Runs(eval, f"open({str(marker)!r}, 'w').close()"), "builtins.eval"),
        "function": (Runs(write_marker, str(marker)), f"{__name__}.write_marker"),
    }[attack]
    pickle.loads(pickle.dumps(payload))
    assert marker.exists()  # the payload is live
    marker.unlink()
    path = save({"model": {"weight": torch.zeros(1)}, "extra_state": payload}, tmp_path / "evil.pt", zipped)
    with pytest.raises(ValueError) as error:
        load_checkpoint_file(path)
    message = one_line(error)
    assert str(path) in message and name in message
    assert not marker.exists()


@FORMATS
@pytest.mark.parametrize(
    "content, name",
    [
        (fractions.Fraction(1, 2), "fractions.Fraction"),
        (Runs(getattr, Dictionary, "load"), "builtins.getattr"),
        (torch.nn.Linear(1, 1), "torch.nn.modules.linear.Linear"),
    ],
)
def test_what_is_not_on_the_list_is_named(tmp_path, zipped, content, name):
    with pytest.raises(ValueError, match=re.escape(name)):
        load_checkpoint_file(save({"a": content}, tmp_path / "a.pt", zipped))


@FORMATS
@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_newer_pickle_protocols_do_not_get_round_the_list(tmp_path, zipped, protocol):
    marker = tmp_path / "marker"
    path = save({"a": Runs(write_marker, str(marker))}, tmp_path / "a.pt", zipped, pickle_protocol=protocol)
    with pytest.raises(ValueError):
        load_checkpoint_file(path)
    assert not marker.exists()


def test_a_dotted_name_does_not_reach_into_a_safe_class(tmp_path):
    attack = b"\x80\x04\x8c\x08argparse\x8c\x12Namespace.__init__\x93."  # STACK_GLOBAL of an attribute
    path = save({"a": 1}, tmp_path / "a.pt", zipped=False)
    frames = path.read_bytes().split(pickle.dumps({"a": 1}, protocol=2))
    assert len(frames) == 2
    path.write_bytes(attack.join(frames))
    with pytest.raises(ValueError):
        load_checkpoint_file(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.pt: no such checkpoint"):
        load_checkpoint_file(tmp_path / "nothing.pt")


def test_a_directory_is_refused(tmp_path):
    with pytest.raises(ValueError, match="found a directory, expected a checkpoint file"):
        load_checkpoint_file(tmp_path)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize(
    "content", [b"", b"hello, this is text\n" * 50, b"\x00" * 300], ids=["empty", "text", "zeros"]
)
def test_a_file_that_is_no_checkpoint_gives_one_line_with_its_path(tmp_path, suffix, content):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError) as error:
        load_checkpoint_file(path)
    assert one_line(error).startswith(f"{path}: no ")


@FORMATS
@pytest.mark.parametrize("share", [0.02, 0.5, 0.99])
@pytest.mark.parametrize("mmap", [False, True])
def test_a_truncated_file_gives_one_line_with_its_path(tmp_path, zipped, share, mmap):
    path = save({"model": {"weight": torch.randn(100, 100)}}, tmp_path / "a.pt", zipped)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ValueError) as error:
        load_checkpoint_file(path, mmap=mmap)
    assert one_line(error).startswith(f"{path}: no checkpoint, or a broken one")


@settings(max_examples=60, deadline=None)
@given(position=st.floats(0, 0.999), byte=st.integers(0, 255), zipped=st.booleans())
@example(position=0.1171875, byte=71, zipped=False)  # a length of exabytes
@example(position=0.9609375, byte=71, zipped=True)  # a record that begins before the file
def test_a_damaged_file_is_read_or_refused_with_its_path(tmp_path_factory, position, byte, zipped):
    path = save({"a": argparse.Namespace(b=[1, "c"])}, tmp_path_factory.mktemp("damaged") / "a.pt", zipped)
    content = bytearray(path.read_bytes())
    content[int(position * len(content))] = byte
    path.write_bytes(bytes(content))
    try:
        assert isinstance(load_checkpoint_file(path), dict)
    except ValueError as error:
        assert str(error).startswith(str(path))


def test_a_torchscript_archive_is_refused(tmp_path):
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(tmp_path / "a.pt"))
    with pytest.raises(ValueError, match="no checkpoint, or a broken one"):
        load_checkpoint_file(tmp_path / "a.pt")


def test_something_other_than_a_dict_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds a Tensor, expected a dict"):
        load_checkpoint_file(save(torch.zeros(3), tmp_path / "a.pt"))


@pytest.mark.skipif(compat.LEGACY, reason="torch 2.0.1 cannot map checkpoints")
def test_mapped_tensors_can_be_changed_without_changing_the_file(tmp_path):
    path = save({"a": torch.ones(4)}, tmp_path / "a.pt")
    load_checkpoint_file(path, mmap=True)["a"].zero_()
    assert torch.equal(load_checkpoint_file(path)["a"], torch.ones(4))


def save_as_fairseq(path, **others):
    state = {"model": {}, "optimizer_history": [{"num_updates": 1}], "extra_state": {"train_iterator": None}}
    state["optimizer_history"][0].update(optimizer_name="Adam", lr_scheduler_state={})
    return save({**state, **others}, path)


CFG = {"model": {"_name": "deltalm", "dropout": 0.1}, "task": {"_name": "translation", "data": "here"}}


def test_the_state_of_a_fairseq_checkpoint_can_be_overridden(tmp_path):
    path = save_as_fairseq(tmp_path / "a.pt", cfg=CFG, args=None)
    assert load_fairseq_state(path)["cfg"].model.dropout == 0.1
    cfg = load_fairseq_state(path, {"dropout": 0.5, "data": "there"})["cfg"]
    assert (cfg.model.dropout, cfg.task.data) == (0.5, "there")


def test_an_override_that_names_no_option_is_an_error(tmp_path):
    path = save_as_fairseq(tmp_path / "a.pt", cfg=CFG, args=None)
    with pytest.raises(ValueError, match=r"a\.pt: has no option 'dropuot' that could be overridden"):
        load_fairseq_state(path, {"dropuot": 0.5})


@pytest.mark.parametrize("overrides", [{"modle": {}}, {"model": {"modle": 1}}])
def test_a_nested_override_that_names_no_option_is_an_error(tmp_path, overrides):
    path = save_as_fairseq(tmp_path / "a.pt", cfg=CFG, args=None)
    with pytest.raises(ValueError, match=r"a\.pt: has no option 'modle' that could be overridden"):
        load_fairseq_state(path, overrides)
    assert load_fairseq_state(path, {"model": {"dropout": 0.5}})["cfg"].model.dropout == 0.5


@pytest.mark.parametrize("cfg", [{}, {"cfg": None}])
def test_a_state_without_configuration_is_an_error(tmp_path, cfg):
    with pytest.raises(ValueError, match=r"a\.pt: not a checkpoint of fairseq: it holds no configuration"):
        load_fairseq_state(save_as_fairseq(tmp_path / "a.pt", **cfg))


def test_fairseq_itself_refuses_what_we_refuse(tmp_path):
    """On the legacy stack too, where torch would run it."""
    marker = tmp_path / "marker"
    path = save({"model": {}, "extra_state": Runs(write_marker, str(marker))}, tmp_path / "evil.pt")
    with pytest.raises(pickle.UnpicklingError, match="write_marker"):
        checkpoint_utils.load_checkpoint_to_cpu(str(path))
    with pytest.raises(ValueError, match=r"evil\.pt: refused, asks for .*write_marker"):
        load_fairseq_state(path)
    assert not marker.exists()


def test_strict_loading_fills_the_module():
    source, target = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    load_state_dict_strictly(target, source.state_dict(), "a.pt")
    assert torch.equal(source.weight, target.weight) and torch.equal(source.bias, target.bias)


def test_what_does_not_fit_is_listed_and_nothing_is_loaded():
    module = torch.nn.Sequential(*(torch.nn.Linear(3, 3) for _ in range(12)))
    before = {key: value.clone() for key, value in module.state_dict().items()}
    state = {key: value + 1 for key, value in before.items() if not key.endswith("bias")}
    state["0.weight"] = torch.zeros(5, 3)
    state["head.weight"] = torch.zeros(1)
    with pytest.raises(ValueError) as error:
        load_state_dict_strictly(module, state, "a.pt")
    message = one_line(error)
    assert message.startswith("a.pt: weights do not fit Sequential: 12 missing: 0.bias, 1.bias, ")
    assert "9.bias, ...; 1 unexpected: head.weight; " in message and "10.bias" not in message
    assert message.endswith("1 of another shape: 0.weight (found (5, 3), expected (3, 3))")
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())


def test_a_fairseq_encoder_layer_loads_from_its_plain_weights():
    """fairseq 0.12.2 also keeps a fused copy, which published checkpoints lack."""
    config = TransformerConfig()
    config.encoder.embed_dim, config.encoder.ffn_embed_dim, config.encoder.attention_heads = 8, 16, 2
    encoder = torch.nn.ModuleDict({"layers": torch.nn.ModuleList([TransformerEncoderLayerBase(config)])})
    plain = ("self_attn.", "self_attn_layer_norm.", "fc1.", "fc2.", "final_layer_norm.")
    state = {
        key: torch.randn_like(value)
        for key, value in encoder.state_dict().items()
        if key.startswith(tuple(f"layers.0.{part}" for part in plain))
    }
    assert len(state) == 16
    load_state_dict_strictly(encoder, dict(state), "a.pt")
    assert all(torch.equal(encoder.state_dict()[key], value) for key, value in state.items())
