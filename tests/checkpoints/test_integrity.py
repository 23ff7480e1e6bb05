"""Changed bytes in a checkpoint are noticed wherever it is loaded."""

import re
import zipfile

import pytest
import torch
from fairseq import checkpoint_utils

from fairseq_prune.checkpoints.integrity import check_records
from fairseq_prune.checkpoints.loading import load_checkpoint_file, load_fairseq_state

CONTENT = {"model": {"weight": torch.ones(50, 40), "bias": torch.arange(40.0)}, "cfg": {"model": {"dim": 40}}}


@pytest.fixture
def path(tmp_path):
    torch.save(CONTENT, tmp_path / "a.pt")
    return tmp_path / "a.pt"


def place(path, record):
    """Where in a file the content of a record begins."""
    with zipfile.ZipFile(path) as archive:
        content = archive.read(f"a/{record}")
    return path.read_bytes().index(content)


@pytest.mark.parametrize("record", ["data/0", "data/1", "data.pkl"])
@pytest.mark.parametrize("damage", [b"\x00" * 16, b"\x7f"], ids=["zeroed", "changed"])
@pytest.mark.parametrize("load", [check_records, load_checkpoint_file, load_fairseq_state])
def test_the_file_and_the_damaged_record_are_named(path, record, damage, load):
    with open(path, "r+b") as file:
        file.seek(place(path, record) + 20)
        file.write(damage)
    with pytest.raises(
        ValueError, match=rf"^{re.escape(str(path))}: damaged: record a/{record} is not as it"
    ):
        load(path)


def test_fairseq_notices_it_too(path):
    with open(path, "r+b") as file:
        file.seek(place(path, "data/0") + 20)
        file.write(b"\x7f")
    with pytest.raises(ValueError, match="damaged: record a/data/0"):
        checkpoint_utils.load_checkpoint_to_cpu(str(path))


def test_a_file_that_is_written_anew_is_checked_anew(path):
    check_records(path)
    with open(path, "r+b") as file:
        file.seek(place(path, "data/0") + 20)
        file.write(b"\x7f")
    with pytest.raises(ValueError, match="damaged"):
        check_records(path)
    torch.save(CONTENT, path)
    check_records(path)


def test_files_without_checksums_are_read(tmp_path):
    torch.save(CONTENT, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert torch.equal(load_checkpoint_file(tmp_path / "old.pt")["model"]["bias"], torch.arange(40.0))
    if hasattr(torch.serialization, "set_crc32_options"):
        torch.serialization.set_crc32_options(False)
        try:
            torch.save(CONTENT, tmp_path / "none.pt")
        finally:
            torch.serialization.set_crc32_options(True)
        assert torch.equal(load_checkpoint_file(tmp_path / "none.pt")["model"]["bias"], torch.arange(40.0))
