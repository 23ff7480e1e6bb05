"""The check of a GPU as a program, on the CPU with small models."""

import json

import pytest
import torch
from command_lines import ROOT


@pytest.mark.skipif(
    torch.__version__.startswith("2.0."), reason="torch 2.0 has no float16, nor autocast, on the CPU"
)
def test_the_check_runs_on_the_cpu_and_writes_its_report(forks, tmp_path):
    words = "--device cpu --small --out report".split()
    code, output, errors = forks.run(ROOT / "scripts" / "gpu_check.py", *words, cwd=tmp_path)
    assert code == 0, output + errors
    report = json.loads((tmp_path / "report" / "gpu_check.json").read_text(encoding="utf-8"))
    passed = {check["name"]: check["passed"] for check in report["checks"]}
    assert {name for name, ok in passed.items() if ok is None} == {"without waits", "graph capture"}
    assert sum(ok is True for ok in passed.values()) == len(passed) - 2 >= 15
    assert report["training"][0]["updates_per_second"] > 0
    assert [m["speedup"] > 0 for m in report["speed"][0]] == [True, True]
    text = (tmp_path / "report" / "gpu_check.md").read_text(encoding="utf-8")
    assert all(name in text for name in passed) and "updates a second" in text
    for name in passed:
        assert any(name in line for line in output.splitlines())
