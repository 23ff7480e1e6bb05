"""prune_weights.py and plan_sparsity.py on models of random weights: exact zeros, files for all others, bad input."""

import json
import re

import pytest
import soundfile
import torch
from command_lines import ROOT
from whisper_files import write_checkpoint, write_recordings

from fairseq_prune.checkpoints.loading import load_checkpoint_file
from fairseq_prune.data.manifest import Utterance, write_manifest
from fairseq_prune.pruning.components import by_component

PRUNE, PLAN, SPARSITY, TRANSCRIBE = (
    ROOT / "scripts" / f"{name}.py" for name in ("prune_weights", "plan_sparsity", "sparsity", "transcribe")
)
CTC = ROOT / "tests" / "checkpoints" / "of_5d3c2e6" / "recognition.pt"
SECONDS = (2.5, 0.7, 1.1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whisper")
    write_checkpoint(folder / "whisper.pt")
    write_recordings(folder / "audio", *SECONDS)
    rows = [
        Utterance(f"u{i}", f"audio/{i}.wav", 0, round(seconds * 16000), "text", "text", "s")
        for i, seconds in enumerate(SECONDS)
    ]
    write_manifest(folder / "train.tsv", rows)
    (folder / "audio.tsv").write_text("audio\n0.wav\t40000\n1.wav\t11200\n")
    return folder


def files(folder):
    return sorted((folder / "audio").glob("*.wav"))


@pytest.fixture
def prune(forks, folder, tmp_path):
    """Exit status, stdout and stderr of prune_weights.py, which writes out.pt."""

    def call(*words, checkpoint="whisper.pt", out="out.pt"):
        return forks.run(PRUNE, "--checkpoint", folder / checkpoint, "--out", out, *words, cwd=tmp_path)

    return call


def weights(path):
    return {name: w for name, w in load_checkpoint_file(path)["model"].items() if isinstance(w, torch.Tensor)}


def zeros_by_component(found):
    return {
        component: sum(int((found[name] == 0).sum()) for name in names)
        / sum(found[name].numel() for name in names)
        for component, names in by_component(found).items()
    }


@pytest.mark.parametrize("score", ["magnitude", "wanda", "taylor", "fisher", "random"])
def test_the_sparsity_is_exact_and_what_stays_is_as_it_was(prune, folder, tmp_path, score):
    speech = () if score in ("magnitude", "random") else (*files(folder), "--language", "en")
    status, out, err = prune("--score", score, "--scope", "matrix", "--sparsity", 0.5, *speech)
    assert status == 0, err
    before, after = weights(folder / "whisper.pt"), weights(tmp_path / "out.pt")
    assert list(before) == list(after)
    pruned = {name for names in by_component(before).values() for name in names}
    for name, weight in after.items():
        if name in pruned:
            assert int((weight == 0).sum()) == weight.numel() // 2
            assert torch.equal(weight[weight != 0], before[name][weight != 0])
        else:
            assert torch.equal(weight, before[name])
    assert "0.5000 of those that were ranked" in out


def test_rows_are_the_scope_of_wanda(prune, folder, tmp_path):
    status, _, err = prune("--sparsity", 0.25, "--manifest", folder, "--language", "en")
    assert status == 0, err
    found = weights(tmp_path / "out.pt")
    for names in by_component(found).values():
        for name in names:
            assert ((found[name] == 0).sum(1) == found[name].size(1) // 4).all()


def test_scores_of_speech_depend_on_it_and_on_nothing_else(prune, folder, tmp_path):
    words = ("--sparsity", 0.5, "--language", "en", "--score", "wanda")
    for out, speech in (
        ("a.pt", files(folder)[:2]),
        ("b.pt", ("--manifest", folder / "audio.tsv", "--batch-size", 1)),
        ("c.pt", files(folder)[2:]),
    ):
        status, _, err = prune(*words, *speech, out=out)
        assert status == 0, err
    a, b, c = (zeros(tmp_path / f"{name}.pt") for name in "abc")
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not all(torch.equal(a[name], c[name]) for name in a)


def test_with_least_squares_the_zeros_are_the_same_and_what_stays_says_what_was_said(prune, folder, tmp_path):
    words = ("--sparsity", 0.5, *files(folder), "--language", "en")
    assert prune(*words, out="plain.pt")[0] == 0
    status, _, err = prune(*words, "--refit", out="refit.pt")
    assert status == 0, err
    dense, plain, refit = (
        weights(path) for path in (folder / "whisper.pt", tmp_path / "plain.pt", tmp_path / "refit.pt")
    )
    pruned = {name for names in by_component(dense).values() for name in names}
    biases = {name.replace(".weight", ".bias") for name in pruned}
    for name, weight in refit.items():
        if name in pruned:
            assert torch.equal(weight == 0, plain[name] == 0)
            assert not torch.equal(weight, plain[name])
        elif name not in biases:
            assert torch.equal(weight, dense[name])


def test_least_squares_follow_scores_that_need_no_speech(prune, folder, tmp_path):
    words = ("--score", "magnitude", "--sparsity", 0.5, "--refit")
    status, _, err = prune(*words, *files(folder), "--language", "en")
    assert status == 0, err
    status, _, err = prune(*words, out="none.pt")
    assert status != 0 and "expected either --manifest or audio files" in err
    status, _, err = prune(*words, *files(folder), checkpoint=CTC, out="none.pt")
    assert status != 0 and f"--refit: {CTC} is no Whisper, expected one" in err
    assert not (tmp_path / "none.pt").exists()


def zeros(path):
    return {name: weight == 0 for name, weight in weights(path).items()}


def test_components_have_sparsities_of_their_own(prune, tmp_path):
    given = "encoder.self_attn=0.25,decoder.fc=0.5"
    status, out, err = prune("--score", "magnitude", "--scope", "global", "--sparsity", given)
    assert status == 0, err
    found = zeros_by_component(weights(tmp_path / "out.pt"))
    assert found == {
        "encoder.self_attn": 0.25,
        "encoder.fc": 0.0,
        "decoder.self_attn": 0.0,
        "decoder.encoder_attn": 0.0,
        "decoder.fc": 0.5,
    }
    assert "| encoder.self_attn | 8,192 | 0.2500 |" in out


def test_the_file_is_one_for_the_other_programs(prune, forks, folder, tmp_path):
    assert prune("--score", "magnitude", "--scope", "row", "--sparsity", 0.75)[0] == 0
    status, out, err = forks.run(SPARSITY, "report", "out.pt", cwd=tmp_path)
    assert status == 0, err
    assert "magnitude-row after update 0, mask fixed: stated sparsity 0.750000" in out
    assert "sparsity 0.750000" in out
    status, out, err = forks.run(
        SPARSITY, "finalize", "out.pt", "--out", "small.pt", "--compact", cwd=tmp_path
    )
    assert status == 0, err
    texts = {}
    for name in ("out.pt", "small.pt"):
        words = ("--language", "en", "--temperature", "0", "--no-speech-threshold", "1")
        status, out, err = forks.run(TRANSCRIBE, "--checkpoint", name, files(folder)[0], *words, cwd=tmp_path)
        assert status == 0, err
        texts[name] = out
    assert texts["out.pt"] == texts["small.pt"] != ""
    # a sparse file can be pruned further; its zeros stay
    again = ("--checkpoint", "out.pt", "--score", "magnitude", "--scope", "row", "--sparsity", 0.875)
    status, _, err = forks.run(PRUNE, *again, "--out", "again.pt", cwd=tmp_path)
    assert status == 0, err
    first, second = zeros(tmp_path / "out.pt"), zeros(tmp_path / "again.pt")
    assert all(bool((second[name] | ~first[name]).all()) for name in first)


def test_a_recogniser_is_pruned_without_speech(forks, tmp_path):
    words = ("--checkpoint", CTC, "--score", "magnitude", "--scope", "global", "--sparsity", 0.5)
    status, _, err = forks.run(PRUNE, *words, "--out", "ctc.pt", cwd=tmp_path)
    assert status == 0, err
    found = zeros_by_component(weights(tmp_path / "ctc.pt"))
    assert set(found) == {"encoder.self_attn", "encoder.fc"}
    status, out, err = forks.run(SPARSITY, "report", "ctc.pt", cwd=tmp_path)
    assert status == 0 and "sparsity 0.500000" in out, err


def test_bad_input_is_one_line_and_leaves_nothing(prune, folder, tmp_path):
    soundfile.write(tmp_path / "silence.wav", torch.zeros(20000).numpy(), 16000)
    (folder / "text.pt").write_text("not a checkpoint")
    first = files(folder)[0]
    half = ("--sparsity", 0.5)
    cases = [
        ((*half,), "expected either --manifest or audio files to calibrate with"),
        ((*half, first, "--manifest", folder), "expected either --manifest or audio files"),
        ((*half, first, "--score", "random"), "--score random needs no speech, found some"),
        ((*half, first, "--model-overrides", "{'depth': 2}"), "depth"),
        ((*half, "none.wav"), "none.wav: no such audio file"),
        ((*half, "--manifest", folder, "--subset", "dev"), "dev.tsv: no such manifest"),
        ((*half, "silence.wav", "--language", "en"), "hears no speech in any of it"),
        ((*half, first, "--language", "xx"), "no language 'xx'"),
        (("--sparsity", 1, first), "found '1', expected a share in [0, 1)"),
        (("--sparsity", "decoder.fc2=0.5", first), "each of encoder.self_attn, encoder.fc,"),
        (("--sparsity", "encoder.fc=0.1,encoder.fc=0.2", first), "once at most"),
        (("--score", "best", *half, first), "invalid choice: 'best'"),
    ]
    for words, message in cases:
        status, _, err = prune(*words)
        last = err.splitlines()[-1]
        assert status == 2 and last.startswith("error: ") and message in last, (words, err)
        assert [path.name for path in tmp_path.iterdir()] == ["silence.wav"], words
    status, _, err = prune(*half, first, checkpoint="text.pt")
    assert status == 2 and "text.pt" in err.splitlines()[-1]
    torch.save({"model": load_checkpoint_file(CTC)["model"]}, folder / "bare.pt")
    status, _, err = prune(*half, "--score", "magnitude", checkpoint="bare.pt")
    assert status == 2 and "bare.pt: found no configuration (cfg)" in err.splitlines()[-1]
    status, _, err = prune("--sparsity", "decoder.fc=0.5", "--score", "magnitude", checkpoint=CTC)
    assert status == 2 and "found 'decoder.fc', expected some of encoder.self_attn, encoder.fc" in err
    status, _, err = prune(*half, first, checkpoint=CTC)
    assert status == 2 and "is no Whisper; expected magnitude or random" in err.splitlines()[-1]
    (tmp_path / "out.pt").write_text("there")
    status, _, err = prune(*half, first)
    assert status == 2 and "out.pt already exists" in err and (tmp_path / "out.pt").read_text() == "there"


def test_a_plan_has_the_sparsity_and_is_an_option_of_the_other_program(forks, prune, folder, tmp_path):
    words = ("--checkpoint", folder / "whisper.pt", "--manifest", folder, "--language", "en")
    words += ("--minutes", 0.01, "--loss-minutes", 0.01, "--levels", "0.25,0.5")
    written = ("--json", "s.json", "--plot", "s.png")
    status, out, err = forks.run(PLAN, *words, "--sparsity", 0.3, *written, cwd=tmp_path)
    assert status == 0, err
    measured = json.loads((tmp_path / "s.json").read_text())
    assert list(measured["losses"]) == list(measured["weights"]) and measured["dense"] > 0
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")
    option = re.search(r"--score wanda --scope row --sparsity (\S+)", out).group(1)
    plan = {name: float(share) for name, share in (part.split("=") for part in option.split(","))}
    total = sum(measured["weights"].values())
    assert sum(plan[name] * measured["weights"][name] for name in plan) / total == pytest.approx(
        0.3, abs=1e-3
    )
    status, _, err = prune("--score", "magnitude", "--sparsity", option)
    assert status == 0, err
    status, _, err = forks.run(PLAN, *words, *written, cwd=tmp_path)
    assert status == 2 and "s.json already exists" in err


@pytest.mark.parametrize(
    "words, message",
    [
        (("--levels", "0.5,0.3"), "expected rising shares in (0, 1)"),
        (("--levels", "0,0.3"), "expected rising shares in (0, 1)"),
        (("--sparsity", "0.8"), "expected at most the last of --levels"),
        (("--sparsity", "2"), "--sparsity: found 2.0, expected a share"),
        (("--minutes", "9"), "audio: found 4 s in all, expected more than 540 s"),
    ],
)
def test_a_plan_refuses(forks, folder, tmp_path, words, message):
    words = ("--checkpoint", folder / "whisper.pt", "--manifest", folder, "--language", "en", *words)
    status, _, err = forks.run(PLAN, *words, cwd=tmp_path)
    last = err.splitlines()[-1]
    assert status == 2 and last.startswith("error: ") and message in last, err


def test_what_is_final_keeps_options_and_numbers_of_16_bits(forks, folder, tmp_path):
    options = "{'silence_stride': 8, 'token_keep_ratios': '1,0.5', 'token_keep_criterion': 'merge'}"
    words = ("--language", "en", "--temperature", "0", "--no-speech-threshold", "1", "--no-timestamps")

    def text(*given):
        status, out, err = forks.run(TRANSCRIBE, *given, files(folder)[0], *words, cwd=tmp_path)
        assert status == 0, err
        return out

    def finalize(*given):
        return forks.run(SPARSITY, "finalize", folder / "whisper.pt", *given, cwd=tmp_path)

    assert finalize("--out", "half.pt", "--float16")[0] == 0
    assert finalize("--out", "fast.pt", "--float16", "--model-overrides", options)[0] == 0
    assert (tmp_path / "fast.pt").stat().st_size < 0.7 * (folder / "whisper.pt").stat().st_size
    expected = text("--checkpoint", "half.pt", "--model-overrides", options)
    assert text("--checkpoint", "fast.pt") == expected != ""
    for wrong, message in {
        "{'silence': 8}": "its model has no option silence",
        "{'token_keep_ratios': '1,0.5,1'}": "explicit keep ratios: found 3, expected 2, one a layer",
    }.items():
        status, _, err = finalize("--out", "wrong.pt", "--model-overrides", wrong)
        assert status == 2 and message in err and err.count("\n") == 1
        assert not list(tmp_path.glob("*wrong*"))
