"""What tests of shipped configurations share."""

import yaml
from command_lines import BIN


def write_changed(content, changes, path):
    """The configuration with values changed by section, as a yaml file."""
    for section, values in changes.items():
        content.setdefault(section, {}).update(values)
    path.write_text(yaml.safe_dump(content), encoding="utf-8")


def train(forks, folder, name, *overrides):
    words = ("--config-dir", folder, "--config-name", name, "hydra.run.dir=.", *overrides)
    code, output, errors = forks.run(BIN / "fairseq-hydra-train", *words, cwd=folder)
    assert code == 0, errors
    return output + errors
