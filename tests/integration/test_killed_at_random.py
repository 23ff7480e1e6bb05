"""Trainings that are killed at random moments, most of them inside a save, end as if nothing had happened."""

import pytest

pytestmark = pytest.mark.slow
PRELOAD = "fairseq_cli.hydra_train"
UPDATES = 6
MOMENTS = [("translation", 7), ("PARP", 7), ("DPHuBERT", 6)]
# fairseq-train with a killer: where (save or update), the how manieth, and how far into it (0 to 1, of a save's time).
# The file `inside` is there while a save is.
KILLED = """
import os, pathlib, signal, sys, threading, time
from fairseq import checkpoint_utils
from fairseq.trainer import Trainer
from fairseq_cli.train import cli_main

where, count, share = sys.argv.pop(1), int(sys.argv.pop(1)), float(sys.argv.pop(1))
inside, durations = pathlib.Path("inside"), [0.03]

def killer(method, watched):
    def watch(*args, **kwargs):
        global count
        count -= watched == where
        if watched == where and count == 0:
            threading.Timer(share * durations[-1], os.kill, (os.getpid(), signal.SIGKILL)).start()
        if watched == "save":
            inside.touch()
        start = time.time()
        result = method(*args, **kwargs)
        durations.append(time.time() - start)
        if watched == "save":
            inside.unlink()
        return result
    return watch

def save_checkpoint(*args):  # fairseq keeps the best loss as an attribute of the function under this name
    return saves(*args)

saves = killer(checkpoint_utils.save_checkpoint, "save")
original = checkpoint_utils.save_checkpoint
Trainer.train_step = killer(Trainer.train_step, "update")
import fairseq_cli.train
class Saving:
    def __getattr__(self, name):
        return saves if name == "save_checkpoint" else getattr(checkpoint_utils, name)
    def __setattr__(self, name, value):
        setattr(checkpoint_utils, name, value)
fairseq_cli.train.checkpoint_utils = Saving()
sys.argv[0] = "fairseq-train"
cli_main()
"""
