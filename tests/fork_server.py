"""Runs Python programs in forks of a process that has imported what takes them seconds.

Each program has a process of its own, with arguments, working directory, output and exit status, as a shell
would give it; only the imports are paid once a test run. A request is a line of JSON on stdin: program, arguments,
cwd, and the files for stdout and stderr; the answer is a line with the exit status.
"""

import json
import os
import subprocess
import sys
import tempfile
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "scripts"))

from _forks import become, leave  # noqa: E402

# for fairseq's programs: not this package, since finding it by --user-dir is a part of what is tested;
# fairseq_cli.train first, which sets logging up
FAIRSEQ = (
    "fairseq_cli.train fairseq_cli.hydra_train fairseq_cli.generate fairseq_cli.interactive fairseq_cli.validate"
    " torchaudio"
)
# for the scripts of this repository
OURS = (
    "fairseq.tasks fairseq_prune.inference.translation fairseq_prune.inference.recognition"
    " fairseq_prune.inference.understanding fairseq_prune.inference.whisper.transcriber"
    " fairseq_prune.checkpoints.hubert.export fairseq_prune.benchmarks.report"
    " matplotlib.pyplot pandas sacrebleu transformers.models.whisper.modeling_whisper"
)


class ForkServer:
    """The other end of a process that imports ``modules``, as far as they are installed, before its first fork."""

    def __init__(self, modules: str):
        self.folder = tempfile.TemporaryDirectory()
        self.process = subprocess.Popen(
            [sys.executable, __file__, *modules.split()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def run(self, program, *arguments, cwd):
        """Exit status, stdout and stderr of a Python program."""
        files = [str(Path(self.folder.name) / name) for name in ("stdout", "stderr")]
        request = [str(program), [str(word) for word in arguments], str(cwd), *files]
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        status = int(self.process.stdout.readline())
        return status, *(Path(file).read_text(encoding="utf-8") for file in files)

    def close(self):
        """End the server, when its last program has ended."""
        self.process.stdin.close()
        self.process.wait()
        self.folder.cleanup()


class Forks:
    """A `ForkServer` for fairseq's programs and one for ours, each started when it is first needed."""

    def __init__(self):
        self.servers = {}

    def server(self, program):
        """The one that runs a program."""
        ours = any(ROOT / room in Path(program).parents for room in ("scripts", "data_prep", "examples"))
        modules = OURS if ours else FAIRSEQ
        if modules not in self.servers:
            self.servers[modules] = ForkServer(modules)
        return self.servers[modules]

    def run(self, program, *arguments, cwd):
        """Exit status, stdout and stderr of a Python program."""
        return self.server(program).run(program, *arguments, cwd=cwd)

    def close(self):
        """End the servers."""
        for server in self.servers.values():
            server.close()
        self.servers.clear()


FORKS = Forks()  # of this test process


def serve():
    """Answer requests until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # imports print, too
    for module in sys.argv[1:]:
        if find_spec(module.partition(".")[0]) is not None:
            import_module(module)
    for line in sys.stdin:
        child = os.fork()
        if not child:
            leave(become(*json.loads(line)))
        _, status = os.waitpid(child, 0)
        code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status)
        print(code, file=answers, flush=True)
    leave(0)


if __name__ == "__main__":
    serve()
