"""scripts/export.py on a compressed encoder, and on what it cannot write."""

import hashlib
import json

import pytest
import torch
import yaml
from command_lines import ROOT
from small_encoder import make_encoder

from fairseq_prune.checkpoints.hubert.own import save_pruned_hubert
from fairseq_prune.checkpoints.hubert.reading import read_hubert

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
    assert sorted(path.name for path in (folder / "exports").iterdir()) == ["x.pth", "x.pth.md"]


def cells(card, title):
    """{first cell: others} of the table under a title."""
    rows = card.partition(f"## {title}\n\n")[2].partition("\n\n")[0].splitlines()[2:]
    cut = [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows]
    return {first: others for first, *others in cut}


def test_the_model_card_says_what_can_be_measured_again(folder, forks):
    state = torch.load(folder / "uneven.pt", weights_only=True)
    state["model"]["encoder.layers.0.self_attn.q_proj.weight"][:12] = 0
    torch.save(state, folder / "sparse.pt")
    (folder / "report.json").write_text(json.dumps({"WER": 4.5, "errors": {"WER": "9/200"}}))
    words = (
        "--checkpoint",
        "sparse.pt",
        "--format",
        "dphubert",
        "--out",
        "card/x.pth",
        "--results",
        "report.json",
    )
    code, _, errors = forks.run(SCRIPT, *words, cwd=folder)
    assert code == 0, errors
    card = (folder / "card" / "x.pth.md").read_text()
    header = yaml.safe_load(card.split("---")[1])
    assert header["pipeline_tag"] == "feature-extraction" and header["library_name"] == "torchaudio"
    encoder = make_encoder(heads=(3, 0), units=(0, 20))
    weights = {
        name: value for name, value in state["model"].items() if name in dict(encoder.named_parameters())
    }
    said = cells(card, "Model")
    total = sum(value.numel() for value in weights.values())
    assert said["parameters"] == [f"{total:,}"]
    layers = [value for name, value in weights.items() if ".layers." in name and "norm" not in name]
    share = sum(int((value == 0).sum()) for value in layers) / sum(value.numel() for value in layers)
    assert said["zeros in the matrices of layers"] == [str(round(share, 4))] and share > 0.05
    assert said["MACs of the encoder, 10 s"] == [f"{encoder.macs(160_000)['total']:,}"]
    content = (folder / "card" / "x.pth").read_bytes()
    assert cells(card, "Files") == {"x.pth": [f"{len(content):,}", hashlib.sha256(content).hexdigest()]}
    assert hashlib.sha256((folder / "sparse.pt").read_bytes()).hexdigest() in card
    assert cells(card, "Results, as measured in `report.json`") == {"WER": ["4.5"], "errors WER": ["9/200"]}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--format", "torchaudio"], "layers of one shape"),
        (["--format", "gguf"], "--format: found 'gguf', expected one of dphubert, hf, onnx, torchaudio"),
        (["--format", "dphubert", "--results", "no.json"], "no.json: no such file of results"),
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
