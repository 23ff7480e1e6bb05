"""Planning of keep ratios as a program."""

import re

import pytest
from command_lines import ROOT

SCRIPT = ROOT / "scripts" / "plan_pruning.py"


def ratios_of(output):
    return [float(ratio) for ratio in re.search(r"--token-keep-ratios (\S+)", output).group(1).split(",")]


def test_a_plan_meets_its_budget_and_competes_on_a_dev_set(forks, trained, prepared_data, tmp_path):
    data = ["--checkpoint", trained, "--data", prepared_data, "--split", "dev", "--max-utterances", 4]
    code, output, errors = forks.run(SCRIPT, *data, "--budget-macs", 0.96, "--dev-split", "dev", cwd=tmp_path)
    assert code == 0, errors
    assert len(ratios_of(output)) == 2 and min(ratios_of(output)) < 1
    assert float(re.search(r"MACs of the encoder: (\S+)", output).group(1)) <= 0.96
    losses = [float(loss) for loss in re.findall(r"\| (\d+\.\d{4}) \|", output)]
    assert len(losses) >= 3 and losses[1:] == sorted(losses[1:])
    code, _, errors = forks.run(SCRIPT, *data, "--budget-ms", 10_000, cwd=tmp_path)
    assert code == 0, errors


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--budget-macs", 0.01], "cannot be met: the least possible is"),
        (["--budget-macs", 0.5, "--split", "none"], "none.tsv: no such manifest"),
        (["--budget-macs", 0.5, "--budget-ms", 5], "not allowed with argument"),
        ([], "one of the arguments --budget-macs --budget-ms is required"),
    ],
)
def test_a_plan_refuses(arguments, message, forks, trained, prepared_data, tmp_path):
    data = ["--checkpoint", trained, "--data", prepared_data, "--split", "dev", "--max-utterances", 1]
    code, _, errors = forks.run(SCRIPT, *data, *arguments, cwd=tmp_path)
    assert code == 2 and message in errors.splitlines()[-1]
