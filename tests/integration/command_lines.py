"""fairseq's command lines in subprocesses."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
SMALL = (
    "--hubert-layers 2 --hubert-embed-dim 32 --hubert-ffn-embed-dim 48 --hubert-conv-pos-groups 4"
    " --hubert-conv-layers [(16,10,5),(16,8,4),(16,8,4),(16,8,4)]"
    " --deltalm-embed-dim 32 --deltalm-ffn-embed-dim 48"
).split()


def start(program, *arguments, cwd):
    """A process of one of fairseq's programs, its output piped as text."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [str(BIN / program), *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def run(program, *arguments, cwd, timeout=240):
    """Exit status and output of a finished program; ``timeout`` in seconds."""
    process = start(program, *arguments, cwd=cwd)
    output, _ = process.communicate(timeout=timeout)
    return process.returncode, output


def train_arguments(data, save_dir, *options):
    """Of fairseq-train, for a model that trains in a second."""
    common = (
        "--task speech_translation --arch hubert_deltalm_tiny --criterion speech_translation"
        " --optimizer adam --lr 1e-3 --max-tokens 16000 --log-format simple --log-interval 1"
        " --train-subset train --valid-subset dev --no-progress-bar"
    ).split()
    return [data, "--user-dir", ROOT / "fairseq_prune", "--save-dir", save_dir, *common, *SMALL, *options]
