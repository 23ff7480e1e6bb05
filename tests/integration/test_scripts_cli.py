"""The scripts that use checkpoints, as programs: what they print and write, and how they refuse bad input."""

import csv
import json
import subprocess
import sys

import matplotlib.image
import numpy as np
import pytest
import soundfile
import yaml
from command_lines import ROOT

from fairseq_prune.inference.translation import Translator

SCRIPTS = ROOT / "scripts"
FORMATS = {  # file: rate, channels
    "speech.wav": (16000, 1),
    "speech.flac": (16000, 1),
    "speech.ogg": (16000, 1),
    "telephone.wav": (8000, 1),
    "stereo.wav": (44100, 2),
}


@pytest.fixture(scope="module")
def audio(tmp_path_factory):
    """Recordings of 2 s in many formats; one of 30 s with a pause every 1.5 s, one of 100 samples, and no audio."""
    folder = tmp_path_factory.mktemp("audio")
    for name, (rate, channels) in FORMATS.items():
        time = np.arange(2 * rate) / rate
        tone = 0.3 * np.sin(2 * np.pi * (500 + 100 * np.floor(4 * time)) * time)
        soundfile.write(folder / name, np.stack([tone] * channels, axis=1), rate)
    time = np.arange(30 * 16000) / 16000
    talk = 0.3 * np.sin(2 * np.pi * (300 + 10 * np.floor(time)) * time) * (time % 1.5 < 1.1)
    soundfile.write(folder / "long.wav", talk, 16000)
    soundfile.write(folder / "scrap.wav", talk[:100], 16000)
    soundfile.write(folder / "empty.wav", talk[:0], 16000)
    (folder / "text.wav").write_text("not audio")
    return folder


@pytest.fixture
def translate(forks, audio, trained):
    """Exit status, stdout and stderr of translate.py in the folder of the recordings."""

    def call(*arguments, checkpoint=trained):
        return forks.run(
            SCRIPTS / "translate.py", "--checkpoint", checkpoint, "--beam", 2, *arguments, cwd=audio
        )

    return call


def test_translate_reads_many_formats_and_does_not_depend_on_the_batch_size(translate):
    names = [*FORMATS, "scrap.wav", "long.wav", "speech.wav"]
    code, together, errors = translate(*names, "--batch-size", 8, "--max-seconds", 4)
    assert code == 0, errors
    texts = [line.split("\t") for line in together.splitlines()]
    assert [name for name, _ in texts] == names
    assert texts[0][1] and texts[0][1] == texts[1][1] == texts[-1][1]
    assert dict(texts)["scrap.wav"] == ""
    assert translate(*names, "--batch-size", 1, "--max-seconds", 4)[1] == together


def test_translate_in_8_bits(translate):
    code, output, errors = translate("speech.wav", "--int8")
    assert code == 0, errors
    assert output.startswith("speech.wav\t")


def test_translate_cuts_long_files_in_pauses_and_says_where(translate):
    code, output, errors = translate("long.wav", "speech.wav", "--json", "--max-seconds", 4)
    assert code == 0, errors
    long, short = map(json.loads, output.splitlines())
    times = np.array([(segment["start"], segment["end"]) for segment in long["segments"]])
    assert len(times) > 6 and np.all(times[1:, 0] >= times[:-1, 1])
    assert np.max(times[:, 1] - times[:, 0]) <= 4
    # the pieces are trimmed to what is heard: 1.1 s of every 1.5 s
    distance = [np.abs(times[:, 0] % 1.5 - place) for place in (0, 1.5)]
    assert np.max(np.minimum(*distance)) < 0.1
    assert np.max(np.abs(times[:, 1] % 1.5 - 1.1)) < 0.1
    assert long["text"] == " ".join(segment["text"] for segment in long["segments"] if segment["text"])
    assert short["segments"] == [{"start": 0.0, "end": 2.0, "text": short["text"]}]


def test_translate_cuts_by_what_the_checkpoint_has_heard_and_warns_of_longer_pieces(translate, trained):
    heard = Translator(str(trained)).heard
    assert 0 < heard["typical"] <= heard["longest"]
    code, output, errors = translate("long.wav", "--json")
    assert code == 0 and "--max-seconds" not in errors
    for segment in json.loads(output)["segments"]:
        assert segment["end"] - segment["start"] <= heard["longest"]
    code, _, errors = translate("long.wav", "--max-seconds", 29)
    expected = f"--max-seconds 29: the model has learned from utterances of up to {heard['longest']:.1f} s"
    assert code == 0 and expected in errors


def test_translate_starts_as_a_program_and_prints_nothing_else(trained, audio):
    command = [sys.executable, SCRIPTS / "translate.py", "--checkpoint", trained, "speech.wav"]
    run = subprocess.run([str(word) for word in command], cwd=audio, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("speech.wav\t") and run.stdout.count("\n") == 1


BAD_TRANSLATIONS = {
    "missing file": (["none.wav"], "none.wav: no such audio file"),
    "text": (["speech.wav", "text.wav"], "text.wav: expected an audio file"),
    "no samples": (["empty.wav"], "empty.wav: expected audio, found a file of 0 samples"),
    "no checkpoint": (["speech.wav", "--checkpoint", "text.wav"], "text.wav: no checkpoint, or a broken one"),
    "overrides that are no dict": (["speech.wav", "--model-overrides", "{'a"], "expected a dict of options"),
    "override of nothing": (["speech.wav", "--model-overrides", "{'keep': 1}"], "has no option 'keep'"),
    "keep ratio": (
        ["speech.wav", "--model-overrides", "{'token_keep_ratio': 1.5}"],
        "found 1.5, expected a share of frames to keep in (0, 1]",
    ),
    "keep ratio in letters": (["speech.wav", "--model-overrides", "{'token_keep_ratio': 'x'}"], "'x'"),
    "batch size": (["speech.wav", "--batch-size", "0"], "--batch-size: found '0', expected a positive int"),
    "length": (["speech.wav", "--max-seconds", "0.1"], "longest piece: found 0.1 s"),
    "device": (["speech.wav", "--device", "abacus"], "device 'abacus' cannot be used"),
}


def assert_one_line(outcome, message):
    code, output, errors = outcome
    assert code == 2 and output == ""
    assert errors.startswith("error: ") and errors.count("\n") == 1 and message in errors


@pytest.mark.parametrize("case", BAD_TRANSLATIONS)
def test_translate_refuses(case, translate):
    arguments, message = BAD_TRANSLATIONS[case]
    assert_one_line(translate(*arguments), message)


@pytest.fixture
def show(forks, audio, trained):
    """Exit status, stdout and stderr of show_pruning.py, whose checkpoint keeps 0.8 in each of 2 layers."""

    def call(*arguments, cwd):
        return forks.run(
            *(SCRIPTS / "show_pruning.py", "--checkpoint", trained, audio / "long.wav", *arguments), cwd=cwd
        )

    return call


@pytest.mark.parametrize("name, start", [("kept.pdf", b"%PDF"), ("kept.svg", b"<?xml")])
def test_a_picture_is_in_the_format_of_its_name(name, start, show, tmp_path):
    code, output, errors = show("--seconds", 0.5, "--out", f"new/{name}", cwd=tmp_path)
    assert code == 0, errors
    assert (tmp_path / "new" / name).read_bytes().startswith(start)
    # 0.5 s are 23 frames, of which 19 leave the first layer and 16 the second
    assert output.startswith(f"new/{name}: 16 of 23 frames reach the decoder; it writes: ")


@pytest.mark.parametrize("seconds", [0.5, 20])
def test_a_picture_has_ink_in_all_its_parts(seconds, show, tmp_path):
    code, _, errors = show("--start", 0.1, "--seconds", seconds, cwd=tmp_path)
    assert code == 0, errors
    grey = matplotlib.image.imread(tmp_path / "kept.png")[..., :3].mean(-1)
    assert min((band < 0.9).mean() for band in np.array_split(grey[100:-100, 150:-150], 4)) > 0.02


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--out", "kept.docx"], "--out: found 'kept.docx', expected a name that ends in .png, .pdf, .svg"),
        (["--start", 29.9, "--seconds", 1], "long.wav: expected samples 478400 to 494400"),
        (["--seconds", 0.01], "a waveform of 160 samples is too short"),
    ],
)
def test_show_pruning_refuses(arguments, message, show, tmp_path):
    assert_one_line(show(*arguments, cwd=tmp_path), message)


def sweep(forks, cwd, data, checkpoints, *arguments):
    quick = ["--beam", 1, "--timed-utterances", 2, "--repeats", 1, "--out", "report"]
    return forks.run(
        *(SCRIPTS / "sweep_pruning.py", "--checkpoint", *checkpoints, "--data", data, *quick, *arguments),
        cwd=cwd,
    )


def read_table(folder):
    with open(folder / "sweep.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_sweep_compares_checkpoints_ratios_and_criteria(forks, prepared_data, trained, tmp_path):
    (tmp_path / "second").mkdir()
    second = tmp_path / "second" / "checkpoint.pt"
    second.write_bytes(trained.read_bytes())
    options = ["--keep-ratios", 1.0, 0.8, 0.5, "--criteria", "received", "random"]
    code, output, errors = sweep(forks, tmp_path, prepared_data, [trained, second], *options)
    assert code == 0, errors
    rows = read_table(tmp_path / "report")
    # the checkpoint prunes, so that the model without pruning is a row, the first
    assert [(row["model"], row["criterion"], row["keep ratio"]) for row in rows] == [
        ("out", "none", "1.0"),
        ("out", "received", "0.8"),
        ("second", "received", "0.8"),
        ("out", "received", "0.8"),
        ("out", "received", "0.5"),
        ("out", "random", "0.8"),
        ("out", "random", "0.5"),
        ("ignores the audio", "", ""),
    ]
    ratios = [
        [float(row[name]) for name in ("encoder MACs", "encoder time", "total time")] for row in rows[:-1]
    ]
    assert ratios[0] == [1, 1, 1] and np.min(ratios) > 0
    kept = [float(row["frames kept %"]) for row in rows[:-1]]
    assert kept[0] == 100 and 64 <= kept[1] < 74 and 25 <= kept[4] < 35
    assert ratios[4][0] < ratios[1][0] < 1
    for name in ("BLEU", "chrF"):
        assert rows[1][name] == rows[2][name] == rows[3][name]
        assert all(0 <= float(row[name]) <= 100 for row in rows)
    table = (tmp_path / "report" / "sweep.md").read_text(encoding="utf-8")
    assert table in output and table.count("\n| ") == len(rows) + 1
    assert matplotlib.image.imread(tmp_path / "report" / "sweep.png").std() > 0


def test_a_sweep_over_one_utterance_has_no_others_to_take_for_it(forks, prepared_data, trained, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    for path in prepared_data.iterdir():
        (data / path.name).write_bytes(path.read_bytes())
    config = yaml.safe_load((data / "config.yaml").read_text(encoding="utf-8"))
    config["audio_root"] = str((prepared_data / config["audio_root"]).resolve())
    (data / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    lines = (prepared_data / "dev.tsv").read_text(encoding="utf-8").splitlines(keepends=True)
    (data / "one.tsv").write_text("".join(lines[:2]), encoding="utf-8")
    code, _, errors = sweep(forks, tmp_path, data, [trained], "--split", "one", "--keep-ratios", 0.5)
    assert code == 0, errors
    assert [row["keep ratio"] for row in read_table(tmp_path / "report")] == ["0.8", "0.5"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--keep-ratios", 0.9, 0], "--keep-ratios: found 0.0, expected a share of frames to keep in (0, 1]"),
        (["--keep-ratios", 1.5], "--keep-ratios: found 1.5"),
        (["--keep-ratios", 0.4, "--criteria", "merge"], "merging can at most halve the frames"),
        (["--keep-ratios", 0.9, "--start-layer", 3], "first pruning layer: found 3, expected 1 to 2"),
        (["--criteria", "best"], "argument --criteria: invalid choice: 'best'"),
        (["--split", "tst-none"], "tst-none"),
        (["--repeats", 0], "--repeats: found '0', expected a positive int"),
    ],
)
def test_a_sweep_refuses_before_it_translates(arguments, message, forks, prepared_data, trained, tmp_path):
    assert_one_line(sweep(forks, tmp_path, prepared_data, [trained], *arguments), message)
