"""What `info` says of a file, and `options` of what is registered."""

import json

import pytest
import torch

from fairseq_prune.cli import main
from fairseq_prune.cli.info import describe
from fairseq_prune.cli.options import registered


def checkpoint(path, name="hubert_deltalm", task="speech_translation", state=None, **options):
    weights = {
        "encoder.layers.0.fc1.weight": torch.ones(4, 3),
        "encoder.layers.1.fc1.weight": torch.tensor([[0.0, 1.0, 0.0]] * 4),
        "decoder.layers.0.fc1.weight": torch.ones(4, 3).half(),
        "decoder.embed_tokens.weight": torch.ones(7, 3),
        **(state or {}),
    }
    cfg = {"model": {"_name": name, **options}, "task": {"_name": task, "target_lang": "de"}}
    history = [{"num_updates": 30}]
    tasks = {"vocabularies": {"target": {"symbols": "a\nb\nc"}}}
    torch.save({"model": weights, "cfg": cfg, "optimizer_history": history, "task_state": tasks}, path)
    return path


def test_sizes_pruning_and_vocabularies_of_a_translator(tmp_path):
    path = checkpoint(tmp_path / "a.pt", token_keep_ratio=0.7, token_keep_start_layer=4)
    found = describe(path)
    assert found["model"] == "hubert_deltalm" and found["task"] == "speech_translation"
    assert found["updates"] == 30 and found["target_lang"] == "de"
    assert found["parameters"] == 3 * 12 + 21 and found["precision"] == "float32, float16"
    assert found["layers"] == {"encoder": 2, "decoder": 1}
    assert found["vocabularies"] == {"decoder.embed_tokens.weight": 7, "target": 3}
    assert found["pruning"]["tokens"] == {"ratio": 0.7, "start_layer": 4}
    assert found["pruning"]["zeros in layers"] == round(8 / 36, 4)
    assert found["next"][0] == f"fairseq-prune translate --checkpoint {path} talk.wav"


def test_options_as_by_default_are_no_pruning_of_their_own(tmp_path):
    usual = {"token_keep_schedule": "constant", "token_keep_criterion": "received", "token_keep_min": 1}
    path = checkpoint(
        tmp_path / "a.pt",
        token_keep_ratio=1.0,
        token_keep_ratios="1,0.5",
        token_keep_final_ratio=None,
        **usual,
    )
    assert describe(path)["pruning"]["tokens"] == {"ratios": "1,0.5"}


def test_a_dense_model_is_said_to_have_no_pruning(tmp_path):
    path = checkpoint(tmp_path / "a.pt", token_keep_ratio=1.0, token_keep_start_layer=4)
    state = torch.load(path, weights_only=True)
    state["model"]["encoder.layers.1.fc1.weight"] += 1
    torch.save(state, path)
    assert "pruning" not in describe(path)


def test_the_preview_of_an_output(tmp_path):
    path = checkpoint(tmp_path / "a.pt")
    state = torch.load(path, weights_only=True)
    torch.save({**state, "output_preview": {"directions": torch.eye(3)[:, :2], "candidates": 5}}, path)
    assert describe(path)["output preview"] == {"directions": 2, "tokens in full": 5}


def test_the_state_of_parp_and_uneven_shapes(tmp_path):
    pruning = {"method": "parp", "phase": "fixed", "sparsity": 0.5, "update": 9, "masks": {}}
    shapes = json.dumps({"normalize": False, "heads": [2, 0], "units": [3, 4]})
    path = checkpoint(
        tmp_path / "a.pt",
        "wav2vec_ctc_parp",
        "audio_finetuning",
        {"magnitude_pruning": pruning},
        hubert_config=shapes,
    )
    found = describe(path)["pruning"]
    assert found["weights"] == {"method": "parp", "phase": "fixed", "sparsity": 0.5, "update": 9}
    assert found["shapes"] == {"heads": [2, 0], "units": [3, 4]}


def test_a_folder_of_transformers(tmp_path, capsys):
    config = {
        "architectures": ["HubertModel"],
        "num_hidden_layers": 3,
        "token_pruning": {"keep_ratios": [1, 0.5, 1]},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert main(["info", "--json", str(tmp_path)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["model"] == "HubertModel" and found["layers"] == {"num_hidden_layers": 3}
    assert found["pruning"]["token_pruning"]["keep_ratios"] == [1, 0.5, 1]


def test_what_is_printed_names_every_part(tmp_path, capsys):
    path = checkpoint(tmp_path / "a.pt", token_keep_ratio=0.7)
    assert main(["info", str(path)]) == 0
    printed = capsys.readouterr().out
    for part in (
        str(path),
        "  parameters: 57",
        "    encoder: 2",
        "      ratio: 0.7",
        "fairseq-prune translate",
    ):
        assert part in printed


def test_a_file_that_is_no_checkpoint_is_one_line(tmp_path, capsys):
    (tmp_path / "a.pt").write_text("no checkpoint")
    assert main(["info", str(tmp_path / "a.pt")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and str(tmp_path / "a.pt") in error and error.count("\n") == 1


@pytest.mark.parametrize(
    "name, flag",
    [
        ("hubert_deltalm", "--token-keep-ratio"),
        ("speech_translation", "--ctc-weight"),
        ("hubert_ctc_parp", "--prune-sparsity"),
        ("ssl_distillation", "--batch-lengths"),
    ],
)
def test_options_prints_those_of_this_package_with_their_help(name, flag, capsys):
    assert main(["options", name]) == 0
    printed = capsys.readouterr().out
    assert flag in printed and "default:" in printed


def test_options_knows_all_that_is_registered(capsys):
    found = registered()
    assert {"whisper", "dphubert", "deltalm"} <= set(found["model"])
    assert set(found["task"]) == {"speech_translation", "ssl_distillation", "spoken_language_understanding"}
    assert main(["options"]) == 0 and "distill_prune" in capsys.readouterr().out
    assert main(["options", "hubert"]) == 2
    assert "found 'hubert', expected one of" in capsys.readouterr().err
