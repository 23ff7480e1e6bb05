"""What scripts/fuzz.py has found in fairseq's programs, and that it finds nothing now."""

import subprocess
import sys

import pytest
import torch
from command_lines import BIN, ROOT
from pretrained_recogniser import save_hubert, write_corpus

from fairseq_prune.checkpoints.loading import load_checkpoint_file


def spoil(folder):
    path = folder / "data" / "train.ltr"
    path.write_bytes(b"A \xff |\n" + path.read_bytes().partition(b"\n")[2])


def cut(folder):
    path = folder / "data" / "train.ltr"
    path.write_bytes(path.read_bytes().partition(b"\n")[2])


def empty(folder):
    checkpoint = load_checkpoint_file(folder / "hubert.pt")
    removed = next(name for name in checkpoint["model"] if name.endswith("fc1.weight"))
    del checkpoint["model"][removed]
    torch.save(checkpoint, folder / "hubert.pt")


CASES = {
    "labels that are no text": (spoil, "train.ltr, line 1: expected UTF-8 text"),
    "labels of fewer lines": (cut, "labels length"),
    "weights that are missing": (empty, "hubert.pt: 1 weights are missing: "),
}


@pytest.mark.parametrize("case", CASES)
def test_training_refuses(case, forks, tmp_path):
    damage, message = CASES[case]
    write_corpus(tmp_path / "data")
    save_hubert(tmp_path / "hubert.pt")
    damage(tmp_path)
    options = (
        "--task audio_finetuning --labels ltr --arch hubert_ctc_parp --criterion ctc --optimizer adam --lr 1e-3"
        " --max-tokens 60000 --train-subset train --valid-subset valid --post-process letter --cpu --max-update 1"
        " --prune-sparsity 0.5 --save-dir out"
    ).split()
    paths = (tmp_path / "data", "--user-dir", ROOT / "fairseq_prune", "--w2v-path", tmp_path / "hubert.pt")
    code, output, errors = forks.run(BIN / "fairseq-train", *paths, *options, cwd=tmp_path)
    assert code != 0 and "Traceback" not in output + errors
    assert message in errors.strip().splitlines()[-1]


@pytest.mark.slow
def test_the_fuzzer_finds_nothing(tmp_path):
    run = subprocess.run(
        [sys.executable, ROOT / "scripts" / "fuzz.py", "--cases", "440"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert run.returncode == 0, run.stdout
