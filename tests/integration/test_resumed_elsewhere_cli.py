"""A training goes on with another number of processes."""

import pytest
from command_lines import run, run_together, train_arguments
from test_multi_process_cli import free_port

from fairseq_prune.checkpoints.loading import load_checkpoint_file

pytestmark = pytest.mark.slow


def train(data, folder, save_dir, processes, *options):
    """Run fairseq-train in so many processes; what each of them printed."""
    words = train_arguments(data, save_dir, "--cpu", "--token-keep-ratio", 0.7, *options)
    if processes == 1:
        code, output = run("fairseq-train", *words, cwd=folder)
        codes, outputs = [code], [output]
    else:
        words += f"--distributed-backend gloo --distributed-world-size {processes} --ddp-backend legacy_ddp".split()
        words += ["--distributed-no-spawn", "--distributed-init-method", f"tcp://localhost:{free_port()}"]
        ranks = [[*words, "--distributed-rank", rank] for rank in range(processes)]
        codes, outputs = run_together("fairseq-train", ranks, folder)
    assert set(codes) == {0}, outputs
    return outputs


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)])
def test_a_training_goes_on_with_another_number_of_processes(before, after, prepared_data, tmp_path):
    train(prepared_data, tmp_path, "first", before, "--max-update", 3)
    first = load_checkpoint_file(tmp_path / "first" / "checkpoint_last.pt")
    assert first["optimizer_history"][-1]["num_updates"] == 3
    restored = ("--restore-file", tmp_path / "first" / "checkpoint_last.pt", "--max-update", 6)
    outputs = train(prepared_data, tmp_path, "second", after, *restored)
    assert "Loaded checkpoint" in outputs[0] and "@ 3 updates" in outputs[0]
    second = load_checkpoint_file(tmp_path / "second" / "checkpoint_last.pt")
    assert second["optimizer_history"][-1]["num_updates"] == 6
    steps = {state["step"] for state in second["last_optimizer_state"]["state"].values()}
    assert {int(step) for step in steps} == {6}  # Adam's, which goes on too
