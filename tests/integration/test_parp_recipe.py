"""The configurations of examples/parp in a tiny size, and that they are the published ones."""

import re
from pathlib import Path

import fairseq
import pytest
import torch
import yaml
from command_lines import ROOT
from pretrained_recogniser import SMALL, save_wav2vec, write_corpus
from recipes import train, write_changed
from slu_corpus import small_whisper, write_data

CONFIGS = ROOT / "examples" / "parp" / "config"
OTHERS = ("digits_pretraining", "whisper_tiny_en")  # than the fine-tunings with CTC
FINE_TUNINGS = sorted(path.stem for path in CONFIGS.glob("*.yaml") if path.stem not in OTHERS)
PUBLISHED = Path(fairseq.__file__).parent / "examples" / "wav2vec" / "config" / "finetuning"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Data under all names of splits and labels, and pretrained models with and without normalised audio."""
    folder = tmp_path_factory.mktemp("recipe")
    data = write_corpus(folder / "data", utterances=4)
    for split in ("train_10min", "train_1h", "train_10h", "dev_other", "dev"):
        for kind in ("tsv", "ltr", "wrd"):
            source = data / f"{'train' if 'train' in split else 'valid'}.{kind}"
            (data / f"{split}.{kind}").write_text(source.read_text())
    words = {word for split in ("train", "valid") for word in (data / f"{split}.wrd").read_text().split()}
    (data / "dict.wrd.txt").write_text("".join(f"{word} 1\n" for word in sorted(words)))
    for file in ("train.ltr", "dev.ltr", "dict.ltr.txt"):
        (data / file.replace("ltr", "phn")).write_text((data / file).read_text())
    save_wav2vec(folder / "wav2vec.pt")
    return folder


def read(path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def tiny(name, folder, **model):
    """A shipped configuration with paths, tiny sizes and no GPU."""
    content = read(CONFIGS / f"{name}.yaml")
    changes = {
        "common": {"user_dir": str(ROOT / "fairseq_prune"), "fp16": False, "cpu": True, "log_interval": 1},
        "checkpoint": {"save_dir": name, "save_interval_updates": 2},
        "task": {"data": str(folder / "data"), "normalize": False},
        "dataset": {"max_tokens": 64000, "num_workers": 0, "validate_after_updates": 0},
        "distributed_training": {"distributed_world_size": 1},
        "optimization": {"max_update": 2, "update_freq": [1]},
        "model": {"mask_channel_length": 4, "prune_interval": 1, **model},
    }
    write_changed(content, changes, folder / f"{name}.yaml")


@pytest.mark.parametrize("name", FINE_TUNINGS)
def test_a_shipped_configuration_fine_tunes_sparsely(name, folder, forks):
    tiny(name, folder, w2v_path=str(folder / "wav2vec.pt"), prune_sparsity=0.5)
    output = train(forks, folder, name)
    assert re.search(
        r"sparsity.{1,4}0\.5\b.*num_updates.{1,4}2|num_updates.{1,4}2.*sparsity.{1,4}0\.5\b", output
    ), output
    assert re.search(r"valid on.*wer|_wer", output), output


def test_the_small_model_is_pretrained_and_fine_tuned(folder, forks):
    content = read(CONFIGS / "digits_pretraining.yaml")
    small = {key: value for key, value in SMALL.items() if key not in ("conv_feature_layers", "final_dim")}
    tiny("digits_pretraining", folder, **small)
    changed = read(folder / "digits_pretraining.yaml")
    for key in ("mask_channel_length", "prune_interval"):
        del changed["model"][key]
    changed["dataset"]["required_batch_size_multiple"] = 1
    changed["task"].update(min_sample_size=1000, normalize=content["task"]["normalize"])
    (folder / "digits_pretraining.yaml").write_text(yaml.safe_dump(changed))
    train(forks, folder, "digits_pretraining")
    pretrained = folder / "digits_pretraining" / "checkpoint_last.pt"
    tiny("digits", folder, w2v_path=str(pretrained))
    train(forks, folder, "digits", "checkpoint.save_dir=dense")
    # as run.sh prunes in one shot
    keys = ("model.prune_method=mpi", "model.prune_sparsity=0.7", "checkpoint.save_dir=omp")
    output = train(forks, folder, "digits", *keys, "checkpoint.finetune_from_model=dense/checkpoint_last.pt")
    assert "sparsity=0.7" in output and (folder / "omp" / "checkpoint_last.pt").is_file()


def test_the_configuration_of_whisper_fine_tunes_sparsely(forks, tmp_path):
    write_data(tmp_path / "data")
    small_whisper(tmp_path / "whisper.pt")
    tiny("whisper_tiny_en", tmp_path)
    changed = read(tmp_path / "whisper_tiny_en.yaml")
    del changed["model"]["mask_channel_length"], changed["task"]["normalize"]
    changed["model"]["whisper_path"] = str(tmp_path / "whisper.pt")
    (tmp_path / "whisper_tiny_en.yaml").write_text(yaml.safe_dump(changed))
    output = train(forks, tmp_path, "whisper_tiny_en")
    assert "sparsity=0.5" in output.replace('"sparsity": "0.5"', "sparsity=0.5"), output
    state = torch.load(tmp_path / "whisper_tiny_en" / "checkpoint_best.pt", weights_only=False)
    pruned = [
        value.flatten()
        for name, value in state["model"].items()
        if "layers." in name and ("self_attn." in name or ".fc" in name)
    ]
    zeros = (torch.cat(pruned) == 0).float().mean()
    assert abs(float(zeros) - 0.5) < 0.01


@pytest.mark.parametrize("size, published", [("base", "base"), ("large", "vox")])
@pytest.mark.parametrize("hours", ["10min", "1h", "10h"])
def test_the_schedule_is_the_published_one(size, published, hours):
    path = PUBLISHED / f"{published}_{hours.replace('min', 'm')}.yaml"
    if not path.is_file():
        pytest.skip("this fairseq was installed without its examples")
    ours, theirs = read(CONFIGS / f"{size}_{hours}.yaml"), read(path)
    assert ours["model"].pop("_name") == theirs["model"].pop("_name") + "_parp"
    for section, values in theirs.items():
        assert {**ours[section], **values} == ours[section], section
        added = {key for key in ours[section] if key not in values}
        assert all(key.startswith("prune_") for key in added) or added <= {
            "save_dir",
            "user_dir",
            "train_subset",
        }
