"""A training that is killed, or started again, loses nothing and changes nothing."""

import pytest
import torch
from command_lines import BIN
from pretrained_recogniser import save_wav2vec, write_corpus
from test_parp_cli import arguments, last

OPTIONS = "--prune-sparsity 0.5 --prune-interval 2 --save-interval-updates 2 --max-update 6"
# fairseq-train that kills itself as a file of a save is given its name: sys.argv[1] counts these moments from 1
KILLED = """
import os, signal, sys
from fairseq_cli.train import cli_main

moments = int(sys.argv.pop(1))
replace = os.replace

def replace_or_die(source, name):
    global moments
    moments -= str(name).endswith(".pt")
    if moments == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, name)

os.replace = replace_or_die
sys.argv[0] = "fairseq-train"
cli_main()
"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recogniser")
    write_corpus(folder / "data")
    save_wav2vec(folder / "w2v.pt")
    return folder


@pytest.fixture(scope="module")
def train(forks, corpus):
    def run(cwd, options=OPTIONS):
        code, output, errors = forks.run(BIN / "fairseq-train", *arguments(corpus, options), cwd=cwd)
        assert code == 0, errors[-3000:]
        return output + errors

    return run


@pytest.fixture(scope="module")
def whole(train, tmp_path_factory):
    """The folder in which a training has run to its end."""
    folder = tmp_path_factory.mktemp("whole")
    train(folder)
    return folder


def assert_same_weights(first, second):
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first if torch.is_tensor(first[name]))


@pytest.mark.parametrize("moment", [2, 6])
def test_a_kill_in_a_save_does_not_block_resuming(moment, forks, corpus, train, whole, tmp_path):
    (tmp_path / "killed.py").write_text(KILLED)
    words = arguments(corpus, OPTIONS)
    code, _, errors = forks.run(tmp_path / "killed.py", moment, *words, cwd=tmp_path)
    assert code == -9, errors
    train(tmp_path)
    assert_same_weights(*(last(folder / "out")["model"] for folder in (tmp_path, whole)))
    assert not list((tmp_path / "out").glob("*.tmp"))


def state_of(folder):
    return {path.name: (path.stat().st_mtime_ns, path.stat().st_ino) for path in (folder / "out").iterdir()}


def test_the_command_of_a_complete_training_changes_nothing(train, whole):
    before = state_of(whole)
    log = train(whole)
    assert "the run is complete (6 updates, --max-update 6)" in log
    assert state_of(whole) == before


def test_with_more_updates_it_goes_on(train, corpus, tmp_path):
    train(tmp_path, "--max-update 2 --no-epoch-checkpoints")
    log = train(tmp_path, "--max-update 3 --no-epoch-checkpoints")
    assert "the run is complete" not in log
    assert last(tmp_path / "out")["optimizer_history"][-1]["num_updates"] == 3


def test_a_training_that_patience_has_ended_stays_so(train, tmp_path):
    options = "--max-epoch 99 --patience 1 --lr 1e-12 --no-epoch-checkpoints"
    assert "the run is complete" not in train(tmp_path, options)
    before = state_of(tmp_path)
    assert "the run is complete (1 validations without a better one, --patience 1)" in train(
        tmp_path, options
    )
    assert state_of(tmp_path) == before
