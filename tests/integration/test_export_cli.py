"""scripts/export.py on a compressed encoder, and on what it cannot write."""

import pytest
from command_lines import ROOT
from small_encoder import make_encoder

from fairseq_prune.checkpoints.hubert.own import save_pruned_hubert
from fairseq_prune.checkpoints.hubert.reading import read_hubert

PRELOAD = "fairseq_prune.inference.translation fairseq_prune.checkpoints.hubert.export"
SCRIPT = ROOT / "scripts" / "export.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    save_pruned_hubert(make_encoder(heads=(3, 0), units=(0, 20)), folder / "uneven.pt")
    return folder


def test_a_compressed_encoder_becomes_a_file_that_is_read_again(folder, forks):
    words = ("--checkpoint", "uneven.pt", "--format", "dphubert", "--out", "exports/x.pth")
    code, output, errors = forks.run(SCRIPT, *words, cwd=folder)
    assert code == 0, errors
    assert "exports/x.pth: dphubert, loaded back with equal outputs" in output
    assert read_hubert(folder / "exports" / "x.pth").architecture["pruned"]["heads"] == [3, 1]
    assert [path.name for path in (folder / "exports").iterdir()] == ["x.pth"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--format", "torchaudio"], "layers of one shape"),
        (["--format", "gguf"], "--format: found 'gguf', expected one of dphubert, hf, onnx, torchaudio"),
        (["--format", "hf", "--out", "uneven.pt"], "uneven.pt already exists"),
        (["--format", "onnx", "--checkpoint", "gone.pt"], "gone.pt: no such checkpoint"),
    ],
)
def test_what_cannot_be_written_is_one_line_and_leaves_nothing(folder, forks, words, message):
    before = sorted(folder.rglob("*"))
    arguments = ["--checkpoint", "uneven.pt", "--out", "bad", *words]
    code, _, errors = forks.run(SCRIPT, *arguments, cwd=folder)
    assert code == 2 and errors.startswith("error: ") and message in errors and len(errors.splitlines()) == 1
    assert sorted(folder.rglob("*")) == before
