"""What a process prints of an error that ends it."""

import subprocess
import sys

CHILD = """
import multiprocessing
from fairseq_prune import errors

def end():
    raise ConnectionResetError(104, "Connection reset by peer")

if __name__ == "__main__":
    worker = multiprocessing.get_context("fork").Process(target=lambda: errors._one_line(*caught(end)))

    def caught(function):
        try:
            function()
        except OSError as error:
            return type(error), error, error.__traceback__

    worker.start()
    worker.join()
    {then}
"""


def printed(then):
    program = CHILD.format(then=then)
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120).stderr


def test_a_worker_whose_parent_has_ended_says_nothing():
    assert printed("pass") == ""


def test_a_lost_connection_of_the_program_itself_is_told():
    assert "Connection reset by peer" in printed("errors._one_line(*caught(end))")
