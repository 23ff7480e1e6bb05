"""Hundreds of damaged and foreign files, read as our scripts and fairseq's programs read them."""

import random
from argparse import Namespace

import pytest
import torch
from fairseq import checkpoint_utils

from fairseq_prune.checkpoints.loading import load_checkpoint_file, load_fairseq_state

GOOD = {
    "args": None,
    "cfg": {"model": {"_name": "x", "encoder_layers": 2}, "task": {"_name": "y"}},
    "model": {"weight": torch.arange(600.0), "bias": torch.ones(30)},
    "optimizer_history": [{"num_updates": 3, "optimizer_name": "a", "lr_scheduler_state": {}}],
    "extra_state": {"train_iterator": {"epoch": 1}},
}
ENDLESS = [1]
ENDLESS.append(ENDLESS)
FOREIGN = {
    "a list": [1, 2],
    "a tensor": torch.ones(3),
    "nothing": {},
    "weights alone": GOOD["model"],
    "a model that is none": {**GOOD, "model": [1]},
    "no configuration": {**GOOD, "cfg": None},
    "text for a configuration": {**GOOD, "cfg": "text"},
    "too many layers": {**GOOD, "cfg": {"model": {"encoder_layers": 10**7}}},
    "too many values": {**GOOD, "cfg": {"task": {"data": [1] * 10**6}}},
    "values without end": {**GOOD, "cfg": {"task": {"data": ENDLESS}}},
    "too wide": {**GOOD, "cfg": None, "args": Namespace(encoder_embed_dim=2**24, task="t")},
}
READERS = [
    load_checkpoint_file,
    load_fairseq_state,
    lambda path: checkpoint_utils.load_checkpoint_to_cpu(str(path)),
]
OF_FAIRSEQ = READERS[1:]


def damage(content, kind, generator):
    """The bytes of a file, as an accident leaves them."""
    place = generator.randrange(len(content))
    size = generator.choice((1, 16, 512))
    if kind == "cut":
        return content[:place]
    if kind == "zeroed":
        return content[:place] + b"\0" * len(content[place : place + size]) + content[place + size :]
    if kind == "changed":
        return (
            content[:place]
            + bytes(byte ^ 0x55 for byte in content[place : place + size])
            + content[place + size :]
        )
    return content[:place] + generator.randbytes(size) + content[place:]


def outcome(read, path):
    """What a reader says of a file, or None, and what it gives; any other exception comes through."""
    try:
        return None, read(path)
    except (ValueError, OSError) as error:
        assert "\n" not in str(error) and str(path) in str(error)
        return str(error), None


def refusal(read, path):
    return outcome(read, path)[0]


def equal(found, expected):
    if torch.is_tensor(expected):
        return torch.equal(found, expected)
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(equal(found[key], expected[key]) for key in expected)
    return found == expected


@pytest.mark.parametrize("kind", ["cut", "zeroed", "changed", "inserted"])
def test_damage_is_told_in_a_line_or_has_hit_nothing(kind, tmp_path):
    torch.save(GOOD, tmp_path / "good.pt")
    content, generator = (tmp_path / "good.pt").read_bytes(), random.Random(kind)
    path, refused = tmp_path / "bad.pt", 0
    for _ in range(60):
        path.write_bytes(damage(content, kind, generator))
        for read in READERS:
            # of this reading: where a name is damaged, torch looks at memory that it has not filled, and another may
            # end otherwise
            said, found = outcome(read, path)
            refused += said is not None
            if said is None:  # between the records
                same = GOOD if read is load_checkpoint_file else {"model": GOOD["model"]}
                assert equal({name: found[name] for name in same}, same)
                assert found.keys() >= GOOD.keys()
    assert refused > 60


@pytest.mark.parametrize("content", FOREIGN)
def test_a_foreign_file_is_told_in_a_line(content, tmp_path):
    torch.save(FOREIGN[content], tmp_path / "foreign.pt")
    told = [refusal(read, tmp_path / "foreign.pt") for read in OF_FAIRSEQ]
    assert told[0] is not None and (told[1] is not None or content == "no configuration")


@pytest.mark.parametrize(
    "content", [b"", b"text", b"PK\x03\x04", b"\x80\x02.", b"\0" * 4096, b"\x80\x02" + b"(" * 99_999]
)
def test_what_is_no_checkpoint_is_told_in_a_line(content, tmp_path):
    (tmp_path / "none.pt").write_bytes(content)
    assert None not in [refusal(read, tmp_path / "none.pt") for read in READERS]
