"""Trainings that are killed at random moments, most of them inside a save, end as if nothing had happened."""

import random

import pytest
import torch
from command_lines import BIN, train_arguments
from distillation_data import distil_arguments, write_data
from pretrained_recogniser import save_wav2vec, write_corpus
from test_parp_cli import arguments, last

pytestmark = pytest.mark.slow
UPDATES = 6
# fairseq-train with a killer: in a save or an update, in the how manieth, after which share of the time of one.
# The file `inside` is there while a checkpoint is saved.
KILLED = """
import os, pathlib, signal, sys, threading, time
from fairseq import checkpoint_utils
from fairseq.trainer import Trainer
from fairseq_cli.train import cli_main

where, count, share = sys.argv.pop(1), int(sys.argv.pop(1)), float(sys.argv.pop(1))
inside, durations = pathlib.Path("inside"), {"save": 0.03, "update": 0.1}

def watched(method, kind):
    def watch(*args, **kwargs):
        global count
        count -= kind == where
        if kind == where and count == 0:
            wait = share * durations[kind]
            threading.Timer(wait, os.kill, (os.getpid(), signal.SIGKILL)).start()
        start = time.time()
        if kind == "save":
            inside.touch()
        result = method(*args, **kwargs)
        if kind == "save":
            inside.unlink()
        durations[kind] = time.time() - start
        return result
    return watch

checkpoint_utils.save_checkpoint = watched(checkpoint_utils.save_checkpoint, "save")
Trainer.train_step = watched(Trainer.train_step, "update")
sys.argv[0] = "fairseq-train"
cli_main()
"""


def translation(folder, data):
    options = f"--save-interval-updates 1 --max-update {UPDATES} --token-keep-ratio 0.8 --eval-bleu".split()
    return train_arguments(data, "out", *options)


def parp(folder, data):
    write_corpus(folder / "data")
    save_wav2vec(folder / "w2v.pt")
    options = "--prune-sparsity 0.5 --prune-interval 2 --save-interval-updates 1"
    return arguments(folder, f"{options} --max-update {UPDATES}")


def dphubert(folder, data):
    options = ["--save-interval-updates", 1, "--max-update", UPDATES]
    return distil_arguments(write_data(folder), "out", *options)


@pytest.mark.parametrize(("method", "kills"), [(translation, 7), (parp, 7), (dphubert, 6)])
def test_every_killed_training_ends_with_the_weights_of_an_uninterrupted_one(
    method, kills, forks, prepared_data, tmp_path
):
    words = method(tmp_path, prepared_data)
    (tmp_path / "killed.py").write_text(KILLED)

    def train(folder):
        code, _, errors = forks.run(BIN / "fairseq-train", *words, cwd=folder)
        assert code == 0, errors[-3000:]
        return last(folder / "out")["model"]

    (tmp_path / "whole").mkdir()
    whole = train(tmp_path / "whole")
    generator, inside = random.Random(method.__name__), 0
    for kill in range(kills):
        folder = tmp_path / f"killed-{kill}"
        folder.mkdir()
        where = ("save", "save", "update")[kill % 3]
        moment = (where, generator.randint(1, UPDATES), generator.random())
        code, _, errors = forks.run(tmp_path / "killed.py", *moment, *words, cwd=folder)
        assert code == -9, (moment, errors[-3000:])
        inside += (folder / "inside").exists()
        resumed = train(folder)
        for name, value in whole.items():
            assert not torch.is_tensor(value) or torch.equal(value, resumed[name]), (moment, name)
        print(f"{method.__name__}: killed in {moment}, resumed, same weights")
    print(f"{method.__name__}: {kills} of {kills} resumed, {inside} killed inside a save")
    assert inside >= kills / 2
