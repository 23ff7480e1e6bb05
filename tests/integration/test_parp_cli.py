"""Sparse fine-tuning under fairseq's command lines."""

import os
import re
import resource
import subprocess
import sys

import pytest
import torch
import yaml
from command_lines import BIN, ROOT
from pretrained_recogniser import SMALL_WEIGHTS, save_hubert, save_wav2vec, write_corpus
from test_multi_process_cli import free_port

from fairseq_prune.checkpoints.loading import load_checkpoint_file
from fairseq_prune.pruning.magnitude import TRANSFORMER_LAYERS


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A folder with data/, w2v.pt and hubert.pt."""
    folder = tmp_path_factory.mktemp("recogniser")
    write_corpus(folder / "data")
    save_wav2vec(folder / "w2v.pt")
    save_hubert(folder / "hubert.pt")
    return folder


def arguments(corpus, options, arch="wav2vec_ctc_parp", save_dir="out"):
    common = (
        f"--task audio_finetuning --labels ltr --arch {arch} --criterion ctc --optimizer adam --lr 2e-2"
        " --max-tokens 60000 --train-subset train --valid-subset valid --log-format simple --log-interval 1"
        " --no-progress-bar --post-process letter --cpu"
    )
    paths = ["--user-dir", ROOT / "fairseq_prune", "--w2v-path", corpus / "w2v.pt", "--save-dir", save_dir]
    return [corpus / "data", *paths, *common.split(), *options.split()]


def train(forks, corpus, cwd, options, **others):
    """Run fairseq-train; the lines that it logged."""
    code, output, errors = forks.run(BIN / "fairseq-train", *arguments(corpus, options, **others), cwd=cwd)
    assert code == 0, errors[-3000:]
    return output + errors


def pruned_weights(weights):
    return {name: value for name, value in weights.items() if re.fullmatch(TRANSFORMER_LAYERS, name)}


def zeros(weights):
    return sum(int((value == 0).sum()) for value in pruned_weights(weights).values())


def last(folder):
    return load_checkpoint_file(folder / "checkpoint_last.pt")


def assert_same_weights(first, second):
    assert first.keys() == second.keys()
    for name in first:
        if torch.is_tensor(first[name]):
            assert torch.equal(first[name], second[name]), name


def test_every_checkpoint_and_its_average_are_as_sparse_as_they_state(forks, corpus, tmp_path):
    options = "--prune-sparsity 0.6 --prune-method parp-p --prune-initial-sparsity 0.3 --prune-interval 4"
    options += " --max-update 11 --prune-end-update 10 --save-interval-updates 3 --store-ema --ema-fp32"
    log = train(forks, corpus, tmp_path, options + " --ema-decay 0.9")
    files = sorted((tmp_path / "out").glob("*.pt"))
    assert "checkpoint_best.pt" in [file.name for file in files] and len(files) > 5
    stated = {}
    for file in files:
        checkpoint = load_checkpoint_file(file)
        state = checkpoint["model"]["magnitude_pruning"]
        stated[state["update"]] = state["sparsity"]
        assert zeros(checkpoint["model"]) == round(state["sparsity"] * SMALL_WEIGHTS), file
        average = pruned_weights(checkpoint["extra_state"]["ema"])
        for name, value in pruned_weights(checkpoint["model"]).items():
            assert torch.equal(value == 0, average[name] == 0), (file, name)
            assert torch.equal(value == 0, checkpoint["extra_state"]["ema_fp32_params"][name] == 0)
    assert stated == pytest.approx({3: 0.3, 6: 0.42, 9: 0.54, 11: 0.6} | stated, abs=1e-4)
    assert {3, 6, 9, 11} <= stated.keys()
    assert re.search(r"num_updates=9, sparsity=0.54, revived=0.\d+, mask_overlap=0.\d+", log)


def test_a_resumed_run_ends_with_the_weights_and_masks_of_an_uninterrupted_one(forks, corpus, tmp_path):
    options = (
        "--prune-sparsity 0.5 --prune-interval 4 --prune-end-update 8 --update-freq 2 --no-epoch-checkpoints"
    )
    train(forks, corpus, tmp_path, options + " --max-update 10", save_dir="whole")
    train(forks, corpus, tmp_path, options + " --max-update 6", save_dir="parts")
    interrupted = last(tmp_path / "parts")["model"]
    assert interrupted["magnitude_pruning"]["grown"] and zeros(interrupted) == SMALL_WEIGHTS // 2
    train(forks, corpus, tmp_path, options + " --max-update 10", save_dir="parts")
    whole, resumed = (last(tmp_path / name)["model"] for name in ("whole", "parts"))
    assert_same_weights(whole, resumed)
    states = [weights["magnitude_pruning"] for weights in (whole, resumed)]
    assert states[0]["revived"] > 0
    assert states[0]["revived"] == states[1]["revived"] and states[0]["overlap"] == states[1]["overlap"]
    for name, mask in states[0]["masks"].items():
        assert torch.equal(mask["bits"], states[1]["masks"][name]["bits"])


def test_a_sparsity_of_0_is_plain_fine_tuning_bit_for_bit(forks, corpus, tmp_path):
    train(forks, corpus, tmp_path, "--max-update 3", arch="wav2vec_ctc", save_dir="plain")
    train(forks, corpus, tmp_path, "--max-update 3", save_dir="ours")
    assert_same_weights(last(tmp_path / "plain")["model"], last(tmp_path / "ours")["model"])


def write_recipe(corpus, cwd, model, **sections):
    """Write recipe.yaml; the arguments of fairseq-hydra-train."""
    recipe = {
        "common": {"user_dir": str(ROOT / "fairseq_prune"), "cpu": True},
        "task": {"_name": "audio_finetuning", "data": str(corpus / "data"), "labels": "ltr"},
        "model": model,
        "criterion": {"_name": "ctc"},
        "optimizer": {"_name": "adam"},
        "lr_scheduler": {"_name": "fixed"},
        "optimization": {"max_update": 9, "lr": [0.02]},
        "dataset": {"max_tokens": 60000},
        "checkpoint": {"save_dir": "out", "no_epoch_checkpoints": True},
    }
    for section, values in sections.items():
        recipe.setdefault(section, {}).update(values)
    (cwd / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return ["--config-dir", cwd, "--config-name", "recipe", "hydra.run.dir=."]


def hydra(forks, corpus, cwd, model, **sections):
    """Run fairseq-hydra-train; the lines that it logged."""
    options = write_recipe(corpus, cwd, model, **sections)
    code, output, errors = forks.run(BIN / "fairseq-hydra-train", *options, cwd=cwd)
    assert code == 0, errors[-3000:]
    return output + errors


@pytest.mark.parametrize(("precision", "method"), [("memory_efficient_bf16", "mpi"), ("bf16", "parp")])
def test_the_optimizer_in_another_precision_brings_nothing_back(precision, method, forks, corpus, tmp_path):
    model = {"_name": "wav2vec_ctc_parp", "w2v_path": str(corpus / "w2v.pt"), "prune_sparsity": 0.5}
    model |= {"prune_method": method, "prune_interval": 3, "prune_end_update": 6}
    precision = {"bf16": True, precision: True}
    log = hydra(forks, corpus, tmp_path, model, common=precision, checkpoint={"save_interval_updates": 1})
    masks = {}
    for file in (tmp_path / "out").glob("checkpoint_*_*.pt"):
        weights = load_checkpoint_file(file)["model"]
        values = torch.cat([value.flatten() for value in pruned_weights(weights).values()])
        assert torch.equal(values, values.bfloat16().float())  # fairseq writes float32
        # a kept weight of few digits may be zero by itself
        assert SMALL_WEIGHTS // 2 <= int((values == 0).sum()) <= SMALL_WEIGHTS // 2 + 5
        masks[weights["magnitude_pruning"]["update"]] = values != 0
    assert (masks[7] ^ masks[9]).sum() <= 5
    if method == "parp":
        assert (masks[3] & ~masks[1]).any() and re.search(r"after update 3: .* revived [1-9]", log)


# fairseq logs in the first process only; all of them come by here before it saves
WATCH = """
import zlib
from fairseq.trainer import Trainer
from fairseq_cli.train import cli_main

def watch(self):
    masks = self.get_model().state_dict()["magnitude_pruning"]["masks"]
    print("masks", zlib.crc32(b"".join(m["bits"].numpy().tobytes() for m in masks.values())), flush=True)
    consolidate(self)

consolidate, Trainer.consolidate_optimizer = Trainer.consolidate_optimizer, watch
cli_main()
"""


def test_two_processes_prune_alike(corpus, tmp_path):
    options = "--prune-sparsity 0.5 --prune-interval 2 --max-update 5 --no-epoch-checkpoints"
    options += " --distributed-backend gloo --distributed-world-size 2 --ddp-backend legacy_ddp"
    options += f" --distributed-no-spawn --distributed-init-method tcp://localhost:{free_port()}"
    processes = [
        start_python("-c", WATCH, *arguments(corpus, f"{options} --distributed-rank {rank}"), cwd=tmp_path)
        for rank in range(2)
    ]
    outputs = [process.communicate(timeout=240)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert re.search(r"pruned after update 2: .*, revived [1-9]", outputs[0]), outputs[0]
    masks = [re.findall(r"masks \d+", output) for output in outputs]
    assert masks[0] and masks[0] == masks[1]
    assert zeros(last(tmp_path / "out")["model"]) == SMALL_WEIGHTS // 2


def start_python(*words, cwd):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *map(str, words)]
    return subprocess.Popen(
        command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def test_hubert_under_hydra_with_a_set_of_ones_own(forks, corpus, tmp_path):
    model = {"_name": "hubert_ctc_parp", "w2v_path": str(corpus / "hubert.pt"), "prune_sparsity": 0.75}
    model |= {"prune_method": "imp", "prune_interval": 2, "prune_modules": r".*layers\.\d+\.fc[12]\.weight"}
    hydra(forks, corpus, tmp_path, model)
    weights = last(tmp_path / "out")["model"]
    pruned = [value for name, value in weights.items() if re.search(r"layers.\d.fc[12].weight", name)]
    assert sum(int((value == 0).sum()) for value in pruned) == 0.75 * sum(value.numel() for value in pruned)
    assert list(weights["magnitude_pruning"]["masks"]) == [
        f"w2v_encoder.w2v_model.encoder.layers.{layer}.fc{i}.weight" for layer in (0, 1) for i in (1, 2)
    ]


def test_the_script_makes_of_a_checkpoint_what_is_used_after_training(forks, corpus, tmp_path):
    train(
        forks,
        corpus,
        tmp_path,
        "--prune-sparsity 0.9 --max-update 2 --prune-interval 1 --no-epoch-checkpoints",
    )

    def sparsity(*words):
        code, output, errors = forks.run(ROOT / "scripts" / "sparsity.py", *words, cwd=tmp_path)
        assert code == 0, errors
        return output

    zeros_stated = f"{round(0.9 * SMALL_WEIGHTS):,} of {SMALL_WEIGHTS:,} weights are zero: sparsity 0.9000"
    report = sparsity("report", "out/checkpoint_best.pt", "--csv", "s.csv", "--plot", "s.png")
    assert zeros_stated in report and "stated sparsity 0.9000" in report
    assert (
        len((tmp_path / "s.csv").read_text().splitlines()) == 4 and (tmp_path / "s.png").stat().st_size > 5000
    )
    assert "loaded back" in sparsity("finalize", "out/checkpoint_best.pt", "--out", "final.pt")
    assert "loaded back" in sparsity("finalize", "out/checkpoint_best.pt", "--out", "small.pt", "--compact")
    assert (tmp_path / "small.pt").stat().st_size < (tmp_path / "final.pt").stat().st_size
    assert zeros_stated in sparsity("report", "small.pt")
    sparsity("finalize", "small.pt", "--out", "half.pt", "--compact", "--float16")
    assert (tmp_path / "half.pt").stat().st_size < 0.9 * (tmp_path / "small.pt").stat().st_size
    assert zeros_stated in sparsity("report", "half.pt")
    sparsity("finalize", "small.pt", "--out", "again.pt")
    server = forks.server(ROOT / "scripts" / "sparsity.py").process.pid
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.prlimit(server, resource.RLIMIT_FSIZE, (50_000, before[1]))  # as on a full disk
    words = ("finalize", "small.pt", "--out", tmp_path / "more.pt")
    code, _, errors = forks.run(ROOT / "scripts" / "sparsity.py", *words, cwd=tmp_path)
    resource.prlimit(server, resource.RLIMIT_FSIZE, before)
    assert (code, errors) == (2, f"error: {tmp_path / 'more.pt'}: not written: File too large\n")
    assert not list(tmp_path.glob("*more*")) + list(tmp_path.glob(".*"))
    assert_same_weights(
        *(load_checkpoint_file(tmp_path / name)["model"] for name in ("final.pt", "again.pt"))
    )
    assert re.search(r"all +1\.0000 +1\.0000", sparsity("overlap", "final.pt", "out/checkpoint_best.pt"))
    sparsity("apply-mask", "final.pt", corpus / "w2v.pt", "--out", "sparse.pt")
    found = re.search(r"([\d,]+) of [\d,]+ weights are zero", sparsity("report", "sparse.pt")).group(1)
    assert int(found.replace(",", "")) >= round(0.9 * SMALL_WEIGHTS)  # biases there are zero by themselves
    code, _, errors = forks.run(
        ROOT / "scripts" / "sparsity.py",
        "overlap",
        "final.pt",
        corpus / "data" / "dict.ltr.txt",
        cwd=tmp_path,
    )
    assert code == 2 and errors.startswith("error: ") and "dict.ltr.txt: no checkpoint" in errors


BAD = {
    "--prune-sparsity 1.0": "sparsity: found 1.0, expected a share of weights to set to zero in [0, 1)",
    "--prune-sparsity 0.5 --prune-interval 0": "pruning interval: found 0, expected 1 update or more",
    "--prune-sparsity 0.5 --prune-modules nothing": "pattern 'nothing' matches no parameter",
    "--prune-sparsity 0.5 --max-epoch 1 --max-update 0": "--prune-end-update: found none",
    "--w2v-path nothing.pt": "nothing.pt: no such pretrained checkpoint",
}


@pytest.mark.parametrize("options", BAD)
def test_training_refuses_in_one_line(options, forks, corpus, tmp_path):
    words = arguments(corpus, f"--max-update 2 {options}")
    code, output, errors = forks.run(BIN / "fairseq-train", *words, cwd=tmp_path)
    assert code != 0
    assert "Traceback" not in errors
    line = (output + errors).strip().splitlines()[-1]
    assert line.startswith("error: ") and BAD[options] in line
