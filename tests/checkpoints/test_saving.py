"""Files are whole under their names, whatever happens while they are written."""

import errno
import os
import resource
import subprocess
import sys

import pytest
import torch

from fairseq_prune.checkpoints.saving import give_another_name, save, whole_file

WEIGHTS = {"weight": torch.arange(50_000.0), "more": torch.ones(10)}
KILLED = """
import os, signal, sys
from fairseq_prune.checkpoints import saving

class Kill:
    def __reduce__(self):
        os.kill(os.getpid(), signal.SIGKILL)

saving.save({"first": 1, "last": Kill()}, sys.argv[1])
"""


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def limited(function):
    """Call ``function`` while files may have 100,000 bytes at most: the system's answer is as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        function()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("content", [WEIGHTS, {"many": [torch.ones(100) for _ in range(500)]}])
def test_no_room_leaves_what_was_there_and_is_one_line(content, tmp_path):
    path = tmp_path / "a.pt"
    save({"old": 1}, path)
    with pytest.raises(OSError, match=r"a\.pt: not written: File too large$"):
        limited(lambda: save(content, path))
    assert names(tmp_path) == ["a.pt"] and torch.load(path) == {"old": 1}
    save(content, path)
    assert torch.load(path).keys() == content.keys()


def test_a_kill_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.pt"
    save({"old": 1}, path)
    killed = subprocess.run([sys.executable, "-c", KILLED, str(path)], capture_output=True)
    assert killed.returncode == -9, killed.stderr
    assert torch.load(path) == {"old": 1} and names(tmp_path) == ["a.pt", "a.pt.tmp"]
    save(WEIGHTS, path)
    assert names(tmp_path) == ["a.pt"]


@pytest.mark.parametrize("links", [True, False])
def test_another_name_is_never_half_of_a_file(links, tmp_path, monkeypatch):
    if not links:
        monkeypatch.setattr(os, "link", refuse_link)
    save({"new": 1}, tmp_path / "a.pt")
    save({"old": 1}, tmp_path / "b.pt")
    for _ in range(2):
        give_another_name(tmp_path / "a.pt", tmp_path / "b.pt")
        assert torch.load(tmp_path / "b.pt") == {"new": 1}
    save({"newer": 1}, tmp_path / "a.pt")
    assert torch.load(tmp_path / "b.pt") == {"new": 1}
    assert names(tmp_path) == ["a.pt", "b.pt"]


def test_a_copy_that_has_no_room_leaves_what_was_there(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", refuse_link)
    save(WEIGHTS, tmp_path / "a.pt")
    save({"old": 1}, tmp_path / "b.pt")
    with pytest.raises(OSError, match=r"b\.pt: not written: File too large$"):
        limited(lambda: give_another_name(tmp_path / "a.pt", tmp_path / "b.pt"))
    assert torch.load(tmp_path / "b.pt") == {"old": 1} and names(tmp_path) == ["a.pt", "b.pt"]


def refuse_link(path, name):
    raise OSError(errno.EPERM, "Operation not permitted")


def test_what_fails_for_another_reason_comes_through(tmp_path):
    with pytest.raises(KeyError), whole_file(tmp_path / "a.txt") as aside:
        aside.write_text("half")
        raise KeyError("reason")
    assert names(tmp_path) == []
