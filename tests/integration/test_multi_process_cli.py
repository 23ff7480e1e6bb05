"""Several processes; without GPUs fairseq has to be told where they meet."""

import re
import socket

from command_lines import run_together, train_arguments

from fairseq_prune.checkpoints.loading import load_checkpoint_file


def free_port():
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


def test_two_processes_train_one_model(prepared_data, tmp_path):
    # fairseq's default backend names a GPU to torch's DistributedDataParallel, which refuses that on the CPU;
    # what else it demands is tested in tests/models (test_what_is_trained_gets_a_gradient_as_pytorch_ddp_demands)
    arguments = train_arguments(
        prepared_data,
        "out",
        *"--cpu --distributed-backend gloo --distributed-world-size 2 --ddp-backend legacy_ddp".split(),
        *"--ctc-text source --ctc-weight 1 --token-keep-ratio 0.7 --max-update 4 --no-epoch-checkpoints".split(),
        *"--text-encoder --deltalm-encoder-layers 1 --mt-loss-weight 0.5 --eval-bleu".split(),
    )
    meeting = ["--distributed-no-spawn", "--distributed-init-method", f"tcp://localhost:{free_port()}"]
    ranks = [[*arguments, *meeting, "--distributed-rank", rank] for rank in range(2)]
    codes, outputs = run_together("fairseq-train", ranks, tmp_path)
    assert codes == [0, 0], outputs
    assert "training on 2 devices" in outputs[0]
    for found in (r"train_inner.*mt_loss=\d", r"valid on 'dev' subset.*mt_loss \d.*bleu \d.*chrf \d"):
        assert re.search(found, outputs[0]), outputs[0]
    checkpoint = load_checkpoint_file(tmp_path / "out" / "checkpoint_last.pt")
    assert checkpoint["optimizer_history"][-1]["num_updates"] == 4
