"""The average of checkpoints of one training."""

import pytest
import torch

from fairseq_prune.checkpoints.averaging import average, newest
from fairseq_prune.checkpoints.sparse import STATE
from fairseq_prune.pruning.magnitude import pack_masks

SPARSE = torch.tensor([[1.0, 0.0], [0.0, 3.0]])


def write(path, weight, mask=None, dtype=torch.float32, **others):
    model = {"weight": weight.to(dtype), "steps": torch.tensor(7), **others}
    content = {"model": model, "cfg": {"model": {}}, "last_optimizer_state": {"step": 1}}
    if mask is not None:
        content[STATE] = {"masks": pack_masks({"weight": mask}), "method": "parp"}
    torch.save(content, path)
    return path


def test_weights_are_averaged_and_numbers_are_the_last_ones(tmp_path):
    paths = [write(tmp_path / "a.pt", SPARSE), write(tmp_path / "b.pt", 3 * SPARSE, steps=torch.tensor(9))]
    averaged = average(paths)
    assert torch.equal(averaged["model"]["weight"], 2 * SPARSE)
    assert averaged["model"]["steps"] == 9 and "last_optimizer_state" not in averaged


def test_half_precision_is_averaged_in_full(tmp_path):
    values = torch.tensor([[2048.0, 1.0]])
    paths = [write(tmp_path / f"{i}.pt", values + i, dtype=torch.float16) for i in (0, 2, 4, 6)]
    weight = average(paths)["model"]["weight"]
    assert weight.dtype == torch.float16 and torch.equal(weight, torch.tensor([[2052.0, 4.0]]).half())


@pytest.mark.parametrize("same", [True, False])
def test_the_state_of_pruning_stays_where_masks_are_the_same(same, tmp_path):
    other = SPARSE if same else SPARSE.flip(0)
    paths = [write(tmp_path / "a.pt", SPARSE, SPARSE != 0), write(tmp_path / "b.pt", other, other != 0)]
    averaged = average(paths)["model"]
    assert (STATE in averaged) == same
    assert int((averaged["weight"] == 0).sum()) == (2 if same else 0)


def test_other_weights_are_refused_by_name(tmp_path):
    paths = [write(tmp_path / "a.pt", SPARSE), write(tmp_path / "b.pt", SPARSE, more=torch.ones(1))]
    with pytest.raises(ValueError, match=r"b\.pt: other weights than .*a\.pt: more"):
        average(paths)
    paths[1] = write(tmp_path / "b.pt", torch.ones(3))
    with pytest.raises(ValueError, match=r"b\.pt: other weights than .*a\.pt: weight"):
        average(paths)


def test_the_newest_follow_epochs_and_updates(tmp_path):
    order = [
        "checkpoint_1_200.pt",
        "checkpoint1.pt",
        "checkpoint_2_1000.pt",
        "checkpoint2.pt",
        "checkpoint_11_9000.pt",
    ]
    for name in [
        *order,
        "checkpoint_last.pt",
        "checkpoint_best.pt",
        "checkpoint.best_loss_3.210.pt",
        "crash.pt",
    ]:
        (tmp_path / name).touch()
    assert [path.name for path in newest(tmp_path, 3)] == order[-3:]
    assert [path.name for path in newest(tmp_path, 5)] == order
    with pytest.raises(ValueError, match="found 5 checkpoints of epochs and updates, expected 6 or more"):
        newest(tmp_path, 6)
