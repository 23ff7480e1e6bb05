"""A report that is stopped goes on where it was, and measures nothing twice."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from fairseq_prune.benchmarks.speed_report import SECTIONS as ALL
from fairseq_prune.benchmarks.speed_report import Section, report

SECTIONS = [Section("First", "first", limited=False), Section("Second", "second", limited=False)]
# in place of scripts/benchmark.py: notes each run, and fails or kills the report where a file says so
PROGRAM = """
import os, pathlib, signal, sys
here = pathlib.Path(__file__).parent
name, folder = sys.argv[1], pathlib.Path(sys.argv[sys.argv.index("--out") + 1])
with open(here / "runs", "a") as runs:
    runs.write(name + "\\n")
if (here / f"kill-{name}").exists():
    os.kill(os.getppid(), signal.SIGKILL)
if (here / f"fail-{name}").exists():
    sys.exit("a fault")
(folder / "benchmark.md").write_text(f"| table of {name} |\\n")
"""


@pytest.fixture
def program(tmp_path):
    path = tmp_path / "program.py"
    path.write_text(PROGRAM, encoding="utf-8")
    return path


def runs(program):
    return program.with_name("runs").read_text(encoding="utf-8").split()


def test_after_an_error_what_was_measured_is_kept(program, tmp_path):
    out, fault = tmp_path / "speed.md", tmp_path / "fail-second"
    fault.touch()
    with pytest.raises(RuntimeError, match="second --threads 1 --processor-time: a fault"):
        report(program, out, SECTIONS)
    assert not out.exists()
    (kept,) = (tmp_path / "speed.md.parts").iterdir()
    assert "| table of first |" in kept.read_text(encoding="utf-8")
    fault.unlink()
    report(program, out, SECTIONS)
    assert runs(program) == ["first", "second", "second"]
    text = out.read_text(encoding="utf-8")
    assert text.index("## First, ") < text.index("| table of first |") < text.index("## Second, ")
    assert not (tmp_path / "speed.md.parts").exists()


def test_a_report_that_was_killed_goes_on(program, tmp_path):
    out, trap = tmp_path / "speed.md", tmp_path / "kill-second"
    trap.touch()
    code = (
        "import sys; from pathlib import Path; from fairseq_prune.benchmarks.speed_report import Section, report;"
        "report(Path(sys.argv[1]), Path(sys.argv[2]), [Section(n, n.lower(), False) for n in ('First', 'Second')])"
    )
    killed = subprocess.run([sys.executable, "-c", code, program, out], capture_output=True)
    assert killed.returncode == -9 and not out.exists()
    trap.unlink()
    report(program, out, SECTIONS)
    assert runs(program) == ["first", "second", "second"]


def test_tables_of_other_code_are_measured_again(program, tmp_path):
    out, fault = tmp_path / "speed.md", tmp_path / "fail-second"
    fault.touch()
    with pytest.raises(RuntimeError):
        report(program, out, SECTIONS)
    fault.unlink()
    program.write_text(f"{PROGRAM}\n# changed", encoding="utf-8")
    report(program, out, SECTIONS)
    assert runs(program) == ["first", "second", "first", "second"]


def test_each_table_of_the_report_has_its_place_in_the_page():
    page = Path(__file__).resolve().parents[2] / "docs" / "speed.md"
    marks = re.findall(r"<!-- report: (.+?) -->", page.read_text(encoding="utf-8"))
    places = [title for mark in marks for title in mark.split("; ")]
    assert sorted(places) == sorted(section.title for section in ALL)
