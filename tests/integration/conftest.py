"""A checkpoint that the tests of the command lines share."""

import pytest
from command_lines import run, train_arguments


@pytest.fixture(scope="session")
def trained(prepared_data, tmp_path_factory):
    """A checkpoint with CTC and pruning after six updates, written from another directory, with workers."""
    folder = tmp_path_factory.mktemp("trained")
    options = (
        "--max-update 6 --ctc-text source --ctc-weight 1 --token-keep-ratio 0.8 --num-workers 2"
        " --label-smoothing 0.1 --concat-rate 0.5 --speed-factors 0.9,1.0,1.1 --eval-bleu"
        " --best-checkpoint-metric chrf --maximize-best-checkpoint-metric --no-epoch-checkpoints"
    ).split()
    code, output = run("fairseq-train", *train_arguments(prepared_data, "out", *options), cwd=folder)
    assert code == 0, output
    return folder / "out" / "checkpoint_best.pt"
