"""The recipe for MuST-C says the same thing as a script and as a configuration."""

import os
import subprocess

from command_lines import BIN, ROOT
from fairseq import options
from fairseq.dataclass.configs import FairseqConfig
from fairseq.dataclass.initialize import add_defaults
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from omegaconf import OmegaConf

RECIPE = ROOT / "examples" / "mustc"
GROUPS = "common checkpoint task dataset model criterion optimizer lr_scheduler optimization".split()
PATHS = {
    "common": {"user_dir": str(ROOT / "fairseq_prune")},
    "checkpoint": {"save_dir": "out"},
    "task": {"data": "data"},
    "model": {"hubert_path": "hubert.pt", "deltalm_path": "deltalm.pt"},
}


def train_sh(folder, *further):
    """The arguments that train.sh hands to fairseq-train, on 8 GPUs."""
    torchrun = folder / "torchrun"
    torchrun.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n', encoding="utf-8")
    torchrun.chmod(0o755)
    done = subprocess.run(
        ["bash", RECIPE / "train.sh", "data", "hubert.pt", "deltalm.pt", "out", *further],
        env={**os.environ, "PATH": f"{folder}:{BIN}:{os.environ['PATH']}", "GPUS": "8"},
        capture_output=True,
        text=True,
        check=True,
    )
    arguments = done.stdout.splitlines()
    return arguments[arguments.index(str(BIN / "fairseq-train")) + 1 :]


def from_script(folder, *further):
    parser = options.get_training_parser()
    args = options.parse_args_and_arch(parser, train_sh(folder, *further))
    return convert_namespace_to_omegaconf(args)


def from_yaml():
    """What fairseq-hydra-train makes of the configuration, its paths filled in."""
    shipped = OmegaConf.load(RECIPE / "config" / "hubert_deltalm_base.yaml")
    cfg = OmegaConf.merge(OmegaConf.structured(FairseqConfig), shipped, PATHS)
    add_defaults(cfg)
    return cfg


def differences(left, right):
    """Keys of the groups at which two configurations have different values."""
    for group in GROUPS:
        a, b = (OmegaConf.to_container(cfg[group], resolve=True, enum_to_str=True) for cfg in (left, right))
        yield from (
            (group, key, a.get(key), b.get(key)) for key in a.keys() | b.keys() if a.get(key) != b.get(key)
        )


def test_script_and_configuration_ask_for_the_same_training(tmp_path):
    script, shipped = from_script(tmp_path), from_yaml()
    assert list(differences(script, shipped)) == []
    assert script.distributed_training.ddp_backend == shipped.distributed_training.ddp_backend


def test_further_options_of_the_script_win(tmp_path):
    changed = differences(from_script(tmp_path, "--token-keep-ratio", "1.0"), from_yaml())
    assert list(changed) == [("model", "token_keep_ratio", 1.0, 0.9)]
