"""Spoken language understanding from training to scores, through the command lines."""

import json

import numpy as np
import pytest
import soundfile
from command_lines import ROOT, run
from slu_corpus import LABELS, PARSES, SMALL, slurp_row, small_whisper, tokenizer, write_data, write_jsonl

from fairseq_prune.data.manifest import Utterance, write_manifest

USER_DIR = ["--user-dir", ROOT / "fairseq_prune", "--task", "spoken_language_understanding"]
TRAIN = (
    "--arch whisper --optimizer adam --lr 1e-3 --batch-size 4 --max-update 2 --log-format simple --log-interval 1"
    " --train-subset train --valid-subset dev --no-progress-bar --no-epoch-checkpoints --criterion slu_distillation"
).split()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("slu") / "data")


@pytest.fixture(scope="module")
def student(data):
    """A checkpoint after two updates under a teacher that is then removed."""
    teacher = data.parent / "teacher.pt"
    small_whisper(teacher, decoder_layers=3)
    options = (
        f"--bpe-tokenizer {data}/tokenizer.json --teacher-path {teacher} --speed-factors 0.9,1.1 --gain-db 6"
        " --eval-slu slurp --best-checkpoint-metric slu_f1 --maximize-best-checkpoint-metric --save-dir out"
    ).split()
    code, output = run("fairseq-train", data, *USER_DIR, *TRAIN, *SMALL, *options, cwd=data.parent)
    assert code == 0, output
    for name in ("ce_loss", "kl_loss", "contrastive_loss", "intent_accuracy", "slu_f1"):
        assert f"| {name} " in output, output
    teacher.unlink()
    (data / "tokenizer.json").unlink()
    return data.parent / "out" / "checkpoint_best.pt"


def test_the_student_generates_without_teacher_and_tokenizer_and_is_scored(student, data, forks, tmp_path):
    options = ["--path", student, "--gen-subset", "test", "--results-path", tmp_path, "--batch-size", "2"]
    code, output = run("fairseq-generate", data, *USER_DIR, *options, "--max-len-b", "8", cwd=tmp_path)
    assert code == 0, output
    generated = tmp_path / "generate-test.txt"
    lines = generated.read_text(encoding="utf-8").splitlines()
    targets = dict(line[2:].split("\t") for line in lines if line.startswith("T-"))
    assert [targets[str(i)] for i in range(len(PARSES))] == PARSES
    arguments = ["slurp", "--generated", generated, "--manifest", data / "test.tsv", "--json"]
    predictions = tmp_path / "predictions.jsonl"
    score = ROOT / "scripts" / "score_slu.py"
    status, out, err = forks.run(score, *arguments, "--write-predictions", predictions, cwd=tmp_path)
    assert status == 0, err
    assert json.loads(out)["utterances"] == len(PARSES) == len(predictions.read_text().splitlines())


def test_understand_prints_json_a_file(student, data, forks):
    files = [data / "audio" / f"{i}.wav" for i in range(2)]
    script = ROOT / "scripts" / "understand.py"
    status, out, err = forks.run(script, "--checkpoint", student, *files, cwd=data)
    assert status == 0, err
    answers = [json.loads(line) for line in out.splitlines()]
    assert [answer["audio"] for answer in answers] == list(map(str, files))
    assert all(set(answer) >= {"intent", "slots", "text"} for answer in answers)


def test_an_export_to_onnx_understands_the_same(student, data, forks, tmp_path, engine):
    pytest.importorskip("onnxruntime", reason="the export to ONNX needs the extra onnx")
    pytest.importorskip("onnxscript", reason="the export to ONNX needs the extra onnx")
    arguments = ["--checkpoint", student, "--format", "onnx", "--out", tmp_path / "onnx"]
    status, _, err = forks.run(ROOT / "scripts" / "export.py", *arguments, cwd=tmp_path)
    assert status == 0, err
    files, script = [data / "audio" / f"{i}.wav" for i in range(2)], ROOT / "scripts" / "understand.py"
    _, expected, _ = forks.run(script, "--checkpoint", student, *files, cwd=data)
    status, found, err = forks.run(script, "--onnx", tmp_path / "onnx", "--engine", engine, *files, cwd=data)
    assert status == 0, err
    assert found == expected and len(found.splitlines()) == 2


def test_audio_longer_than_the_context_is_refused(student, data, forks):
    soundfile.write(data / "audio" / "long.wav", 0.1 * np.sin(np.arange(31 * 16000)), 16000)
    script = ROOT / "scripts" / "understand.py"
    status, _, err = forks.run(script, "--checkpoint", student, data / "audio" / "long.wav", cwd=data)
    assert (status, err.count("\n")) == (2, 1)
    assert "long.wav: 31.0 s of audio, the context is 30 s" in err


def test_answers_of_understand_are_scored_by_speaker(forks, tmp_path):
    answers = ["[IN:A [SL:B x ] ]", "[IN:A [SL:B y ] ]", "[IN:C ]"]
    rows = [
        Utterance(str(i), f"audio/{i}.wav", 0, 1600, "", answers[0], speaker)
        for i, speaker in enumerate(("ann", "bob", "bob"))
    ]
    write_manifest(tmp_path / "test.tsv", rows)
    lines = [{"audio": f"/elsewhere/{i}.wav", "text": text} for i, text in enumerate(answers)]
    arguments = ["stop", "--answers", write_jsonl(tmp_path / "answers.jsonl", lines)]
    arguments += ["--manifest", tmp_path / "test.tsv", "--by-speaker", "--json"]
    status, out, err = forks.run(ROOT / "scripts" / "score_slu.py", *arguments, cwd=tmp_path)
    assert status == 0, err
    report = json.loads(out)
    assert report["acceptance"] == 33.33 and report["intervals"]["acceptance"] == [0, 100]
    write_jsonl(tmp_path / "answers.jsonl", lines[::-1])
    status, _, err = forks.run(ROOT / "scripts" / "score_slu.py", *arguments, cwd=tmp_path)
    assert status == 2 and "line 1: the answer for 2.wav, expected 0.wav" in err


def test_scores_of_files_in_the_format_of_the_corpora(forks, tmp_path):
    score = ROOT / "scripts" / "score_slu.py"
    rows = [
        slurp_row(7, "wake me at ten am", "alarm", "set", [("time", 3, 4)], ["a.flac"]),
        slurp_row(8, "play jazz", "play", "music", [("music_genre", 1, 1)], ["b.flac"]),
    ]
    gold = write_jsonl(tmp_path / "gold.jsonl", rows)
    entities = [{"type": "time", "filler": "nine am"}]
    predicted = [{"slurp_id": "7", "scenario": "alarm", "action": "set", "entities": entities}]
    for key, value in (("slurp_id", "7"), ("file", "a.flac")):
        predicted[0].pop("slurp_id", None)
        predicted[0][key] = value
        found = write_jsonl(tmp_path / "found.jsonl", predicted)
        status, out, err = forks.run(score, "slurp", "--gold", gold, "--predictions", found, cwd=tmp_path)
        assert status == 0, err
        assert "1 of 2 gold annotations have no prediction" in out
        scores = dict(line.split()[:2] for line in out.splitlines()[1:])
        # TP 2, FP and FN 1/2 of the words and 3/7 of the characters
        assert float(scores["slu_f1"]) == round(100 * 4 / (4 + 2 * (1 / 2 + 3 / 7)), 2)
        assert float(scores["intent_accuracy"]) == 100
    parses = tmp_path / "gold.txt"
    parses.write_text("[IN:A [SL:B x ] ]\n[IN:C ]\n")
    (tmp_path / "found.txt").write_text("[IN:A [SL:B y ] ]\n[IN:C\n")
    arguments = ["stop", "--gold", parses, "--predictions", tmp_path / "found.txt", "--json"]
    status, out, err = forks.run(score, *arguments, cwd=tmp_path)
    expected = {"exact_match": 0, "tree_match": 50, "label_f1": 80, "acceptance": 0}
    report = json.loads(out)
    assert report.pop("intervals").keys() == expected.keys(), err
    assert report == {"utterances": 2, "malformed": 1, **expected}
    parses.write_text("[IN:A [SL:B x ] ]\n[IN:C\n")
    status, _, err = forks.run(score, *arguments, cwd=tmp_path)
    assert (status, err.count("\n")) == (2, 1)
    assert "gold.txt, line 2: malformed parse" in err


def test_a_teacher_with_another_vocabulary_ends_training_in_one_line(tmp_path):
    data = write_data(tmp_path / "data")
    small_whisper(tmp_path / "other.pt", of=tokenizer(LABELS[:-1]))
    options = f"--bpe-tokenizer {data}/tokenizer.json --teacher-path other.pt --save-dir out".split()
    code, output = run("fairseq-train", data, *USER_DIR, *TRAIN, *SMALL, *options, cwd=tmp_path)
    assert code != 0
    assert "error: the teacher's dictionary does not fit" in output.splitlines()[-1]


def test_8_bits_are_refused_for_a_format_without_them(student, forks, tmp_path):
    arguments = ["--checkpoint", student, "--format", "hf", "--out", tmp_path / "hf", "--int8"]
    status, _, err = forks.run(ROOT / "scripts" / "export.py", *arguments, cwd=tmp_path)
    assert (status, err.splitlines()[-1]) == (
        2,
        "error: --int8: found with --format hf, expected ctranslate2 or onnx",
    )
    assert not (tmp_path / "hf").exists()
