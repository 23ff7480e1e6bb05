"""Everything that the examples ship runs: configurations train and resume in a tiny size, scripts parse."""

import re
import subprocess

import pytest
import yaml
from command_lines import BIN, ROOT

CONFIGS = [  # of speech translation; other tasks have tests of their own
    path
    for path in sorted((ROOT / "examples").glob("*/config/*.yaml"))
    if yaml.safe_load(path.read_text(encoding="utf-8"))["task"]["_name"] == "speech_translation"
]
SCRIPTS = sorted((ROOT / "examples").rglob("*.sh"))
TINY = {
    "hubert_layers": 2,
    "hubert_embed_dim": 32,
    "hubert_ffn_embed_dim": 48,
    "hubert_attention_heads": 4,
    "hubert_conv_layers": "[(16,10,5),(16,8,4),(16,8,4),(16,8,4)]",
    "hubert_conv_pos_groups": 4,
    "adaptor_channels": 16,
    "mask_channel_length": 4,
    "token_keep_start_layer": 2,
    "deltalm_decoder_layers": 1,
    "deltalm_embed_dim": 32,
    "deltalm_ffn_embed_dim": 48,
    "deltalm_attention_heads": 4,
}


def path_name(path):
    return str(path.relative_to(ROOT / "examples"))


def tiny_copy(config, data, folder):
    """The configuration with paths, tiny sizes and no GPU; without the pretrained models that it has to be told."""
    content = yaml.safe_load(config.read_text(encoding="utf-8"))
    pretrained = {
        name: None for name in ("hubert_path", "deltalm_path") if content["model"].get(name) == "???"
    }
    changes = {
        "common": {"user_dir": str(ROOT / "fairseq_prune"), "fp16": False, "cpu": True, "log_interval": 1},
        "checkpoint": {"save_dir": "out"},
        "task": {"data": str(data)},
        "dataset": {"max_tokens": 16000, "num_workers": 0},
        "distributed_training": {"distributed_world_size": 1},
        "model": {**TINY, **pretrained},
    }
    for section, values in changes.items():
        content.setdefault(section, {}).update(values)
    (folder / config.name).write_text(yaml.safe_dump(content), encoding="utf-8")


@pytest.mark.parametrize("config", CONFIGS, ids=path_name)
def test_a_shipped_configuration_trains_and_resumes(config, prepared_data, forks, tmp_path):
    tiny_copy(config, prepared_data, tmp_path)
    options = ["--config-dir", tmp_path, "--config-name", config.stem, "hydra.run.dir=."]
    updates = []
    for last in (2, 3):
        code, output, errors = forks.run(
            BIN / "fairseq-hydra-train", *options, f"optimization.max_update={last}", cwd=tmp_path
        )
        assert code == 0, errors
        updates.append([int(n) for n in re.findall(r"train_inner.*num_updates=(\d+)", output)])
    assert updates == [[1, 2], [3]]


@pytest.mark.parametrize("script", SCRIPTS, ids=path_name)
def test_a_shipped_script_is_valid_bash(script):
    check = subprocess.run(["bash", "-n", script], capture_output=True, text=True)
    assert check.returncode == 0, check.stderr
