"""Python programs in forks of a process that has imported what takes them seconds."""

import os
import runpy
import sys
from pathlib import Path


def become(program, arguments, cwd, stdout, stderr):
    """Run ``program`` in this process as ``python program arguments`` would; the exit status."""
    os.chdir(cwd)
    for descriptor, path in ((1, stdout), (2, stderr)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    sys.argv = [program, *arguments]
    sys.path[0] = str(Path(program).parent)
    try:
        runpy.run_path(program, run_name="__main__")
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
            return 1
        return end.code or 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
        return 1
    return 0


def leave(status):
    """End this process without the second that torch takes to clean up."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
