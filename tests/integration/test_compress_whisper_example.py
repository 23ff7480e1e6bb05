"""examples/compress_whisper on a model of random weights: the split, the grid, and a grid that was stopped."""

import json

import pandas as pd
import pytest
from command_lines import BIN, ROOT
from whisper_files import write_checkpoint, write_recordings

from fairseq_prune.checkpoints.loading import load_checkpoint_file
from fairseq_prune.data.manifest import Utterance, write_manifest

EXAMPLE = ROOT / "examples" / "compress_whisper"
SECONDS = (1.1, 0.7, 0.9, 0.8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("grid")
    write_checkpoint(folder / "whisper.pt", language=None)
    write_recordings(folder / "audio", *SECONDS)
    for split, numbers in (("train", (0, 1)), ("choose", (2, 3)), ("report", (1, 2))):
        rows = [
            Utterance(f"u{i}", f"audio/{i}.wav", 0, round(SECONDS[i] * 16000), "play the song", "x", "s")
            for i in numbers
        ]
        write_manifest(folder / f"{split}.tsv", rows)
    return folder


def grid(forks, folder, out, *words):
    arguments = ("--checkpoint", folder / "whisper.pt", "--data", folder, "--out", out, "--minutes", 0.02)
    status, printed, err = forks.run(
        EXAMPLE / "one_shot.py", *arguments, "--stage", "matrix", *words, cwd=folder
    )
    assert status == 0, err
    lines = [json.loads(line) for line in (folder / out).read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines], printed


def test_a_grid_that_was_stopped_ends_as_one_that_was_not(forks, folder):
    whole, _ = grid(forks, folder, "whole.jsonl")
    assert [line["score"] for line in whole] == ["dense", "magnitude", "wanda", "fisher", "random", "taylor"]
    assert whole[0]["pruned"] == 0 and all(abs(line["pruned"] - 0.3) < 1e-3 for line in whole[1:])
    assert all(line["words"] == [3, 3] for line in whole)
    text = (folder / "whole.jsonl").read_text()
    lines = text.splitlines(keepends=True)
    (folder / "stopped.jsonl").write_text("".join(lines[:3]) + lines[3][:40])
    resumed, printed = grid(forks, folder, "stopped.jsonl")
    assert resumed == whole
    assert printed.count("WER") == 3
    status, out, err = forks.run(
        *(EXAMPLE / "tables.py", "--results", "whole.jsonl"),
        cwd=folder,
    )
    assert status == 0, err
    assert out.count("\n| ") == 8 and "| wanda | matrix | all alike | 30 | 30.0 |" in out


def test_a_checkpoint_is_scored_once_and_drawn_beside_others(forks, folder):
    arguments = ("--checkpoint", "whisper.pt", "--data", ".", "--split", "choose", "--out", "scored.jsonl")
    for way in ("dense", "dense", "dense: int8"):
        words = (*arguments, "--way", way, *(["--int8"] if "int8" in way else []))
        status, _, err = forks.run(EXAMPLE / "score.py", *words, cwd=folder)
        assert status == 0, err
    lines = [json.loads(line) for line in (folder / "scored.jsonl").read_text().splitlines()]
    assert [line["score"] for line in lines] == ["dense", "dense: int8"]
    weights = load_checkpoint_file(folder / "whisper.pt")["model"].values()
    assert all(line["weights"] == sum(int((w != 0).sum()) for w in weights) for line in lines)
    words = ("--results", "scored.jsonl", "--plot", "frontier.png", "--most", 1000)
    status, out, err = forks.run(EXAMPLE / "frontier.py", *words, cwd=folder)
    assert status == 0 and (folder / "frontier.png").stat().st_size > 1000, err
    assert out.count("\n| dense") == 2 and "DEBUG" not in err


def test_parp_runs_as_configured(forks, folder):
    words = ("--config-dir", EXAMPLE / "config", "--config-name", "parp_tiny_en", "hydra.run.dir=parp")
    paths = (
        f"task.data={folder}",
        f"criterion.teacher_path={folder}/whisper.pt",
        f"model.whisper_path={folder}/whisper.pt",
    )
    short = ("optimization.max_update=4", "model.prune_end_update=2", "model.prune_interval=1")
    keys = (f"common.user_dir={ROOT / 'fairseq_prune'}", f"checkpoint.save_dir={folder}/parp", *paths, *short)
    status, out, err = forks.run(BIN / "fairseq-hydra-train", *words, *keys, cwd=folder)
    assert status == 0, out + err
    arguments = (
        "--checkpoint",
        "parp/checkpoint_last.pt",
        "--data",
        ".",
        "--split",
        "choose",
        "--out",
        "parp.jsonl",
    )
    status, _, err = forks.run(EXAMPLE / "score.py", *arguments, "--way", "parp-0.5", cwd=folder)
    assert status == 0, err
    [line] = [json.loads(line) for line in (folder / "parp.jsonl").read_text().splitlines()]
    assert line["pruned"] == pytest.approx(0.5, abs=1e-3)


def test_a_model_diverges_from_the_whole_one_without_a_layer_alone(forks, folder):
    cut = ("--checkpoint", "whisper.pt", "--decoder", "2", "--out", "cut.pt")
    status, _, err = forks.run(ROOT / "scripts" / "prune_layers.py", *cut, cwd=folder)
    assert status == 0, err
    words = ("--teacher", "whisper.pt", "--data", ".", "whisper.pt", "cut.pt")
    status, printed, err = forks.run(EXAMPLE / "agreement.py", *words, cwd=folder)
    assert status == 0, err
    whole, less = (row.split(" | ") for row in printed.splitlines()[2:])
    assert (
        float(whole[1]) > 90
    )  # the text lacks what Whisper never writes, such as brackets, which it may choose here
    assert whole[2] == "0.00 |" and float(less[2].rstrip(" |")) > 0


def test_results_of_other_utterances_are_refused(forks, folder):
    line = {"split": "choose", "errors": [1], "words": [3]}
    (folder / "other.jsonl").write_text(json.dumps(line) + "\n")
    arguments = ("--checkpoint", folder / "whisper.pt", "--data", folder, "--out", "other.jsonl")
    status, _, err = forks.run(EXAMPLE / "one_shot.py", *arguments, "--stage", "matrix", cwd=folder)
    assert status == 2 and "other.jsonl: found results of 1 utterances, expected 2" in err.splitlines()[-1]


def test_speakers_are_in_one_set_and_long_ones_are_to_train_on(forks, tmp_path):
    rows = [
        {
            "file": f"{speaker}-{n}.flac",
            "seconds": 400.0 if speaker == 5 else 9.0,
            "text": "HELLO",
            "speaker": speaker,
        }
        for speaker in range(20)
        for n in range(3)
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "table.tsv", sep="\t", index=False)
    sets = {}
    for out, seed in (("a.tsv", 1), ("b.tsv", 1), ("c.tsv", 2)):
        words = ("--table", "table.tsv", "--out", out, "--seed", seed)
        status, _, err = forks.run(EXAMPLE / "split.py", *words, cwd=tmp_path)
        assert status == 0, err
        found = pd.read_csv(tmp_path / out, sep="\t").groupby("speaker")["set"].unique()
        assert all(len(names) == 1 for names in found)
        sets[out] = {speaker: names[0] for speaker, names in found.items()}
        counts = pd.Series(sets[out]).value_counts()
        assert counts["choose"] == 5 and counts["report"] == 10 and sets[out][5] == "train"
    assert sets["a.tsv"] == sets["b.tsv"] != sets["c.tsv"]
    pd.DataFrame(rows[:9]).to_csv(tmp_path / "few.tsv", sep="\t", index=False)
    status, _, err = forks.run(
        *(EXAMPLE / "split.py", "--table", "few.tsv", "--out", "d.tsv"),
        cwd=tmp_path,
    )
    assert status == 2 and "found 3 speakers of at most 300 s, expected more than 15" in err
