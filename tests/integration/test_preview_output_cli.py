"""preview_output.py: the same texts, from an output that is looked at twice."""

import pytest
import torch
from command_lines import ROOT
from whisper_files import write_checkpoint, write_recordings

from fairseq_prune.checkpoints.loading import load_checkpoint_file
from fairseq_prune.inference.loading import load
from fairseq_prune.modules.previewed_output import PreviewedOutput

PRELOAD = "fairseq.tasks fairseq_prune.benchmarks.output_features pandas"
SCRIPTS = ROOT / "scripts"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whisper")
    write_checkpoint(folder / "whisper.pt")
    write_recordings(folder / "audio", 2.3, 1.7, 2.9, 1.9)
    return folder


@pytest.fixture
def previewed(forks, folder, tmp_path):
    def call(*words, checkpoint=None, audio=None):
        audio = sorted((folder / "audio").glob("*.wav")) if audio is None else audio
        command = [SCRIPTS / "preview_output.py", "--checkpoint", checkpoint or folder / "whisper.pt"]
        return forks.run(
            *(*command, "--out", "fast.pt", "--minutes", 0.1, "--overwrite"), *words, *audio, cwd=tmp_path
        )

    return call


def test_a_whisper_writes_the_same_with_a_preview(previewed, folder, tmp_path):
    status, out, err = previewed("--language", "en")
    assert status == 0, err
    assert "likeliest token missed" in out and "fast.pt: " in out
    whole, fast = (
        load(path, language="en", temperatures=(0.0,))
        for path in (folder / "whisper.pt", tmp_path / "fast.pt")
    )
    assert isinstance(fast.transcriber.listener.model.decoder.output_projection, PreviewedOutput)
    audio = sorted(map(str, (folder / "audio").glob("*.wav")))
    assert fast.transcribe(audio) == whole.transcribe(audio) != [""] * len(audio)


def test_a_translator_writes_the_same_with_a_preview(previewed, trained, must_c_root, forks, tmp_path):
    audio = sorted(must_c_root.rglob("*.wav"))[:2]
    status, _, err = previewed("--candidates", 1000, "--minutes", 0.03, checkpoint=trained, audio=audio)
    assert status == 0, err
    fast = load(tmp_path / "fast.pt")
    assert isinstance(fast.pipeline.model.decoder.output_projection, PreviewedOutput)
    texts = []
    for checkpoint in (trained, "fast.pt"):
        translated = forks.run(
            SCRIPTS / "translate.py", "--checkpoint", checkpoint, audio[0], "--max-seconds", 3, cwd=tmp_path
        )
        assert translated[0] == 0, translated[2]
        texts.append(translated[1])
    assert texts[0] == texts[1] != ""


def test_the_weights_stay_and_a_second_preview_takes_the_place_of_the_first(previewed, folder, tmp_path):
    before = load_checkpoint_file(folder / "whisper.pt")["model"]
    for size in (3, 5):
        status, _, err = previewed("--directions", size, "--language", "en")
        assert status == 0, err
        found = load_checkpoint_file(tmp_path / "fast.pt")
        assert found["output_preview"]["directions"].shape[1] == size
        assert found["model"].keys() == before.keys()
        assert all(torch.equal(found["model"][name], weight) for name, weight in before.items())


@pytest.mark.parametrize(
    "words, message",
    [
        (("--directions", 1000), "--directions: found 1000, expected at most the "),
        (("--candidates", 0), "argument --candidates: found '0', expected a positive int"),
        (("--minutes", 1), "audio: found 9 s in all, expected more than 60 s"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(previewed, tmp_path, words, message):
    status, _, err = previewed(*words)
    last = err.splitlines()[-1]
    assert status == 2 and last.startswith("error: ") and message in last, err
    assert list(tmp_path.iterdir()) == []
