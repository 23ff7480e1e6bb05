"""Runs Python programs in forks of a process that has imported what takes them seconds.

Each program has a process of its own, with arguments, working directory, output and exit status, as a shell
would give it; only the imports are paid once. A request is a line of JSON on stdin: program, arguments, cwd, and
the files for stdout and stderr; the answer is a line with the exit status.
"""

import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "scripts"))

from _forks import become, leave


class ForkServer:
    """The other end: ``modules`` are imported before the first fork."""

    def __init__(self, folder: Path, modules: str):
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, __file__, *modules.split()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def run(self, program, *arguments, cwd):
        """Exit status, stdout and stderr of a Python program."""
        files = [str(self.folder / name) for name in ("stdout", "stderr")]
        request = [str(program), [str(word) for word in arguments], str(cwd), *files]
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        status = int(self.process.stdout.readline())
        return status, *(Path(file).read_text(encoding="utf-8") for file in files)

    def close(self):
        """End the server, when its last program has ended."""
        self.process.stdin.close()
        self.process.wait()


def serve():
    """Answer requests until stdin ends."""
    for module in sys.argv[1:]:
        import_module(module)
    for line in sys.stdin:
        child = os.fork()
        if not child:
            leave(become(*json.loads(line)))
        _, status = os.waitpid(child, 0)
        print(os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status), flush=True)
    leave(0)


if __name__ == "__main__":
    serve()
