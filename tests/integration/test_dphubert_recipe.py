"""The configurations of examples/dphubert, both stages and the teacher, in a tiny size."""

import re

import pytest
import yaml
from command_lines import ROOT
from distillation_data import LENGTHS, write_data
from recipes import train, write_changed
from tones import SMALL_HUBERT

CONFIGS = ROOT / "examples" / "dphubert" / "config"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = write_data(tmp_path_factory.mktemp("recipe"))
    for split in ("train", "valid"):
        labels = "".join(" ".join(str(i % 5) for i in range(n // 160)) + "\n" for n in LENGTHS)
        (folder / "data" / f"{split}.km").write_text(labels)
        (folder / "data" / "train960.tsv").write_text((folder / "data" / "train.tsv").read_text())
    (folder / "data" / "dict.km.txt").write_text("".join(f"{label} 1\n" for label in range(5)))
    return folder


def tiny(name, folder, **model):
    """A shipped configuration with paths, tiny sizes and no GPU."""
    content = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text(encoding="utf-8"))
    sizes = {"max_sample_size": 6400, "min_sample_size": 1000}
    changes = {
        "common": {"user_dir": str(ROOT / "fairseq_prune"), "fp16": False, "cpu": True, "log_interval": 1},
        "checkpoint": {"save_dir": name},
        "task": {"data": str(folder / "data"), **sizes},
        "dataset": {"max_tokens": 16000, "num_workers": 0},
        "distributed_training": {"distributed_world_size": 1},
        "optimization": {"max_update": 2},
        "model": {key: value for key, value in model.items() if key not in content["model"] or value},
    }
    write_changed(content, changes, folder / f"{name}.yaml")


def test_the_teacher_is_pretrained_and_both_stages_learn_from_it(folder, forks):
    tiny("digits_teacher", folder, **SMALL_HUBERT)
    train(forks, folder, "digits_teacher")
    teacher = str(folder / "digits_teacher" / "checkpoint_last.pt")
    tiny("digits", folder, teacher_path=teacher, distill_layers="0|1,2")
    output = train(forks, folder, "digits")
    assert re.search(r"expected_sparsity.*num_updates.{1,3}2", output), output
    # as run.sh asks for the second stage
    stage1 = folder / "digits" / "checkpoint_last.pt"
    keys = ("model.prune=none", "optimizer._name=adam", "~optimizer.gate_lr", f"model.maps_path={stage1}")
    output = train(forks, folder, "digits", *keys, "checkpoint.save_dir=final")
    assert "distance" in output and "expected_sparsity" not in output


@pytest.mark.parametrize("name", ["dphubert_base", "dphubert_base_final"])
def test_the_stages_for_hubert_base(name, folder, forks):
    paths = {"teacher_path": str(folder / "teacher.pt"), "distill_layers": "0|1,2"}
    if name.endswith("final"):
        paths.update(student_path=str(folder / "teacher.pt"))
    tiny(name, folder, **paths)
    output = train(forks, folder, name, *(["model.maps_path=null"] if name.endswith("final") else []))
    assert re.search(r"distance.*num_updates.{1,3}2", output), output
    assert ("expected_sparsity" in output) == (not name.endswith("final"))


def test_what_is_published_stands_in_the_configurations():
    """arXiv 2305.17651, section 4.1, and the recipe that came with it."""
    first, final = (
        yaml.safe_load((CONFIGS / f"{name}.yaml").read_text(encoding="utf-8"))
        for name in ("dphubert_base", "dphubert_base_final")
    )
    assert (first["optimization"]["lr"], first["optimizer"]["gate_lr"]) == ([0.0002], 0.02)
    assert (first["optimization"]["max_update"], first["lr_scheduler"]["warmup_updates"]) == (50000, 15000)
    assert (first["criterion"]["target_sparsity"], first["criterion"]["sparsity_warmup_updates"]) == (
        0.75,
        5000,
    )
    assert first["model"]["distill_layers"] == final["model"]["distill_layers"] == "0|4,8,12"
    assert (final["optimization"]["lr"], final["optimization"]["max_update"]) == ([0.0001], 25000)
    assert final["lr_scheduler"]["warmup_updates"] == 5000
    for config in (first, final):
        assert (
            config["dataset"]["max_tokens"] * config["distributed_training"]["distributed_world_size"]
            == 640 * 16000
        )
        assert config["lr_scheduler"]["total_num_update"] == config["optimization"]["max_update"]
