"""scripts/extract_features.py against the encoder and against transformers."""

import numpy as np
import pytest
import safetensors.torch
import torch
from command_lines import ROOT
from tones import write_hubert, write_tones

from fairseq_prune.data.audio import read_audio
from fairseq_prune.data.waveform_manifest import write_waveform_manifest

SCRIPT = ROOT / "scripts" / "extract_features.py"
LENGTHS = [6400, 9000, 400, 7000]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("features")
    names = write_tones(folder / "audio", LENGTHS)
    write_waveform_manifest(folder / "all.tsv", folder / "audio", names, LENGTHS)
    write_hubert(folder / "hubert.pt")
    return folder


def test_every_layer_of_every_file_as_npy(folder, forks):
    words = ("--checkpoint", "hubert.pt", "--manifest", "all.tsv", "--out", "npy", "--batch-seconds", "1")
    code, output, errors = forks.run(SCRIPT, *words, cwd=folder)
    assert code == 0, errors
    shapes = {path.name: np.load(path).shape for path in (folder / "npy").rglob("*.npy")}
    frames = [(n - 400) // 320 + 1 for n in LENGTHS]
    assert shapes == {f"{i:02}.npy": (3, n, 32) for i, n in enumerate(frames)}
    assert "3 layers of 4 files" in output


def test_one_file_of_chosen_layers_alone_and_in_a_batch(folder, forks):
    files = ["audio/a/00.wav", "audio/b/01.wav"]
    found = []
    for out, audio in (("both.safetensors", files), ("one.safetensors", files[:1])):
        words = (*audio, "--checkpoint", "hubert.pt", "--out", out, "--layers", "0", "2")
        code, _, errors = forks.run(SCRIPT, *words, cwd=folder)
        assert code == 0, errors
        found.append(safetensors.torch.load_file(folder / out))
    assert set(found[0]) == set(files)
    torch.testing.assert_close(found[0][files[0]], found[1][files[0]], rtol=1e-4, atol=1e-5)


def test_the_features_are_those_of_transformers(folder, forks):
    transformers = pytest.importorskip("transformers", reason="in the extra 'test' of the current stack only")
    config = transformers.HubertConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        conv_dim=[16] * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
    )
    torch.manual_seed(0)
    model = transformers.HubertModel(config).eval()
    model.save_pretrained(folder / "hf")
    words = ("audio/a/00.wav", "--checkpoint", "hf", "--out", "hf.safetensors")
    code, _, errors = forks.run(SCRIPT, *words, cwd=folder)
    assert code == 0, errors
    waveform = torch.from_numpy(read_audio(folder / "audio/a/00.wav")).unsqueeze(0)
    with torch.no_grad():
        expected = model(waveform, output_hidden_states=True).hidden_states
    found = safetensors.torch.load_file(folder / "hf.safetensors")["audio/a/00.wav"]
    torch.testing.assert_close(found, torch.cat(expected), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["audio/a/00.wav", "--layers", "3"], "--layers: found [3], expected numbers from 0 to 2"),
        (["nothing.wav"], "nothing.wav: no such audio file"),
        ([], "no audio files"),
        (["audio/a/00.wav", "../x/00.wav", "/y/00.wav"], "two audio files would be written to 00.npy"),
    ],
)
def test_bad_input_is_one_line(folder, forks, words, message):
    code, _, errors = forks.run(SCRIPT, *words, "--checkpoint", "hubert.pt", "--out", "bad", cwd=folder)
    assert code == 2 and errors.startswith("error: ") and message in errors and len(errors.splitlines()) == 1
    assert not (folder / "bad").exists()
