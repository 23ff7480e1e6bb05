"""scripts/compress_hubert.py on checkpoints as a dphubert leaves them, and on what is none."""

from types import SimpleNamespace

import pytest
from command_lines import ROOT

from fairseq_prune.checkpoints.hubert.reading import read_hubert

SCRIPT = ROOT / "scripts" / "compress_hubert.py"


@pytest.fixture
def checkpoint(tmp_path):
    from hubert_files import BASE, make_gated, save_dphubert

    def save(name="dphubert.pt", close=None, **options):
        gated = make_gated(BASE)
        if close is not None:
            gated.gates["conv_channels"][close].log_alpha.data.fill_(-9.0)
        return save_dphubert(tmp_path / name, gated, **options)

    return save


def test_it_cuts_says_what_it_cut_and_runs_again_on_its_own_output(checkpoint, forks, tmp_path):
    code, output, errors = forks.run(
        SCRIPT, "--checkpoint", checkpoint(), "--out", "small/pruned.pt", cwd=tmp_path
    )
    assert (code, errors) == (0, "")
    pruned = read_hubert(tmp_path / "small" / "pruned.pt")
    parameters = sum(value.numel() for value in pruned.state_dict.values())
    assert (
        f" -> {parameters:,} (" in output and f"heads by layer: {pruned.config['pruned']['heads']}" in output
    )
    assert [path.name for path in (tmp_path / "small").iterdir()] == ["pruned.pt"]
    again = ("--checkpoint", "small/pruned.pt", "--out", "again.pt")
    code, output, _ = forks.run(SCRIPT, *again, cwd=tmp_path)
    assert code == 0 and "there were no gates" in output
    assert read_hubert(tmp_path / "again.pt").architecture == pruned.architecture


def test_a_cut_that_changes_the_outputs_is_an_error_and_leaves_nothing(checkpoint, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    import compress_hubert

    def materialise(gated):
        small, architecture = cut(gated)
        small.encoder.layers[1].final_layer_norm.bias.data += 1e-4
        return small, architecture

    cut = compress_hubert.materialise
    monkeypatch.setattr(compress_hubert, "materialise", materialise)
    args = SimpleNamespace(checkpoint=checkpoint(), out=tmp_path / "pruned.pt", overwrite=False)
    with pytest.raises(ValueError, match="outputs of the cut encoder differ by .*, expected 1e-05"):
        compress_hubert.main(args)
    assert [path.name for path in tmp_path.iterdir()] == ["dphubert.pt"]


@pytest.mark.parametrize(
    "options, arguments, message",
    [
        ({"close": "2"}, [], "the gates close all 16 channels of convolution 2"),
        ({"_name": "hubert"}, [], "a.pt: a checkpoint of model 'hubert', expected"),
        (
            {"student_config": None},
            [],
            "a.pt: option student_config of the model dphubert holds no architecture",
        ),
        ({}, ["--out", "a.pt"], "a.pt already exists: choose another --out, or give --overwrite"),
        ({}, ["--checkpoint", "gone.pt"], "gone.pt: no such checkpoint"),
        ({}, ["--checkpoint", str(SCRIPT)], "compress_hubert.py: no checkpoint, or a broken one"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(checkpoint, forks, tmp_path, options, arguments, message):
    checkpoint("a.pt", **options)
    defaults = ("--checkpoint", "a.pt", "--out", "pruned.pt")
    code, _, errors = forks.run(SCRIPT, *defaults, *arguments, cwd=tmp_path)
    assert code == 2 and errors.count("\n") == 1 and errors.startswith("error: ") and message in errors
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]
