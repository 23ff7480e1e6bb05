"""Distillation of HuBERT base in its real size, random weights inside, under the shipped configuration."""

import resource

import pytest
import torch
from command_lines import ROOT, run
from test_real_size import GIB, hubert_base
from tones import write_tones

from fairseq_prune.checkpoints.hubert.reading import read_hubert
from fairseq_prune.checkpoints.loading import load_checkpoint_file
from fairseq_prune.data.waveform_manifest import write_waveform_manifest

LENGTHS = [160_000, 150_000, 140_000, 120_000]  # samples: an update sees two batches of 20 s


@pytest.mark.slow
def test_hubert_base_is_distilled_resumed_and_cut_within_20_gib(tmp_path):
    hubert_base(tmp_path)
    (tmp_path / "data").mkdir()
    names = write_tones(tmp_path / "audio", LENGTHS)
    for split in ("train960", "valid"):
        write_waveform_manifest(tmp_path / "data" / f"{split}.tsv", tmp_path / "audio", names, LENGTHS)
    options = [
        *("--config-dir", ROOT / "examples/dphubert/config", "--config-name", "dphubert_base"),
        f"common.user_dir={ROOT / 'fairseq_prune'}",
        f"task.data={tmp_path / 'data'}",
        f"model.teacher_path={tmp_path / 'hubert_base_ls960.pt'}",
        *"common.fp16=false common.log_interval=1 distributed_training.distributed_world_size=1".split(),
        *"dataset.num_workers=0 dataset.max_tokens=320000 dataset.validate_interval_updates=1000".split(),
        *"optimization.update_freq=[2] checkpoint.save_interval_updates=0".split(),
    ]
    for save_dir, updates in (("straight", 4), ("broken", 2), ("broken", 4)):
        code, output = run(
            "fairseq-hydra-train",
            *options,
            f"checkpoint.save_dir={tmp_path / save_dir}",
            f"hydra.run.dir={tmp_path / save_dir}",
            f"optimization.max_update={updates}",
            cwd=tmp_path,
        )
        assert code == 0, output[-3000:]
    straight, broken = (
        load_checkpoint_file(tmp_path / name / "checkpoint_last.pt", mmap=True)
        for name in ("straight", "broken")
    )
    for name, value in straight["model"].items():
        assert torch.equal(broken["model"][name], value), name
    moments = [state["last_optimizer_state"]["state"] for state in (straight, broken)]
    for key, state in moments[0].items():
        assert torch.equal(moments[1][key]["exp_avg_sq"], state["exp_avg_sq"]), key
    command = (
        "scripts/compress_hubert.py",
        "--checkpoint",
        "broken/checkpoint_last.pt",
        "--out",
        "pruned.pt",
    )
    code, output = run(ROOT / command[0], *command[1:], cwd=tmp_path)
    assert code == 0, output
    pruned = read_hubert(tmp_path / "pruned.pt")
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / GIB
    parameters = sum(value.numel() for value in pruned.state_dict.values())
    print(f"peak memory {memory:.1f} GiB; {parameters:,} parameters left")
    assert memory < 20 and 0.5 * 94_371_712 < parameters < 94_371_712
