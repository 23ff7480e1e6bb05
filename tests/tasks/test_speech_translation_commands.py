"""The task under fairseq's own command lines, with a tiny model."""

import json
import shutil
import subprocess
from argparse import Namespace
from pathlib import Path

import pytest
import yaml
from command_lines import BIN
from fairseq import checkpoint_utils, utils
from fork_server import FORKS
from mustc_corpus import run_prep_mustc

from fairseq_prune.data.manifest import read_manifest
from fairseq_prune.tasks.speech_translation import SpeechTranslationTask

USER_DIR = Path(__file__).parent / "tiny_speech_model"
AUGMENTED = ["--concat-rate", "0.7", "--speed-factors", "0.9,1.0,1.1", "--noise-rate", "0.5", "--cache-audio"]


def run(command, *words):
    """Run a fairseq command: its exit status and output."""
    return subprocess.CompletedProcess(words, *FORKS.run(BIN / command, *words, cwd=USER_DIR.parent))


def train(data, save_dir, *options):
    return run(
        "fairseq-train",
        *(data, "--user-dir", USER_DIR, "--task", "speech_translation", "--arch", "tiny_speech"),
        *(
            "--criterion",
            "label_smoothed_cross_entropy",
            "--optimizer",
            "adam",
            "--lr",
            "0.01",
            "--seed",
            "2",
        ),
        *("--train-subset", "train", "--valid-subset", "dev", "--max-tokens", "40000", "--cpu"),
        *("--save-dir", save_dir, "--log-format", "json", "--no-progress-bar", *options),
    )


def generate(data, checkpoint, *options):
    return run(
        "fairseq-generate",
        *(data, "--user-dir", USER_DIR, "--task", "speech_translation", "--path", checkpoint, "--cpu"),
        *("--gen-subset", "tst-COMMON", "--max-tokens", "100000", "--scoring", "sacrebleu", *options),
    )


def logs(output, kind):
    """The JSON records of train_inner, or of a validation set by its name."""
    lines = [line.split(f"| {kind} | ")[1] for line in output.splitlines() if f"| {kind} | " in line]
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def trained(prepared_data, tmp_path_factory):
    """A run of two epochs with everything on: its folder and its output."""
    folder = tmp_path_factory.mktemp("run")
    done = train(
        *(prepared_data, folder, "--max-epoch", "2", "--num-workers", "2", "--ctc-text", "source"),
        *("--eval-bleu", "--eval-bleu-args", '{"beam": 2, "max_len_b": 20}'),
        *("--best-checkpoint-metric", "chrf", "--maximize-best-checkpoint-metric", *AUGMENTED),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, done.stdout + done.stderr


def test_validation_logs_bleu_and_chrf_and_keeps_the_best(trained):
    folder, output = trained
    records = logs(output, "dev")
    assert len(records) == 2
    assert all({"dev_bleu", "dev_chrf", "dev_loss"} <= set(record) for record in records)
    best = checkpoint_utils.load_checkpoint_to_cpu(str(folder / "checkpoint_best.pt"))["extra_state"]["best"]
    assert best == max(float(record["dev_chrf"]) for record in records)


def test_generation_is_scored_as_plain_text(trained, prepared_data):
    done = generate(prepared_data, trained[0] / "checkpoint_best.pt")
    assert done.returncode == 0, done.stderr[-3000:]
    targets = dict(line[2:].split("\t") for line in done.stdout.splitlines() if line.startswith("T-"))
    rows = read_manifest(prepared_data / "tst-COMMON.tsv")
    assert targets == {str(index): row.tgt_text for index, row in enumerate(rows)}
    hypotheses = [line.split("\t")[2] for line in done.stdout.splitlines() if line.startswith("D-")]
    assert len(hypotheses) == 6
    assert not any("\u2581" in hypothesis for hypothesis in hypotheses)
    assert "Generate tst-COMMON with beam=5: BLEU = " in done.stdout


def test_checkpoint_loads_without_its_data(trained, prepared_data, tmp_path):
    utils.import_user_module(Namespace(user_dir=str(USER_DIR)))
    path = str(trained[0] / "checkpoint_last.pt")
    overrides = {"data": str(tmp_path / "gone")}
    [model], cfg, task = checkpoint_utils.load_model_ensemble_and_task([path], arg_overrides=overrides)
    assert isinstance(task, SpeechTranslationTask)
    assert len(task.target_dictionary) == model.decoder.embed_tokens.num_embeddings == 24
    assert task.ctc_dictionary is not None
    state = checkpoint_utils.load_checkpoint_to_cpu(path)
    made = SpeechTranslationTask.from_state(cfg.task, state["task_state"])
    assert made.target_dictionary.symbols == task.target_dictionary.symbols


def test_generation_with_other_dictionaries_fails_with_one_line(
    trained, prepared_data, must_c_root, tmp_path
):
    other = tmp_path / "other"
    assert run_prep_mustc(must_c_root, other, "--vocab-type", "char").returncode == 0
    done = generate(other, trained[0] / "checkpoint_best.pt")
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert "the target dictionary does not fit" in last
    assert f"{other / 'dict.txt'} has 18 symbols, the checkpoint has 24; the first that differs" in last


def test_bad_manifest_stops_training_with_one_line(prepared_data, tmp_path):
    data = shutil.copytree(prepared_data, tmp_path / "data")
    (data / "train.tsv").write_text((data / "train.tsv").read_text().replace("\t3200\t", "\tmany\t", 1))
    done = train(data, tmp_path / "run", "--max-update", "1")
    assert done.returncode != 0
    assert "must be a whole number" in done.stderr.strip().splitlines()[-1]
    assert not list((tmp_path / "run").glob("*.pt"))


def test_interrupted_run_resumes_with_the_same_batches(prepared_data, tmp_path):
    """Three updates into an epoch, then the rest in a new process, against a run in one piece."""
    options = [*AUGMENTED, "--max-epoch", "2", "--no-epoch-checkpoints", "--log-interval", "1"]
    options += ["--disable-validation", "--save-interval-updates", "3"]
    whole = train(prepared_data, tmp_path / "whole", *options)
    assert whole.returncode == 0, whole.stderr[-3000:]
    first = train(prepared_data, tmp_path / "parts", *options, "--max-update", "3")
    assert first.returncode == 0, first.stderr[-3000:]
    second = train(prepared_data, tmp_path / "parts", *options, "--num-workers", "2")
    assert second.returncode == 0, second.stderr[-3000:]

    def losses(run):
        return [(r["num_updates"], r["loss"]) for r in logs(run.stdout + run.stderr, "train_inner")]

    assert len(losses(whole)) > 6
    assert losses(first) + losses(second) == losses(whole)


def test_hydra_runs_the_task(prepared_data, tmp_path):
    recipe = {
        "common": {"user_dir": str(USER_DIR), "cpu": True, "log_format": "json", "seed": 2},
        "task": {"_name": "speech_translation", "data": str(prepared_data), "speed_factors": [0.9, 1.1]},
        "model": {"_name": "tiny_speech"},
        "criterion": {"_name": "cross_entropy"},
        "optimizer": {"_name": "adam"},
        "lr_scheduler": {"_name": "fixed"},
        "optimization": {"max_update": 2, "lr": [0.01]},
        "dataset": {"max_tokens": 40000, "valid_subset": "dev", "num_workers": 2},
        "checkpoint": {"save_dir": str(tmp_path)},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    words = ["--config-dir", tmp_path, "--config-name", "recipe", f"hydra.run.dir={tmp_path}"]
    done = run("fairseq-hydra-train", *words, "task.speed_factors=[0.9,1.2]")
    assert done.returncode == 0, done.stderr[-3000:]
    state = checkpoint_utils.load_checkpoint_to_cpu(str(tmp_path / "checkpoint_last.pt"))
    assert state["cfg"]["task"]["speed_factors"] == [0.9, 1.2]
    assert state["cfg"]["task"]["seed"] == 2
    assert "vocabularies" in state["task_state"]
