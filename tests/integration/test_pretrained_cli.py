"""The main job from pretrained files: HuBERT in either form, and a DeltaLM tuned on the text first."""

import shutil

import pytest
import torch
import transformers
from command_lines import ROOT, run, train_arguments

from fairseq_prune.checkpoints.hubert.reading import read_hubert
from fairseq_prune.checkpoints.loading import load_checkpoint_file

USER_DIR = ["--user-dir", ROOT / "fairseq_prune"]


def fairseq_hubert(folder):
    from hubert_files import BASE, pretrained, save, sections

    model, config, dictionary = pretrained(BASE)
    return save(folder / "hubert.pt", model, sections(config), task_state={"dictionaries": [dictionary]})


def hugging_face_hubert(folder):
    from hubert_files import HF_LARGE

    transformers.HubertModel(transformers.HubertConfig(**HF_LARGE)).save_pretrained(folder / "hubert")
    return folder / "hubert"


def compressed_hubert(folder):
    from hubert_files import BASE, make_gated

    from fairseq_prune.checkpoints.hubert.own import materialise, save_pruned_hubert

    save_pruned_hubert(materialise(make_gated(BASE))[0], folder / "pruned.pt")
    return folder / "pruned.pt"


@pytest.fixture(scope="module")
def text_model(prepared_data, tmp_path_factory):
    """A DeltaLM tuned for a few updates on the texts of the corpus, and the weights in it."""
    folder = tmp_path_factory.mktemp("text")
    pair = ["--source-lang", "en", "--target-lang", "de"]
    prep_mt = (ROOT / "data_prep" / "prep_mt.py", "--data-dir", prepared_data, "--out", folder / "bin")
    code, output = run(*prep_mt, *pair, cwd=folder)
    assert code == 0, output
    sizes = "--arch deltalm_tiny --embed-dim 32 --ffn-embed-dim 48 --attention-heads 4 --normalize-before"
    options = (
        "--criterion label_smoothed_cross_entropy --optimizer adam --lr 0.01 --max-tokens 400 --max-update 5"
    )
    code, output = run(
        "fairseq-train",
        *(folder / "bin", *USER_DIR, "--task", "translation", *pair, *sizes.split(), *options.split()),
        *("--disable-validation", "--no-epoch-checkpoints", "--save-dir", folder),
        cwd=folder,
    )
    assert code == 0, output
    return folder / "checkpoint_last.pt"


def part(weights, prefix):
    return {key[len(prefix) :]: value for key, value in weights.items() if key.startswith(prefix)}


@pytest.mark.parametrize("make_hubert", [fairseq_hubert, hugging_face_hubert, compressed_hubert])
def test_training_starts_from_pretrained_files_that_generation_does_not_need(
    make_hubert, text_model, prepared_data, tmp_path
):
    torch.manual_seed(0)
    hubert_path, deltalm_path = make_hubert(tmp_path), tmp_path / "deltalm.pt"
    shutil.copy(text_model, deltalm_path)
    code, output = run(
        "fairseq-train",
        *train_arguments(prepared_data, "out", "--max-update", 1, "--lr", 1e-9, "--mt-loss-weight", 0.5),
        *("--hubert-path", hubert_path, "--deltalm-path", deltalm_path, "--no-epoch-checkpoints"),
        *("--text-encoder", "--deltalm-encoder-layers", 1, "--token-keep-ratio", 0.8),
        cwd=tmp_path,
    )
    assert code == 0, output
    assert "mt_loss" in output

    checkpoint = load_checkpoint_file(tmp_path / "out" / "checkpoint_last.pt")
    hubert, deltalm = read_hubert(hubert_path), load_checkpoint_file(deltalm_path)["model"]
    for prefix, expected in {
        "encoder.hubert.": hubert.state_dict,
        "text_encoder.": part(deltalm, "encoder."),
        "decoder.": part(deltalm, "decoder."),
    }.items():
        found = part(checkpoint["model"], prefix)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, atol=1e-6, rtol=0, msg=prefix + name)

    model = checkpoint["cfg"]["model"]
    assert model["hubert_path"] is None and model["deltalm_path"] is None
    assert f'"normalize": {str(hubert.normalize).lower()}' in model["hubert_config"]
    deltalm_path.unlink()
    hubert_path.unlink() if hubert_path.is_file() else shutil.rmtree(hubert_path)
    code, output = run(
        "fairseq-generate",
        *(prepared_data, *USER_DIR, "--task", "speech_translation", "--path", "out/checkpoint_last.pt"),
        *"--gen-subset tst-COMMON --max-tokens 160000 --beam 2 --max-len-b 12".split(),
        cwd=tmp_path,
    )
    assert code == 0, output
    assert output.count("\nD-") == 6
