"""Bad input to the main job: one clear line and a non-zero exit, before any training starts."""

import shutil

import pytest
import soundfile
import yaml
from command_lines import ROOT, run, train_arguments


@pytest.fixture
def data(prepared_data, tmp_path):
    """A copy of the data directory, with audio of its own, to spoil."""
    folder = tmp_path / "data"
    shutil.copytree(prepared_data, folder)
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    shutil.copytree(config["audio_root"], tmp_path / "audio")
    config["audio_root"] = str(tmp_path / "audio")
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return folder


def a_wav(data):
    return next((data.parent / "audio").rglob("*train_1.wav"))


def remove_wav(data):
    a_wav(data).unlink()
    return []


def truncate_wav(data):
    path = a_wav(data)
    samples, rate = soundfile.read(path)
    soundfile.write(path, samples[: len(samples) // 2], rate)
    return []


def empty_manifest(data):
    (data / "train.tsv").write_text("")
    return []


def letters_for_a_number(data):
    lines = (data / "train.tsv").read_text(encoding="utf-8").split("\n")
    fields = lines[3].split("\t")
    fields[lines[0].split("\t").index("n_frames")] = "many"
    lines[3] = "\t".join(fields)
    (data / "train.tsv").write_text("\n".join(lines), encoding="utf-8")
    return []


def text_for_hubert(data):
    path = data.parent / "hubert.pt"
    path.write_text("not a checkpoint")
    return ["--hubert-path", path]


CASES = {
    "missing wav": (remove_wav, "ted_train_1.wav: no such audio file"),
    "truncated wav": (truncate_wav, "ted_train_1.wav: utterance"),
    "empty manifest": (empty_manifest, "train.tsv: expected a header"),
    "letters for a number": (letters_for_a_number, "train.tsv, line 4: n_frames"),
    "text for HuBERT": (text_for_hubert, "hubert.pt"),
    "--max-tokens too small": (lambda data: ["--max-tokens", "5000"], "--max-tokens counts samples"),
    "keep ratio 0": (lambda data: ["--token-keep-ratio", "0"], "found 0.0, expected a share of frames"),
    "keep ratio 1.5": (lambda data: ["--token-keep-ratio", "1.5"], "found 1.5, expected a share of frames"),
}


def assert_one_line(code, output, message):
    assert code != 0
    assert "Traceback" not in output
    last = output.strip().splitlines()[-1]
    assert last.startswith("error: ") and message in last


@pytest.mark.parametrize("case", CASES)
def test_training_refuses(case, data, tmp_path):
    spoil, message = CASES[case]
    options = spoil(data)
    code, output = run(
        "fairseq-train", *train_arguments(data, "out", "--max-update", 1, *options), cwd=tmp_path
    )
    assert_one_line(code, output, message)
    assert "begin training" not in output


def swap_two_symbols(data):
    dictionary = (data / "dict.txt").read_text(encoding="utf-8").splitlines()
    dictionary[0], dictionary[1] = dictionary[1], dictionary[0]
    (data / "dict.txt").write_text("\n".join(dictionary) + "\n", encoding="utf-8")


def test_resuming_refuses_another_dictionary(data, trained, tmp_path):
    swap_two_symbols(data)
    arguments = train_arguments(data, "out", "--max-update", 8, "--restore-file", trained)
    code, output = run("fairseq-train", *arguments, "--ctc-text", "source", cwd=tmp_path)
    assert_one_line(code, output, "the checkpoint belongs to another dictionary")


def test_hydra_refuses_in_one_line(data, tmp_path):
    recipe = {
        "common": {"user_dir": str(ROOT / "fairseq_prune"), "cpu": True},
        "task": {"_name": "speech_translation", "data": str(data), "concat_rate": 2.0},
        "model": {"_name": "hubert_deltalm"},
        "criterion": {"_name": "speech_translation"},
        "optimizer": {"_name": "adam"},
        "lr_scheduler": {"_name": "fixed"},
        "optimization": {"max_update": 1, "lr": [0.01]},
        "dataset": {"max_tokens": 16000},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    arguments = ["--config-dir", tmp_path, "--config-name", "recipe", f"hydra.run.dir={tmp_path}"]
    code, output = run("fairseq-hydra-train", *arguments, cwd=tmp_path)
    assert_one_line(code, output, "concat_rate must be from 0 to 1, found 2.0")


def test_generation_refuses_another_dictionary(data, trained, tmp_path):
    swap_two_symbols(data)
    code, output = run(
        "fairseq-generate",
        *(data, "--user-dir", ROOT / "fairseq_prune", "--task", "speech_translation", "--path", trained),
        *("--gen-subset", "tst-COMMON", "--max-tokens", 160000),
        cwd=tmp_path,
    )
    assert_one_line(code, output, "the target dictionary does not fit")
