import inspect
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from fairseq import checkpoint_utils
from fairseq.data import FairseqDataset, data_utils
from fairseq.logging.meters import AverageMeter
from omegaconf import OmegaConf

from fairseq_prune import compat

PREPROCESS_AND_TRAIN = """
import sys
from fairseq_cli import preprocess, train
sys.argv = "preprocess -s de -t en --trainpref text --validpref text --destdir data".split()
preprocess.cli_main()
sys.argv = '''train data --arch transformer_iwslt_de_en --encoder-layers 1 --decoder-layers 1
    --encoder-embed-dim 8 --decoder-embed-dim 8 --encoder-ffn-embed-dim 8 --decoder-ffn-embed-dim 8
    --optimizer adam --lr 0.001 --eval-bleu --best-checkpoint-metric bleu --maximize-best-checkpoint-metric
    --store-ema --ema-fp32 --max-tokens 100 --max-update 2 --save-dir saved --cpu --num-workers 0'''.split()
train.cli_main()
"""


def test_a_checkpoint_of_fairseq_train_loads_in_fairseq_and_in_our_loader(tmp_path, monkeypatch):
    """With all that such a checkpoint can hold: BLEU counts (numpy), an average of the weights."""
    monkeypatch.chdir(tmp_path)
    for language in ("de", "en"):
        (tmp_path / f"text.{language}").write_text("a b c d\n" * 8)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [sys.executable, "-c", PREPROCESS_AND_TRAIN], env=environment, check=True, capture_output=True
    )

    state = compat.load_weights_only("saved/checkpoint_best.pt")
    assert set(state["extra_state"]["ema"]) == set(state["model"])
    assert "_bleu_counts" in repr(state["extra_state"]["metrics"])
    assert state["cfg"]["model"].arch == "transformer_iwslt_de_en"

    models, cfg, task = checkpoint_utils.load_model_ensemble_and_task(["saved/checkpoint_best.pt"])
    assert cfg.model.encoder_embed_dim == 8 and len(task.target_dictionary) > 4
    for key in ("encoder.embed_tokens.weight", "decoder.layers.0.fc1.weight"):
        assert torch.equal(models[0].state_dict()[key], state["model"][key])


@pytest.mark.skipif(compat.LEGACY, reason="torch 2.0.1 has no allow-list")
def test_installing_again_changes_nothing():
    def state():
        return set(torch.serialization.get_safe_globals()), data_utils.np, data_utils.batch_by_size

    before = state()
    compat.install()
    assert state() == before


def test_the_only_functions_on_the_list_rebuild_arrays_and_bytes():
    functions = {name for name, obj in compat.SAFE_GLOBALS.items() if not inspect.isclass(obj)}
    assert functions == {
        "_codecs.encode",
        "typing.Any",
        *(
            f"numpy.{core}.multiarray.{name}"
            for core in ("core", "_core")
            for name in ("_reconstruct", "scalar")
        ),
    } - ({"typing.Any"} if inspect.isclass(compat.SAFE_GLOBALS["typing.Any"]) else set())


def test_objects_of_the_list_come_back(tmp_path):
    meter = AverageMeter(round=3)
    meter.update(2.0)
    content = {
        "cfg": OmegaConf.create({"a": {"b": [1, "${c}"]}, "c": 2.5, "d": None}),
        "scalars": [np.float64(0.5), np.float32(0.25), np.int64(3), np.bool_(True)],
        "array": np.arange(6, dtype=np.int32).reshape(2, 3),
        "meter": meter,
        "bytes": b"\x00\xff",
    }
    old_name = AverageMeter.__module__
    try:
        AverageMeter.__module__ = "fairseq.meters"  # where it was before fairseq 0.9
        torch.save(content, tmp_path / "a.pt")
    finally:
        AverageMeter.__module__ = old_name
    loaded = compat.load_weights_only(tmp_path / "a.pt")
    assert OmegaConf.to_container(loaded["cfg"], resolve=True) == {"a": {"b": [1, 2.5]}, "c": 2.5, "d": None}
    assert loaded["scalars"] == content["scalars"]
    assert [type(scalar) for scalar in loaded["scalars"]] == [type(scalar) for scalar in content["scalars"]]
    assert np.array_equal(loaded["array"], content["array"]) and loaded["array"].dtype == np.int32
    assert loaded["meter"].avg == 2.0 and loaded["bytes"] == b"\x00\xff"


@pytest.mark.parametrize("package", [b"numpy.core", b"numpy._core"])
def test_numpy_is_known_under_the_names_of_both_its_versions(tmp_path, package):
    path = tmp_path / "a.pt"
    torch.save({"a": np.float64(0.5), "b": np.ones(2)}, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    written = b"numpy._core" if b"numpy._core" in content else b"numpy.core"
    path.write_bytes(content.replace(written + b".multiarray", package + b".multiarray"))
    loaded = compat.load_weights_only(path)
    assert loaded["a"] == 0.5 and loaded["b"].tolist() == [1.0, 1.0]


@pytest.mark.skipif(not compat.LEGACY, reason="for the omegaconf of fairseq 0.12.2")
def test_a_refused_class_is_named_on_the_legacy_stack_under_its_name_of_python_3(tmp_path):
    torch.save({"a": range(3)}, tmp_path / "a.pt")
    with pytest.raises(compat.RefusedGlobal, match="builtins.range"):
        compat.load_weights_only(tmp_path / "a.pt")


@pytest.mark.parametrize("options", [{"no_overlap": True}, {"mask_type": "uniform", "mask_other": 2}, {}])
def test_fairseq_masks_spans(options):
    mask = data_utils.compute_mask_indices((3, 200), None, 0.3, 10, min_masks=2, **options)
    assert mask.shape == (3, 200) and 0.05 < mask.mean() < 0.6


def test_numpy_itself_stays_as_it_is():
    assert not hasattr(np.random.default_rng(1), "randint")
    assert compat.LEGACY or not hasattr(np, "int")
    assert data_utils.np.ndarray is np.ndarray


class Items(FairseqDataset):
    def __init__(self, count):
        self.count = count

    def num_tokens(self, index):
        return 1

    def num_tokens_vec(self, indices):
        return np.ones(len(indices))


@pytest.mark.parametrize("count", [0, 1, 5, 8, 11, 16, 29])
def test_no_item_is_lost_for_the_sake_of_the_batch_size(count):
    indices = np.arange(count)[::-1].copy()
    batches = Items(count).batch_by_size(indices, max_tokens=10, required_batch_size_multiple=8)
    assert [index for batch in batches for index in batch] == indices.tolist()
    assert all(len(batch) % 8 == 0 or len(batch) < 8 for batch in batches)
