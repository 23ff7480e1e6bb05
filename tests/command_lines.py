"""fairseq's command lines in processes of their own."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

from fork_server import FORKS

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
SMALL = (
    "--hubert-layers 2 --hubert-embed-dim 32 --hubert-ffn-embed-dim 48 --hubert-conv-pos-groups 4"
    " --hubert-conv-layers [(16,10,5),(16,8,4),(16,8,4),(16,8,4)]"
    " --deltalm-embed-dim 32 --deltalm-ffn-embed-dim 48"
).split()


def interruptible():
    """Ctrl-C does in the child what it does in a terminal: a shell lets its background jobs ignore it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextlib.contextmanager
def started(program, *arguments, cwd):
    """A process of one of fairseq's programs, its output piped as text; it ends with the block at the latest."""
    process = subprocess.Popen(
        [str(BIN / program), *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=interruptible,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)  # with the workers that load its data
            process.communicate()


def run(program, *arguments, cwd):
    """Exit status and output of one of fairseq's programs that has ended."""
    code, output, errors = FORKS.run(BIN / program, *arguments, cwd=cwd)
    return code, output + errors


def run_together(program, lists_of_arguments, cwd, timeout=240):
    """Exit statuses and outputs of processes that need each other."""
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(started(program, *words, cwd=cwd)) for words in lists_of_arguments]
        outputs = [process.communicate(timeout=timeout)[0] for process in processes]
        return [process.returncode for process in processes], outputs


def train_arguments(data, save_dir, *options):
    """Of fairseq-train, for a model that trains in a second."""
    common = (
        "--task speech_translation --arch hubert_deltalm_tiny --criterion speech_translation"
        " --optimizer adam --lr 1e-3 --max-tokens 16000 --log-format simple --log-interval 1"
        " --train-subset train --valid-subset dev --no-progress-bar"
    ).split()
    return [data, "--user-dir", ROOT / "fairseq_prune", "--save-dir", save_dir, *common, *SMALL, *options]
