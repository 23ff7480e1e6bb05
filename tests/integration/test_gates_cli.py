"""A Whisper that learns what to prune, through the command lines: trained, resumed, cut, used, exported."""

import re

import numpy as np
import pytest
import torch
import yaml
from command_lines import BIN, ROOT
from whisper_files import write_checkpoint, write_recordings

from fairseq_prune.checkpoints.loading import load_checkpoint_file
from fairseq_prune.checkpoints.runtime.engines import ONNX_RUNTIME
from fairseq_prune.checkpoints.runtime.whisper import OnnxWhisper
from fairseq_prune.data.manifest import Utterance, write_manifest

EXAMPLE = ROOT / "examples" / "compress_whisper"
SECONDS = (1.1, 0.7, 0.9, 0.8)
COMPRESS, EXPORT = (ROOT / "scripts" / f"{name}.py" for name in ("compress_whisper", "export"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A teacher, recordings, manifests, and the shipped configuration for them."""
    folder = tmp_path_factory.mktemp("gates")
    write_checkpoint(folder / "whisper.pt", language=None)
    write_recordings(folder / "audio", *SECONDS)
    rows = [
        Utterance(f"u{i}", f"audio/{i}.wav", 0, round(seconds * 16000), "a", "b", "s")
        for i, seconds in enumerate(SECONDS)
    ]
    for split in ("train", "choose"):
        write_manifest(folder / f"{split}.tsv", rows)
    content = yaml.safe_load((EXAMPLE / "config" / "gates_tiny_en.yaml").read_text(encoding="utf-8"))
    changes = {
        "common": {"user_dir": str(ROOT / "fairseq_prune"), "cpu": True, "log_interval": 1},
        "task": {"data": str(folder)},
        "model": {"whisper_path": str(folder / "whisper.pt"), "silence_stride": 4},
        # with such gates and such a rate, layers are uneven after few updates
        "optimizer": {"gate_lr": 3.0},
        "criterion": {"teacher_path": str(folder / "whisper.pt"), "distill_layers": [1, 2]},
        "dataset": {"batch_size": 2},
        "optimization": {"max_update": 4},
    }
    for section, values in changes.items():
        content[section].update(values)
    content["model"]["prune"] = "attention_heads=0.6,feed_forward_units=0.6,attention_blocks=0.2"
    (folder / "tiny.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return folder


def train(forks, folder, name, *keys):
    words = ("--config-dir", folder, "--config-name", "tiny", f"hydra.run.dir={folder / name}")
    code, output, errors = forks.run(
        *(BIN / "fairseq-hydra-train", *words, f"checkpoint.save_dir={folder / name}", *keys), cwd=folder
    )
    assert code == 0, output + errors
    return output + errors


@pytest.fixture(scope="module")
def gated(folder, forks):
    """What a training with gates printed; its checkpoint is gated/checkpoint_last.pt."""
    return train(forks, folder, "gated")


@pytest.fixture(scope="module")
def cut(folder, gated, forks):
    """What the cut printed; the small model is cut.pt."""
    words = ("--checkpoint", "gated/checkpoint_last.pt", "--out", "cut.pt")
    code, output, errors = forks.run(COMPRESS, *words, cwd=folder)
    assert code == 0, errors
    return output


def test_losses_sizes_and_multipliers_are_logged(gated):
    *_, last = re.findall(r"train_inner.*", gated)
    logged = dict(re.findall(r"(\w+)=([-\d.e]+)", last))
    for name in (
        "loss",
        "hidden_loss",
        "kl_loss",
        "encoder_loss",
        "sparsity_term",
        "expected_macs",
        "agreement",
    ):
        assert name in logged, last
    assert float(logged["target_sparsity"]) == pytest.approx(0.3 * 3 / 60)  # of the third update, from 0
    assert 0 < float(logged["expected_parameters"]) < 1 and float(logged["lambda2"]) != 0
    assert re.search(r"valid on 'choose' subset.*encoder_loss \d", gated)


def test_a_resumed_training_ends_where_one_without_a_break_does(folder, gated, forks):
    for updates in (2, 4):
        train(
            *(
                forks,
                folder,
                "broken",
                f"optimization.max_update={updates}",
                "lr_scheduler.total_num_update=4",
            ),
            "checkpoint.save_interval_updates=2",
        )
    straight, broken = (
        load_checkpoint_file(folder / name / "checkpoint_last.pt")["model"] for name in ("gated", "broken")
    )
    assert straight.keys() == broken.keys() and any("log_alpha" in name for name in straight)
    for name, value in straight.items():
        torch.testing.assert_close(broken[name], value, rtol=0, atol=0, msg=name)


def test_the_checkpoint_names_no_file(folder, gated):
    model = load_checkpoint_file(folder / "gated/checkpoint_last.pt")["cfg"]["model"]
    assert model["_name"] == "gated_whisper" and str(folder) not in str(model)


def test_the_cut_tells_what_is_left(folder, cut):
    assert re.search(r"parameters of the layers: ([\d,]+) -> ([\d,]+) \(\d+\.\d% less\)", cut)
    assert re.search(r"MACs of the layers: ", cut)
    checkpoint = load_checkpoint_file(folder / "cut.pt")
    fc1 = [checkpoint["model"][f"decoder.layers.{layer}.fc1.weight"].shape[0] for layer in range(3)]
    assert f"decoder.fc: units by layer {', '.join(map(str, fc1))}" in cut
    assert len(set(fc1)) > 1 and not any("gates" in name for name in checkpoint["model"])
    assert "multipliers.values" not in checkpoint["model"] and checkpoint["last_optimizer_state"] is None


def generated(forks, folder, checkpoint):
    words = "--gen-subset choose --batch-size 3 --beam 2 --max-len-b 10 --cpu --user-dir".split()
    task = ["--task", "spoken_language_understanding", "--path", checkpoint]
    code, output, errors = forks.run(
        BIN / "fairseq-generate", folder, *words, ROOT / "fairseq_prune", *task, cwd=folder
    )
    assert code == 0, errors
    return sorted(line.split("\t")[-1] for line in output.splitlines() if line.startswith("D-"))


def test_gated_and_cut_model_generate_the_same_texts(folder, cut, forks):
    texts = generated(forks, folder, "cut.pt")
    assert len(texts) == 4 and texts == generated(forks, folder, "gated/checkpoint_last.pt")


def test_gated_and_cut_model_transcribe_the_same(folder, cut, forks):
    texts = []
    for checkpoint in ("gated/checkpoint_last.pt", "cut.pt"):
        words = ("--checkpoint", checkpoint, "--temperature", 0, "--no-speech-threshold", 1)
        code, output, errors = forks.run(ROOT / "scripts/transcribe.py", *words, "audio/0.wav", cwd=folder)
        assert code == 0 and output.strip(), errors
        texts.append(output)
    assert texts[0] == texts[1]


def test_the_cut_model_is_trained_without_gates(folder, cut, forks):
    keys = ["model._name=whisper_tiny_en", "~model.prune", "optimizer._name=adam", "~optimizer.gate_lr"]
    printed = train(
        forks,
        folder,
        "learned",
        *keys,
        f"model.whisper_path={folder / 'cut.pt'}",
        "optimization.max_update=2",
    )
    assert "encoder_loss" in printed and "expected_sparsity" not in printed
    before, after = (load_checkpoint_file(folder / path) for path in ("cut.pt", "learned/checkpoint_last.pt"))
    assert after["cfg"]["model"]["layer_sizes"] == before["cfg"]["model"]["layer_sizes"]
    assert any(not torch.equal(after["model"][name], value) for name, value in before["model"].items())


def test_onnx_holds_uneven_layers(folder, cut, forks, engine, tmp_path):
    pytest.importorskip("onnxscript", reason="in the test extra of the current stack")
    words = ("--checkpoint", "cut.pt", "--format", "onnx", "--out", tmp_path / "onnx")
    code, _, errors = forks.run(EXPORT, *words, cwd=folder)
    assert code == 0, errors  # which compares the logits
    features = np.random.default_rng(0).standard_normal((60, 80), dtype=np.float32)
    expected, found = (OnnxWhisper(tmp_path / "onnx", engine=name) for name in (ONNX_RUNTIME, engine))
    memory, given = expected.encode(features), found.encode(features)
    for name, value in memory.items():
        np.testing.assert_allclose(given[name], value, atol=1e-4)
    logits, _ = expected.step(5, memory, expected.start())
    np.testing.assert_allclose(found.step(5, given, found.start())[0], logits, atol=1e-4)


def test_formats_of_even_layers_refuse_uneven_ones(folder, cut, forks):
    pytest.importorskip("transformers", minversion="5.24", reason="in the test extra of the current stack")
    code, _, errors = forks.run(EXPORT, "--checkpoint", "cut.pt", "--format", "hf", "--out", "hf", cwd=folder)
    assert code == 2 and re.search(
        r"found \S+ of the sizes [\d, ]+ in its layers, expected all alike", errors
    )


def test_a_model_with_gates_is_not_exported(folder, gated, forks):
    words = ("--checkpoint", "gated/checkpoint_last.pt", "--format", "onnx", "--out", "no")
    code, _, errors = forks.run(EXPORT, *words, cwd=folder)
    assert code == 2 and "gated_whisper" in errors


def test_layers_of_the_cut_model_can_go(folder, cut, forks):
    words = ("--checkpoint", "cut.pt", "--decoder", "1,3", "--out", "fewer.pt")
    code, _, errors = forks.run(ROOT / "scripts/prune_layers.py", *words, cwd=folder)
    assert code == 0, errors
    code, _, errors = forks.run(
        *(ROOT / "scripts/prune_layers.py", "--checkpoint", "cut.pt", "--units", 2, "--out", "no.pt"),
        cwd=folder,
    )
    assert code == 2 and "cut.pt: gates have left layers of different sizes" in errors


def test_the_cut_by_norms_has_as_many_parameters(folder, cut, forks):
    words = ("--checkpoint", "whisper.pt", "--size-of", "cut.pt", "--out", "norm.pt")
    code, output, errors = forks.run(EXAMPLE / "cut_by_norm.py", *words, cwd=folder)
    assert code == 0, errors
    found, wanted = (
        int(number.replace(",", ""))
        for number in re.findall(r"([\d,]+)(?: parameters| of --size-of)", output)
    )
    assert abs(found - wanted) <= 5 * (2 * 32 + 1)  # a unit in each of five layers


def test_error_rates_sizes_and_seconds_are_tabulated(folder, cut, forks):
    words = ("--data", folder, "--split", "choose", "--rounds", 1, "--out", "results.jsonl")
    merged = "merged=whisper.pt,int8=1,token_keep_criterion=merge,token_keep_ratios=0.5;1"
    models = ("--models", "dense=whisper.pt", "cut=cut.pt", merged)
    tables = []
    for _ in range(2):  # the second time from the results that are there
        code, output, errors = forks.run(EXAMPLE / "gates_table.py", *words, *models, cwd=folder)
        assert code == 0, errors
        tables.append([line.split(" | ") for line in output.splitlines() if line.startswith("|")])
    assert len((folder / "results.jsonl").read_text().splitlines()) == 3
    *_, dense, small, fewer = tables[1]
    assert fewer[1] == dense[1] and fewer[0] == "| merged"
    assert dense[0] == "| dense" and dense[6] == "+0.00 (+0.00 to +0.00)" and float(dense[-1][:4]) == 1
    assert f"{dense[1]} -> {small[1]}" in cut
    assert [row[:7] for row in tables[0]] == [row[:7] for row in tables[1]]


def test_what_has_no_gates_is_refused_in_one_line(folder, forks):
    code, _, errors = forks.run(COMPRESS, "--checkpoint", "whisper.pt", "--out", "no.pt", cwd=folder)
    assert code == 2 and "whisper.pt: found a model 'whisper', expected gated_whisper" in errors
    assert not (folder / "no.pt").exists()
