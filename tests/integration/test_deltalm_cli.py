"""DeltaLM from fairseq's command lines, on the texts of a tiny corpus."""

import json

import command_lines
import pytest
import torch
from command_lines import ROOT

from fairseq_prune.checkpoints.loading import load_checkpoint_file

PAIR = ["--source-lang", "en", "--target-lang", "de"]
# an architecture with two of its values overridden
MODEL = ["--arch", "deltalm_tiny", "--embed-dim", "32", "--decoder-layers", "1"]


def run(program, *arguments, cwd=None):
    """Run a console script of fairseq; its output, after checking that it succeeded."""
    code, output = command_lines.run(program, *arguments, cwd=cwd or ROOT)
    assert code == 0, output[-3000:]
    return output


def train(data, save_dir, max_update, *options):
    """Log records of fairseq-train, as dicts."""
    task = [data, "--user-dir", ROOT / "fairseq_prune", "--task", "translation", *PAIR, *MODEL]
    loss = ["--criterion", "label_smoothed_cross_entropy", "--optimizer", "adam", "--lr", "0.002"]
    batches = ["--max-tokens", "200", "--seed", "1", "--max-update", max_update, "--disable-validation"]
    log = ["--log-format", "json", "--log-interval", "5", "--save-dir", save_dir, "--no-epoch-checkpoints"]
    output = run("fairseq-train", *task, *loss, *batches, *log, *options)
    return [json.loads(line[line.index("{") :]) for line in output.splitlines() if '"loss"' in line]


@pytest.fixture(scope="module")
def text_data(prepared_data, tmp_path_factory):
    out = tmp_path_factory.mktemp("text") / "bin"
    run(ROOT / "data_prep" / "prep_mt.py", "--data-dir", prepared_data, "--out", out, *PAIR)
    return out


@pytest.fixture(scope="module")
def trained(text_data, tmp_path_factory):
    """Save directory and log of a first training."""
    save_dir = tmp_path_factory.mktemp("trained")
    return save_dir, train(text_data, save_dir, "40")


@pytest.fixture(scope="module")
def tuned(trained, text_data, tmp_path_factory):
    """Checkpoint of a training that started from --deltalm-path, whose file is gone; and the weights of that file."""
    folder = tmp_path_factory.mktemp("tuned")
    start = folder / "start.pt"
    start.write_bytes((trained[0] / "checkpoint_last.pt").read_bytes())
    train(text_data, folder, "1", "--deltalm-path", start, "--lr", "1e-9")
    weights = load_checkpoint_file(start)["model"]
    start.unlink()
    return folder / "checkpoint_last.pt", weights


def test_training_lowers_the_loss(trained):
    losses = [float(record["loss"]) for record in trained[1]]
    assert losses[-1] < 0.5 * losses[0]


def test_checkpoint_keeps_the_architecture_and_what_flags_changed(trained):
    model = load_checkpoint_file(trained[0] / "checkpoint_last.pt")["cfg"]["model"]
    kept = [
        model[name] for name in ("_name", "encoder_layers", "decoder_layers", "embed_dim", "ffn_embed_dim")
    ]
    assert kept == ["deltalm_tiny", 2, 1, 32, 512]


def test_training_resumes_where_it_stopped(trained, text_data):
    records = train(text_data, trained[0], "45")
    assert int(records[0]["num_updates"]) > 40
    history = load_checkpoint_file(trained[0] / "checkpoint_last.pt")["optimizer_history"]
    assert history[-1]["num_updates"] == 45


def test_pretrained_weights_are_where_training_starts(tuned):
    path, weights = tuned
    state = load_checkpoint_file(path)["model"]
    assert state.keys() == weights.keys()
    for key, value in state.items():
        torch.testing.assert_close(value, weights[key], atol=1e-6, rtol=0, msg=key)


def test_generation_does_not_need_the_pretrained_file(tuned, text_data):
    user_dir = ["--user-dir", ROOT / "fairseq_prune"]
    pieces = ["--bpe", "sentencepiece", "--sentencepiece-model", text_data / "spm.de.model"]
    search = ["--beam", "3", "--max-len-b", "20", "--batch-size", "4"]
    output = run("fairseq-generate", text_data, *user_dir, "--path", tuned[0], *PAIR, *search, *pieces)
    hypotheses = {line.split("\t")[0] for line in output.splitlines() if line.startswith("D-")}
    assert hypotheses == {f"D-{index}" for index in range(6)}


def test_hydra_trains_the_architecture_of_a_yaml(text_data, tmp_path):
    (tmp_path / "text.yaml").write_text(
        f"""
common: {{user_dir: {ROOT / "fairseq_prune"}}}
task: {{_name: translation, data: {text_data}, source_lang: en, target_lang: de}}
model: {{_name: deltalm_tiny, embed_dim: 32}}
criterion: {{_name: label_smoothed_cross_entropy}}
optimizer: {{_name: adam}}
lr_scheduler: fixed
dataset: {{max_tokens: 200, disable_validation: true}}
optimization: {{max_update: 2, lr: [0.001]}}
checkpoint: {{save_dir: {tmp_path}, no_epoch_checkpoints: true}}
""",
        encoding="utf-8",
    )
    run("fairseq-hydra-train", "--config-dir", tmp_path, "--config-name", "text", cwd=tmp_path)
    checkpoint = load_checkpoint_file(tmp_path / "checkpoint_last.pt")
    model = checkpoint["cfg"]["model"]
    assert [model[name] for name in ("_name", "encoder_layers", "embed_dim")] == ["deltalm_tiny", 2, 32]
    assert checkpoint["model"]["decoder.layers.1.fc3.weight"].shape == (512, 32)
