"""DPHuBERT's two stages through fairseq's command lines."""

import re
import socket

import pytest
import torch
from command_lines import BIN, ROOT, run_together
from distillation_data import distil_arguments, write_data

from fairseq_prune.checkpoints.hubert.own import read_student
from fairseq_prune.checkpoints.hubert.reading import read_hubert
from fairseq_prune.checkpoints.loading import load_checkpoint_file


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("distillation"))


@pytest.fixture(scope="module")
def first_stage(folder, forks):
    """A first stage of five updates; its folder and what it printed."""
    code, output, errors = forks.run(
        BIN / "fairseq-train", *distil_arguments(folder, "stage1", "--max-update", 5), cwd=folder
    )
    assert code == 0, errors
    return folder / "stage1", output + errors


def weights(path):
    return load_checkpoint_file(path)["model"]


def test_losses_sparsity_multipliers_and_macs_are_logged(first_stage):
    _, output = first_stage
    last = re.findall(r"train_inner.*", output)[-1]
    logged = dict(re.findall(r"(\w+)=([-\d.e]+)", last))
    for name in ("loss", "distance", "l1", "cosine", "sparsity_term", "expected_sparsity", "expected_macs"):
        assert name in logged, last
    assert float(logged["target_sparsity"]) == 0.5 and float(logged["lambda1"]) < 0 < float(logged["lambda2"])
    assert re.search(r"valid on 'valid' subset.*distance \d", output)


def test_the_checkpoint_has_neither_the_teacher_nor_a_path(first_stage, folder):
    checkpoint = load_checkpoint_file(first_stage[0] / "checkpoint_last.pt")
    assert {key.split(".")[0] for key in checkpoint["model"]} == {"student", "maps", "multipliers"}
    model = checkpoint["cfg"]["model"]
    assert model["teacher_path"] is None and model["student_path"] is None
    assert str(folder) not in model["student_config"]


def test_a_resumed_run_ends_where_one_without_a_break_does(first_stage, folder, forks):
    save = folder / "broken"
    for updates in (3, 5):
        arguments = distil_arguments(folder, save, "--max-update", updates, "--save-interval-updates", 3)
        code, _, errors = forks.run(BIN / "fairseq-train", *arguments, cwd=folder)
        assert code == 0, errors
    straight, broken = (weights(path / "checkpoint_last.pt") for path in (first_stage[0], save))
    assert straight.keys() == broken.keys()
    for name, value in straight.items():
        torch.testing.assert_close(broken[name], value, rtol=0, atol=0, msg=name)


def test_the_second_stage_trains_the_cut_model_without_gates(first_stage, folder, forks):
    stage1 = first_stage[0] / "checkpoint_last.pt"
    compress = ROOT / "scripts" / "compress_hubert.py"
    code, _, errors = forks.run(compress, "--checkpoint", stage1, "--out", folder / "pruned.pt", cwd=folder)
    assert code == 0, errors
    paths = ("--student-path", folder / "pruned.pt", "--maps-path", stage1)
    arguments = distil_arguments(folder, "stage2", "--prune", "none", *paths, "--max-update", 2)
    arguments[arguments.index("adam_with_gates")] = "adam"
    del arguments[arguments.index("--gate-lr") : arguments.index("--gate-lr") + 2]
    code, output, errors = forks.run(BIN / "fairseq-train", *arguments, cwd=folder)
    assert code == 0, errors
    assert "expected_sparsity" not in output
    trained, pruned = read_hubert(folder / "stage2" / "checkpoint_last.pt"), read_hubert(folder / "pruned.pt")
    assert trained.architecture == pruned.architecture
    assert any(not torch.equal(trained.state_dict[key], value) for key, value in pruned.state_dict.items())


def test_a_checkpoint_is_validated_with_its_teacher(first_stage, folder, forks):
    code, output, errors = forks.run(
        BIN / "fairseq-validate",
        *(folder / "data", "--user-dir", ROOT / "fairseq_prune", "--task", "ssl_distillation"),
        *("--path", first_stage[0] / "checkpoint_last.pt", "--max-tokens", 16000),
        *("--model-overrides", str({"teacher_path": str(folder / "teacher.pt")})),
        cwd=folder,
    )
    assert code == 0, errors
    assert re.search(r"valid.*distance \d", output + errors)


def test_two_processes_with_accumulated_gradients_train_one_model(folder):
    def free_port():
        with socket.socket() as listener:
            listener.bind(("localhost", 0))
            return listener.getsockname()[1]

    two = "--cpu --distributed-backend gloo --distributed-world-size 2 --ddp-backend legacy_ddp --distributed-no-spawn"
    meeting = ["--distributed-init-method", f"tcp://localhost:{free_port()}", "--update-freq", "2"]
    arguments = distil_arguments(
        folder, "two", "--max-update", 2, "--batch-lengths", "pad", *two.split(), *meeting
    )
    ranks = [[*arguments, "--distributed-rank", rank] for rank in range(2)]
    codes, outputs = run_together("fairseq-train", ranks, folder)
    assert codes == [0, 0], outputs
    assert re.search(r"train_inner.*target_sparsity=0.125.*num_updates=2", outputs[0]), outputs[0]


@pytest.mark.skipif(
    torch.__version__.startswith("2.0."), reason="torch 2.0 has no half-precision convolution on the CPU"
)
def test_half_precision_leaves_gates_and_multipliers_in_float32(folder, forks):
    half = (
        "--fp16",
        "--fp16-no-flatten-grads",
        "--fp16-init-scale",
        1,
        "--max-update",
        2,
        "--disable-validation",
    )
    code, _, errors = forks.run(BIN / "fairseq-train", *distil_arguments(folder, "half", *half), cwd=folder)
    assert code == 0, errors
    # of what trains in half precision, nothing but the gates and multipliers is finer
    finer = {
        name
        for name, value in weights(folder / "half" / "checkpoint_last.pt").items()
        if not torch.equal(value.half().to(value.dtype), value)
    }
    assert finer == {name for name in finer if "log_alpha" in name or "multipliers" in name} != set()


def test_bad_input_is_one_line(folder, forks):
    arguments = distil_arguments(folder, "bad", "--max-update", 1, "--teacher-path", "data/train.tsv")
    code, _, errors = forks.run(BIN / "fairseq-train", *arguments, cwd=folder)
    assert code == 1 and "Traceback" not in errors
    assert [line for line in errors.splitlines() if line.startswith("error: data/train.tsv: no checkpoint")]


def test_training_stops_when_a_whole_stage_would_be_gone(folder, forks):
    from fairseq_prune.models import dphubert

    options = ("--prune", "conv_channels=0.999999", "--max-update", dphubert.CHECK_INTERVAL + 1)
    code, _, errors = forks.run(
        BIN / "fairseq-train", *distil_arguments(folder, "gone", *options), cwd=folder
    )
    assert code == 1 and "error: pruning: the gates close all 16 channels of convolution 0" in errors


def test_gates_come_back_from_the_checkpoint(first_stage):
    student = read_student(first_stage[0] / "checkpoint_last.pt")
    assert set(student.gates) == {"conv_channels", "attention_heads", "feed_forward_units"}
    saved = weights(first_stage[0] / "checkpoint_last.pt")
    for name, value in student.gates.named_parameters():
        assert torch.equal(value, saved[f"student.gates.{name}"])
