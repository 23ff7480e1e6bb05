"""prune_layers.py with units and heads that speech ranks, and with matrices that make up for what is gone."""

import pytest
import torch
from command_lines import ROOT
from whisper_files import write_checkpoint, write_recordings

from fairseq_prune.benchmarks.weight_calibration import own_texts, structure_moments, structure_scores
from fairseq_prune.checkpoints.loading import load_checkpoint_file
from fairseq_prune.data.audio import read_audio
from fairseq_prune.inference.whisper.loading import WhisperPipeline
from fairseq_prune.inference.whisper.windows import Window

PRELOAD = (
    "fairseq.tasks fairseq_prune.benchmarks.weight_calibration fairseq_prune.inference.translation pandas"
)
SCRIPT = ROOT / "scripts" / "prune_layers.py"
UNITS = 30


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whisper")
    write_checkpoint(folder / "whisper.pt")
    write_recordings(folder / "audio", 1.1, 0.8)
    return folder


@pytest.fixture
def cut(forks, folder, tmp_path):
    def call(*words):
        speech = () if "none" in words else sorted((folder / "audio").glob("*.wav"))
        words = [word for word in words if word != "none"]
        return forks.run(
            *(SCRIPT, "--checkpoint", folder / "whisper.pt", "--out", "cut.pt"), *words, *speech, cwd=tmp_path
        )

    return call


def hidden(path, clip):
    """The decoder's last states on a clip's text."""
    model = WhisperPipeline(path).model
    with torch.no_grad():
        return model(
            clip.features[None], torch.tensor([len(clip.features)]), torch.tensor([clip.tokens[:-1]])
        )[0]


@pytest.fixture(scope="module")
def clips(folder):
    files = sorted((folder / "audio").glob("*.wav"))
    windows = [Window(0, torch.from_numpy(read_audio(path))) for path in files]
    return own_texts(WhisperPipeline(folder / "whisper.pt"), windows, "en")


@pytest.mark.parametrize("rank", ["activation", "taylor", "fisher"])
def test_the_units_that_stay_are_the_most_important_ones(cut, folder, tmp_path, clips, rank):
    status, out, err = cut("--units", UNITS, "--rank", rank, "--language", "en")
    assert status == 0, err
    model = WhisperPipeline(folder / "whisper.pt").model
    scores = structure_scores(rank, model, clips, structure_moments(model, clips))
    whole, small = (
        load_checkpoint_file(path)["model"] for path in (folder / "whisper.pt", tmp_path / "cut.pt")
    )
    for layer in ("encoder.layers.1.", "decoder.layers.2."):
        kept = scores[f"{layer}fc2.weight"].topk(UNITS).indices.sort().values
        assert torch.equal(small[f"{layer}fc1.weight"], whole[f"{layer}fc1.weight"][kept])
        assert torch.equal(small[f"{layer}fc2.weight"], whole[f"{layer}fc2.weight"][:, kept])
    assert "parameters" in out


def test_what_makes_up_for_the_cut_brings_the_model_nearer_to_itself(cut, folder, tmp_path, clips):
    dense = [hidden(folder / "whisper.pt", clip) for clip in clips]
    distances = []
    for words in (("--rank", "activation"), ("--rank", "activation", "--refit")):
        status, _, err = cut("--units", 40, "--heads", 3, "--language", "en", "--overwrite", *words)
        assert status == 0, err
        found = [hidden(tmp_path / "cut.pt", clip) for clip in clips]
        distances.append(sum(float((a - b).square().mean()) for a, b in zip(found, dense)))
    assert distances[1] < 0.7 * distances[0]


def test_what_the_norms_of_the_whole_model_choose_is_made_up_for_too(cut, folder, tmp_path, clips):
    distances = []
    dense = [hidden(folder / "whisper.pt", clip) for clip in clips]
    for words in ((), ("--refit", "--language", "en")):
        speech = words or ("none",)
        status, _, err = cut("--units", 40, "--heads", 3, "--overwrite", *speech)
        assert status == 0, err
        found = [hidden(tmp_path / "cut.pt", clip) for clip in clips]
        distances.append(sum(float((a - b).square().mean()) for a, b in zip(found, dense)))
    assert distances[1] < 0.7 * distances[0]


@pytest.mark.parametrize("narrower", [(), ("--units", 44, "--rank", "activation")])
def test_a_layer_that_is_gone_is_made_up_for_by_those_that_stay(cut, folder, tmp_path, clips, narrower):
    distances = []
    dense = [hidden(folder / "whisper.pt", clip) for clip in clips]
    speech = () if narrower else ("none",)
    for words in (("--decoder", "1,3", *speech), ("--decoder", "1,3", "--refit")):
        status, out, err = cut(*words, *narrower, "--language", "en", "--overwrite")
        assert status == 0, err
        assert "decoder: layers 1, 3 of 3" in out
        found = [hidden(tmp_path / "cut.pt", clip) for clip in clips]
        distances.append(sum(float((a - b).square().mean()) for a, b in zip(found, dense)))
    assert distances[1] < 0.7 * distances[0]
    assert [path.name for path in tmp_path.iterdir()] == ["cut.pt"]


@pytest.mark.parametrize(
    "words, message",
    [
        (("--units", 30), "--rank norm needs no speech, found some"),
        (("--units", 30, "--rank", "activation", "none"), "expected either --manifest or audio files"),
        (("--refit", "--decoder", "1+2,3"), "--decoder: merged layers cannot be fitted to one"),
        (("--rank", "activation", "--decoder", "1"), "nothing to rank, expected --units or --heads"),
        (("--units", 30, "--rank", "best"), "invalid choice: 'best'"),
    ],
)
def test_bad_input_is_one_line(cut, tmp_path, words, message):
    status, _, err = cut(*words)
    last = err.splitlines()[-1]
    assert status == 2 and last.startswith("error: ") and message in last, err
    assert list(tmp_path.iterdir()) == []
