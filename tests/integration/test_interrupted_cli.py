"""Ctrl-C ends a script with one line and exit status 130, and leaves nothing unfinished."""

import os
import signal
import subprocess
import sys
import time

import pytest
from command_lines import ROOT

SCRIPT = """
import sys, time
from pathlib import Path
sys.path.insert(0, {scripts!r})
if {early}:
    import fairseq_prune.errors
    sys.modules["fairseq_prune.inference.translation"] = None  # so that _cli looks for it, and waits here
    class Waiting:
        def find_spec(self, name, *rest):
            if name.startswith("fairseq_prune.inference"):
                print("ready", flush=True)
                time.sleep(60)
    del sys.modules["fairseq_prune.inference.translation"]
    sys.meta_path.insert(0, Waiting())
from _cli import PlainParser, complete, run

def main(args):
    Path("done.txt").write_text("complete")
    with complete(Path("out")) as folder:
        folder.mkdir()
        (folder / "half.txt").write_text("half")
        print("ready", flush=True)
        time.sleep(60)

run(main, PlainParser("waits"))
"""


@pytest.mark.parametrize("early", [False, True], ids=["at work", "while it is imported"])
def test_an_interrupt_is_one_line_and_leaves_nothing_unfinished(early, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(scripts=str(ROOT / "scripts"), early=early))
    folder = tmp_path / "work"
    folder.mkdir()
    process = subprocess.Popen(
        [sys.executable, str(script)],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.default_int_handler
        ),  # a background job ignores it
    )
    try:
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130 and errors.split() == ["interrupted"]
    assert [path.name for path in folder.iterdir()] == ([] if early else ["done.txt"])
