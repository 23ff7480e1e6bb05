"""The main job with checkpoints of the published sizes and layouts, random weights inside."""

import resource

import pytest
import torch
from command_lines import ROOT, run
from mustc_corpus import run_prep_mustc

from fairseq_prune.text.sentencepiece import SentencePieceVocabulary

GIB = 2**20  # of the kibibytes that ru_maxrss counts


def deltalm_base(folder, texts):
    """deltalm-base.pt, spm.model and dict.txt: 250,104 rows for a dictionary of 250,001 symbols."""
    from deltalm_files import published_weights

    weights = published_weights(
        250104, 768, 3072, 12, 6, 512, lambda *shape: torch.empty(*shape).uniform_(-0.05, 0.05)
    )
    torch.save({"weights": weights}, folder / "deltalm-base.pt")
    vocabulary = SentencePieceVocabulary.train(texts, 24)
    vocabulary.save(folder / "spm.model", folder / "dict.txt")
    with open(folder / "dict.txt", "a", encoding="utf-8") as file:
        file.writelines(f"piece{i} 1\n" for i in range(250_001 - len(vocabulary)))


def hubert_base(folder):
    """hubert_base_ls960.pt as fairseq's trainer writes it, pretraining heads included."""
    from hubert_files import pretrained, save, sections

    model, config, dictionary = pretrained(
        {}, classes=500, final_dim=256, untie_final_proj=True, target_glu=False
    )
    path = folder / "hubert_base_ls960.pt"
    save(path, model, sections(config), task_state={"dictionaries": [dictionary]})


@pytest.mark.slow
def test_hubert_base_and_deltalm_base_train_and_generate_within_20_gib(must_c_root, tmp_path):
    german = sorted((must_c_root / "en-de" / "data" / "train" / "txt").glob("*.de"))[0]
    deltalm_base(tmp_path, german.read_text(encoding="utf-8").splitlines())
    hubert_base(tmp_path)
    vocabulary = ["--spm-model", tmp_path / "spm.model", "--dict", tmp_path / "dict.txt"]
    prepared = run_prep_mustc(must_c_root, tmp_path / "data", *vocabulary)
    assert prepared.returncode == 0, prepared.stderr
    user_dir = ["--user-dir", ROOT / "fairseq_prune", "--task", "speech_translation"]
    code, output = run(
        "fairseq-train",
        *(tmp_path / "data", *user_dir, "--arch", "hubert_deltalm_base", "--criterion", "speech_translation"),
        *("--hubert-path", tmp_path / "hubert_base_ls960.pt", "--deltalm-path", tmp_path / "deltalm-base.pt"),
        *"--token-keep-ratio 0.9 --token-keep-start-layer 4 --label-smoothing 0.1 --optimizer adam".split(),
        # joined to utterances of MuST-C's length
        *"--concat-rate 1.0 --concat-max-utterances 20 --concat-max-samples 160000 --max-tokens 320000".split(),
        *"--lr 1e-4 --max-update 2 --valid-subset dev --train-subset train --no-epoch-checkpoints".split(),
        *"--no-last-checkpoints --log-format simple --log-interval 1 --save-dir out".split(),
        cwd=tmp_path,
    )
    assert code == 0, output[-3000:]
    (tmp_path / "hubert_base_ls960.pt").unlink()
    (tmp_path / "deltalm-base.pt").unlink()
    code, output = run(
        "fairseq-generate",
        *(tmp_path / "data", *user_dir, "--path", tmp_path / "out" / "checkpoint_best.pt"),
        *"--gen-subset tst-COMMON --max-tokens 320000 --beam 5 --max-len-b 10 --scoring sacrebleu".split(),
        cwd=tmp_path,
    )
    assert code == 0, output[-3000:]
    assert "BLEU = " in output
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / GIB
    size = (tmp_path / "out" / "checkpoint_best.pt").stat().st_size / 2**30
    print(f"peak memory {memory:.1f} GiB; checkpoint {size:.1f} GiB")
    assert memory < 20
