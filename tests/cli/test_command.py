"""The command: quick help, verbs that run the programs, one line for what is wrong."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fairseq_prune.cli import main
from fairseq_prune.cli.programs import folder
from fairseq_prune.cli.verbs import VERBS

ROOT = Path(__file__).resolve().parent.parent.parent
HEAVY = ("torch", "fairseq", "numpy", "transformers", "pandas")


def all_verbs(verbs=VERBS, before=()):
    for name, verb in verbs.items():
        yield (*before, name), verb
        yield from all_verbs(verb.verbs, (*before, name))


def test_help_imports_nothing_heavy(tmp_path):
    code = (
        "import sys; from fairseq_prune.cli import main; status = main(sys.argv[1:])\n"
        f"print([name for name in {HEAVY} if name in sys.modules], status)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, "--help"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    *table, last = run.stdout.splitlines()
    assert last == "[] 0", run.stderr
    assert all(any(line.split()[:1] == [verb] for line in table) for verb in VERBS)


@pytest.mark.parametrize("words", [["--help"], ["prepare", "--help"], ["options"]])
def test_a_reader_that_has_gone_is_no_error(words):
    there, here = os.pipe()
    os.close(there)
    command = [sys.executable, "-m", "fairseq_prune", *words]
    run = subprocess.run(command, stdout=here, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    os.close(here)
    assert run.returncode == 1 and "Pipe" not in run.stderr


@pytest.mark.parametrize("words, verb", all_verbs(), ids=lambda value: "-".join(filter(None, value[:2])))
def test_every_verb_has_its_program(words, verb):
    assert sum(map(bool, (verb.program, verb.function, verb.verbs))) == 1
    if verb.program:
        assert (folder(verb.program.split("/")[0]).parent / verb.program).is_file()
    assert verb.help and verb.help[0].isupper() == bool(words[0] == "prepare" and len(words) == 2)


def test_every_script_and_preparation_is_a_verb():
    programs = {verb.program for _, verb in all_verbs()}
    alone = {
        "compare_all.py",
        "compare_dtypes.py",
        "compare_exports.py",
        "fuzz.py",
    }  # for those who work on the package
    scripts = {
        f"scripts/{path.name}" for path in (ROOT / "scripts").glob("[!_]*.py") if path.name not in alone
    }
    assert scripts <= programs
    assert {f"data_prep/{path.name}" for path in (ROOT / "data_prep").glob("prep_*.py")} <= programs


@pytest.mark.parametrize(
    "words, message",
    [
        (["trnslate"], "verb: found 'trnslate', expected one of translate, "),
        (["prune-tokens", "swep"], "verb: found 'prune-tokens swep', expected one of sweep, plan, show"),
        (["info", "nothing.pt"], "nothing.pt: no such file"),
        (["distil", "train", "huge"], "configuration: found 'huge', expected one of digits, "),
    ],
)
def test_what_is_wrong_is_one_line(words, message, capsys):
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}") and error.count("\n") == 1


@pytest.mark.parametrize(
    "text, message",
    [
        ("a: &a [*a]", "configuration.a: found "),
        (
            "a: &a [1,1,1,1,1,1,1,1,1]\n"
            + "\n".join(f"{n}: &{n} [{f'*{o},' * 9}]" for o, n in zip("abcde", "bcdef")),
            "found",
        ),
        ("a: [", "while parsing"),
        ("[" * 10_000, "recursion"),
    ],
)
def test_a_broken_configuration_is_one_line(text, message, capsys, tmp_path):
    (tmp_path / "a.yaml").write_text(text)
    assert main(["distil", "train", str(tmp_path / "a.yaml")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {tmp_path / 'a.yaml'}: ") and message in error and error.count("\n") == 1


def test_a_verb_with_verbs_below_it_lists_them(capsys):
    assert main(["prepare"]) == 0
    assert {"mustc", "librispeech", "timit", "demo"} <= {
        line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("  ")
    }
    assert main(["prune-tokens", "--help"]) == 0


def run_verb(*words, cwd):
    """The command in a process of its own, from another directory."""
    return subprocess.run(
        [sys.executable, "-m", "fairseq_prune", *words],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )


def test_a_preparation_runs_from_any_directory(tmp_path):
    run = run_verb("prepare", "mt", "--help", cwd=tmp_path)
    assert run.returncode == 0 and run.stdout.startswith("usage: fairseq-prune prepare mt"), run.stderr
    run = run_verb("prepare", "mt", cwd=tmp_path)
    assert run.returncode == 2 and "--data-dir" in run.stderr, run.stderr
