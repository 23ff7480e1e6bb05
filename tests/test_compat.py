"""What differs between versions of fairseq, torch, numpy and omegaconf.

Over 300 lines: each difference between versions has a test.
"""

import ast
import inspect
import io
import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import fairseq
import numpy as np
import pytest
import torch
from fairseq import checkpoint_utils
from fairseq.data import FairseqDataset, data_utils
from fairseq.dataclass.configs import FairseqConfig
from fairseq.logging.meters import AverageMeter
from fairseq.models.wav2vec.wav2vec2 import Wav2Vec2Config, Wav2Vec2Model
from fairseq.tasks import FairseqTask
from omegaconf import OmegaConf

from fairseq_prune import compat
from fairseq_prune.checkpoints.loading import load_fairseq_state

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


def evaluating_modules():
    """Names of fairseq's own modules that call `eval`; its examples are no part of the library."""
    root = Path(fairseq.__file__).parent
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        calls = (node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
        if "examples" not in parts and any(getattr(call, "id", None) == "eval" for call in calls):
            yield ".".join(("fairseq", *parts))


def test_no_module_of_fairseq_evaluates_code():
    names = list(evaluating_modules())
    assert {"fairseq.models.wav2vec.wav2vec2", "fairseq.models.hubert.hubert", "fairseq.utils"} <= set(names)
    assert all(sys.modules[name].eval is compat.evaluate_literals for name in names)


LITERALS = [
    "[(512, 10, 5)] + [(512,3,2)] * 4",
    " 2 * [(512, 3)] + 1 * [(1, 1)]",
    "(0.9, 0.98)",
    "[-1, 1e-8, +2, True, None]",
    "{'a': [1], 'b': ('x', 2.5)}",
    "3 - 1",
    "[]",
]


@pytest.mark.parametrize("expression", LITERALS)
def test_literals_are_evaluated_as_python_does(expression):
    assert compat.evaluate_literals(expression) == eval(expression)


@pytest.mark.parametrize(
    "expression",
    [
        "__import__('os').system('true')",
        "[i for i in (1,)]",
        "(lambda: 1)()",
        "().__class__",
        "f'{1}'",
        "[print(1)] * 0",
        "{**{}}",
        "open",
        "[[0] * 9999] * 9999 * 9999",
        "10 ** 10 ** 10",
        "'a' * 10 ** 10",
        "(" * 500 + ")" * 500,
        "1 +",
        "",
    ],
)
def test_other_code_is_refused_in_one_line(expression):
    with pytest.raises(ValueError, match="expected numbers, texts and lists, found other code") as error:
        compat.evaluate_literals(expression)
    assert "\n" not in str(error.value)


def test_what_is_no_text_is_a_type_error_as_of_eval():
    with pytest.raises(TypeError):
        compat.evaluate_literals(True)
    assert fairseq.utils.eval_bool(True, default=True) is True


SMALL_WAV2VEC2 = {
    "_name": "wav2vec2",
    **dict(encoder_layers=1, encoder_embed_dim=8, encoder_ffn_embed_dim=8, encoder_attention_heads=1),
    **dict(conv_pos=4, conv_pos_groups=1, final_dim=4, latent_vars=4),
}


def wav2vec2_checkpoint(path, conv_feature_layers):
    """A checkpoint of fairseq's wav2vec 2.0, which calls `eval` on its convolutions."""
    options = Wav2Vec2Config(**SMALL_WAV2VEC2, conv_feature_layers="[(8, 10, 5)] + [(8, 3, 2)] * 2")
    model = Wav2Vec2Model(options)
    cfg = OmegaConf.structured(FairseqConfig())
    cfg = OmegaConf.to_container(OmegaConf.create(OmegaConf.to_container(cfg, enum_to_str=True)))
    cfg["model"] = {**SMALL_WAV2VEC2, "conv_feature_layers": conv_feature_layers}
    cfg["task"] = {"_name": "audio_pretraining", "data": "."}
    history = [{"num_updates": 0, "optimizer_name": "Adam", "lr_scheduler_state": {}}]
    state = {"cfg": cfg, "args": None, "model": model.state_dict(), "optimizer_history": history}
    torch.save({**state, "extra_state": {"train_iterator": None}, "task_state": {}}, path)
    return str(path)


def test_options_of_a_checkpoint_build_its_model(tmp_path):
    path = wav2vec2_checkpoint(tmp_path / "a.pt", "[(8, 10, 5)] + [(8, 3, 2)] * 2")
    models, _, _ = checkpoint_utils.load_model_ensemble_and_task([path])
    assert len(models[0].feature_extractor.conv_layers) == 3


def test_code_in_the_options_of_a_checkpoint_does_not_run(tmp_path):
    marker = tmp_path / "marker"
    payload = f"[(8, 10, 5)] + [open({str(marker)!r}, 'w').close() or (8, 3, 2)] * 2"
    assert len(eval(payload)) == 3 and marker.exists()  # the payload is live
    marker.unlink()
    path = wav2vec2_checkpoint(tmp_path / "evil.pt", payload)
    with pytest.raises(ValueError, match="expected numbers, texts and lists, found other code"):
        checkpoint_utils.load_model_ensemble_and_task([path])
    # as `Translator` builds the model of a checkpoint that says it is of our task
    cfg = load_fairseq_state(path)["cfg"]
    with pytest.raises(ValueError, match="expected numbers, texts and lists, found other code"):
        FairseqTask(Namespace()).build_model(cfg.model, from_checkpoint=True)
    assert not marker.exists()


ENDS_WHILE_IT_LOADS = """
import torch
import fairseq_prune
from fairseq.data.iterators import BufferedIterator


class Batches(list):
    def __iter__(self):
        while True:
            torch.sort(torch.nn.functional.conv1d(torch.randn(1, 64, 4096), torch.randn(64, 64, 3)))
            yield "a batch"


next(BufferedIterator(2, Batches(range(10**6))))
"""


def test_a_program_that_ends_while_batches_are_loaded_ahead_ends_well():
    """fairseq alone aborts here: its thread dies inside of torch."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", ENDS_WHILE_IT_LOADS]
    done = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_the_checkpoint_that_the_first_of_several_processes_sends_to_the_others_can_be_read():
    from fairseq.distributed import utils

    sent = io.BytesIO()
    torch.save({"model": {"weight": utils._TensorPlaceholder(3)}}, sent)
    sent.seek(0)
    assert torch.load(sent)["model"]["weight"].index == 3


@pytest.mark.parametrize("turned", ["output", "input"])
def test_the_gradient_of_gelu_does_not_depend_on_the_order_in_memory(turned):
    """torch 2.0.1 alone fails here."""
    gradients = []
    for dtype in (torch.float32, torch.float64):
        torch.manual_seed(0)
        x = torch.randn(2, 8, 41).to(dtype).requires_grad_()
        direction = torch.randn(2, 41, 8).to(dtype)
        y = torch.nn.GELU()(x if turned == "output" else x.transpose(1, 2))
        (y.transpose(1, 2) if turned == "output" else y).backward(direction)
        gradients.append(x.grad.double())
    torch.testing.assert_close(*gradients, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    "size, multiple, told", [(12, 8, True), (16, 8, False), (6, 8, False), (12, 1, False)]
)
def test_a_batch_size_that_fairseq_rounds_down_is_told(size, multiple, told, caplog):
    compat._tell_of_rounded_batches.cache_clear()
    batches = data_utils.batch_by_size(
        np.arange(40), lambda i: 1, max_sentences=size, required_batch_size_multiple=multiple
    )
    assert max(map(len, batches)) == (8 if told else size)
    assert (f"--batch-size {size}: batches have 8 at most" in caplog.text) is told
