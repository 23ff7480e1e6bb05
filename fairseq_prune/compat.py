"""The one file that knows fairseq, torch, numpy and omegaconf versions; to import it mends fairseq (`install`).

Over 300 lines: all that depends on a version is in this one file, so that no other file has to know versions.
"""

import argparse
import ast
import atexit
import codecs
import collections
import contextlib
import dataclasses
import functools
import logging
import operator
import os
import pickle
import queue
import re
import sys
import tarfile
import threading
import types
import typing
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Mapping

import numpy as np
import omegaconf
import torch
from fairseq import checkpoint_utils, models
from fairseq.data import data_utils
from fairseq.data.dictionary import Dictionary
from fairseq.data.iterators import BackgroundConsumer
from fairseq.distributed.utils import _TensorPlaceholder
from fairseq.logging import meters
from fairseq.models.hubert import hubert_asr
from hydra.core.config_store import ConfigStore
from torch.nn import functional

_multiarray = (np._core if hasattr(np, "_core") else np.core).multiarray
_number_types = [type(np.dtype(code)) for code in "?bhilqBHILQefd"]

# The only classes and functions, beside torch's own, that a checkpoint may name: {name in the file: object}.
SAFE_GLOBALS = {
    # plain types and containers; omegaconf notes the types of its nodes
    "builtins.bool": bool,
    "builtins.bytearray": bytearray,
    "builtins.complex": complex,
    "builtins.dict": dict,
    "builtins.float": float,
    "builtins.int": int,
    "builtins.list": list,
    "builtins.set": set,
    "builtins.str": str,
    "builtins.tuple": tuple,
    "collections.Counter": collections.Counter,
    "collections.OrderedDict": collections.OrderedDict,
    "collections.defaultdict": collections.defaultdict,
    "typing.Any": typing.Any,
    "_codecs.encode": codecs.encode,  # how pickle writes bytes
    # configurations: `args` in old checkpoints, `cfg` in newer ones
    "argparse.Namespace": argparse.Namespace,
    "omegaconf.base.ContainerMetadata": omegaconf.base.ContainerMetadata,
    "omegaconf.base.Metadata": omegaconf.base.Metadata,
    "omegaconf.dictconfig.DictConfig": omegaconf.DictConfig,
    "omegaconf.listconfig.ListConfig": omegaconf.ListConfig,
    "omegaconf.nodes.AnyNode": omegaconf.AnyNode,
    "omegaconf.nodes.BooleanNode": omegaconf.BooleanNode,
    "omegaconf.nodes.FloatNode": omegaconf.FloatNode,
    "omegaconf.nodes.IntegerNode": omegaconf.IntegerNode,
    "omegaconf.nodes.StringNode": omegaconf.StringNode,
    # task state (HuBERT keeps its dictionaries there), and the meters that fairseq pickled before 0.9
    "fairseq.data.dictionary.Dictionary": Dictionary,
    "fairseq.meters.AverageMeter": meters.AverageMeter,
    "fairseq.meters.StopwatchMeter": meters.StopwatchMeter,
    "fairseq.meters.TimeMeter": meters.TimeMeter,
    # what fairseq's first process sends for a tensor of a checkpoint, when several processes resume
    "fairseq.distributed.utils._TensorPlaceholder": _TensorPlaceholder,
    # numpy numbers and arrays (--eval-bleu keeps its n-gram counts), under the names of numpy 1 and 2
    "numpy.dtype": np.dtype,
    "numpy.ndarray": np.ndarray,
    "numpy.core.multiarray._reconstruct": _multiarray._reconstruct,
    "numpy._core.multiarray._reconstruct": _multiarray._reconstruct,
    "numpy.core.multiarray.scalar": _multiarray.scalar,
    "numpy._core.multiarray.scalar": _multiarray.scalar,
    **{f"{cls.__module__}.{cls.__qualname__}": cls for cls in _number_types},
}

# The legacy stack: torch 2.0.1 has no list of safe globals that one could extend.
LEGACY = not hasattr(torch.serialization, "add_safe_globals")
# torch 2.0 has no such product without an activation after it
HAS_ONEDNN_PRODUCTS = not LEGACY and torch.backends.mkldnn.is_available()
# float32 by weights of 16 bits: processors of Intel and AMD with AVX2
HAS_HALF_PRODUCTS = "fbgemm" in torch.backends.quantized.supported_engines
# torch 2.4 and later, on the CPU
HAS_FUSED_ADAM = hasattr(torch, "_fused_adamw_") and torch._C._dispatch_has_kernel_for_dispatch_key(
    "aten::_fused_adamw_", "CPU"
)


def onednn_has_bfloat16() -> bool:
    """Whether oneDNN multiplies in bfloat16 on this processor; torch 2.0 cannot tell, and does not here."""
    ask = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return ask is not None and bool(ask())


def cpu_autocast_is_on():
    """Whether torch chooses the precision of operations on the CPU."""
    return torch.is_autocast_cpu_enabled() if LEGACY else torch.is_autocast_enabled("cpu")


def is_traced():
    """Whether operations are recorded, for TorchScript, ONNX or torch.compile, and not only carried out."""
    return torch.jit.is_tracing() or (not LEGACY and torch.compiler.is_compiling())


def install():
    """Make fairseq work on the installed stack; safe to call again."""
    if not LEGACY:
        torch.serialization.add_safe_globals([(obj, name) for name, obj in SAFE_GLOBALS.items()])
    if checkpoint_utils.torch is torch:
        checkpoint_utils.torch = _Overlay(torch, load=load_weights_only)
    if not hasattr(data_utils.np, "int"):
        data_utils.np = _numpy_for_masks()
    if not hasattr(data_utils.batch_by_size, "keeps_last_batch"):
        data_utils.batch_by_size = _keep_last_batch(data_utils.batch_by_size)
    if not hasattr(checkpoint_utils.load_model_ensemble, "checks_overrides"):
        checkpoint_utils.load_model_ensemble = _check_overrides(checkpoint_utils.load_model_ensemble)
    if LEGACY and not hasattr(functional.gelu, "mends_gradient"):
        functional.gelu = _mend_gradient_of_gelu(functional.gelu)
    if not LEGACY and not hasattr(hubert_asr.HubertCtcConfig, "autoregressive"):
        _let_hubert_ctc_be_built()
    # fairseq's models and optimizers call `eval` on options, which a checkpoint may have set; fairseq has imported
    # all modules that do so, and a module's own name comes before the builtin
    for name, module in list(sys.modules.items()):
        if name.startswith("fairseq."):
            module.eval = evaluate_literals
    atexit.unregister(stop_background_loading)
    atexit.register(stop_background_loading)


# (key of a file, function of what was read), for formats of our own that fairseq shall read as its own
READERS = []


class RefusedGlobal(pickle.UnpicklingError, ValueError):
    """A checkpoint asks for something that is not in SAFE_GLOBALS; the message has its full name."""


def load_weights_only(file, map_location="cpu", mmap=False):
    """`torch.load` in which a file can make nothing but tensors and SAFE_GLOBALS, on both stacks.

    Args:
        file: path of a file that `torch.save` wrote, or that file, open.
        mmap: map the tensors of a zip file instead of reading them (current stack only).

    Raises:
        RefusedGlobal: the file asks for another class or function; nothing of it has run.
        Exception: whatever torch and pickle raise on a file that is no checkpoint.
    """
    checkpoint = _load_weights_only(file, map_location, mmap)
    for key, read in READERS:
        if isinstance(checkpoint, dict) and key in checkpoint:
            checkpoint = read(checkpoint)
    return checkpoint


def _load_weights_only(file, map_location, mmap):
    path = file if isinstance(file, (str, os.PathLike)) else file.name
    with open(path, "rb") as opened:
        is_zip = opened.read(4) == b"PK\x03\x04"
    try:
        if not LEGACY:
            return torch.load(file, map_location=map_location, weights_only=True, mmap=mmap and is_zip)
        # torch 2.0.1 hands TorchScript archives to another loader, and unpacks tar files
        if is_zip and "constants.pkl" in torch._C.PyTorchFileReader(str(path)).get_all_records():
            raise pickle.UnpicklingError("a TorchScript archive")
        if not is_zip and tarfile.is_tarfile(path):
            raise pickle.UnpicklingError("a tar archive")
        return torch.load(file, map_location=map_location, pickle_module=_RestrictedPickle)
    except pickle.UnpicklingError as error:
        refused = re.search(r"GLOBAL (\S+)", str(error))
        if refused is None:
            raise
        name = refused.group(1) if "." in refused.group(1) else f"builtins.{refused.group(1)}"
        raise RefusedGlobal(f"{path}: refused, asks for {name}, which is no safe class") from error


def refuse_unknown_overrides(path, cfg, overrides):
    """Check the options to override: those that a checkpoint has not, fairseq ignores.

    Args:
        cfg: the checkpoint's configuration, brought up to date.
        overrides: {option: value}, or {section: {option: value}}.

    Raises:
        ValueError: names an option that no section has.
    """
    sections = {
        name: section for name, section in cfg.items() if isinstance(section, (argparse.Namespace, Mapping))
    }
    for name, value in (overrides or {}).items():
        nested = value if name in sections and isinstance(value, dict) else ()
        unknown = [option for option in nested if option not in sections[name]]
        if name not in cfg and not any(name in section for section in sections.values()):
            unknown = [name]
        if unknown:
            raise ValueError(f"{path}: has no option {unknown[0]!r} that could be overridden")


def _check_overrides(load_model_ensemble):
    """For `fairseq-generate --model-overrides`; not below it, where fairseq's own models override what may be absent.

    A language model, which comes without task, gets the same overrides as the translation model.
    """

    def load(filenames, arg_overrides=None, task=None, *args, **kwargs):
        models, cfg = load_model_ensemble(filenames, arg_overrides, task, *args, **kwargs)
        if task is not None:
            refuse_unknown_overrides(filenames[-1], cfg, arg_overrides)
        return models, cfg

    load.checks_overrides = True
    return load


def evaluate_literals(expression):
    """`eval` for options: literals, and + - * of them, as in "[(512, 10, 5)] + [(512, 3, 2)] * 4".

    Raises:
        ValueError: the text is anything else; nothing of it has run.
        TypeError: it is no text, as of `eval`.
    """
    if not isinstance(expression, str):
        raise TypeError(f"expected text, found {type(expression).__name__}")
    try:
        return _evaluate(ast.parse(expression.strip(), mode="eval").body)
    except (SyntaxError, TypeError, ValueError, RecursionError, MemoryError):
        raise ValueError(
            f"option {expression[:80]!r} of a model or optimizer: expected numbers, texts and lists, found other code"
        ) from None


def _evaluate(node):
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_evaluate(node.operand)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        left, right = _evaluate(node.left), _evaluate(node.right)
        if isinstance(node.op, ast.Mult):
            for items, times in ((left, right), (right, left)):
                if hasattr(items, "__len__") and len(items) * times > _MOST_ITEMS:
                    raise ValueError("a list that fills the memory")
        return _OPERATORS[type(node.op)](left, right)
    if isinstance(node, (ast.List, ast.Tuple)):
        items = [_evaluate(item) for item in node.elts]
        return items if isinstance(node, ast.List) else tuple(items)
    if isinstance(node, ast.Dict):
        return {_evaluate(key): _evaluate(value) for key, value in zip(node.keys, node.values)}
    return ast.literal_eval(node)


_OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul}
_MOST_ITEMS = 10_000


def fills_itself(key):
    """Whether fairseq derives this entry of a state dict from others while loading, and files may lack it.

    fairseq 0.12.2 keeps a second, fused copy of a Transformer encoder layer's weights.
    """
    return LEGACY and _FUSED_COPY.search(key) is not None


_FUSED_COPY = re.compile(r"(^|\.)layers\.\d+\.(in_proj|out_proj|fc1|fc2)_(weight|bias)$")


class _RestrictedUnpickler(pickle.Unpickler):
    def find_class(self, module, name):
        # protocol 2 writes the names of Python 2
        module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
        full_name = f"{module}.{name}"
        allowed = {**torch._weights_only_unpickler._get_allowed_globals(), **SAFE_GLOBALS}
        if full_name not in allowed:
            raise pickle.UnpicklingError(f"GLOBAL {full_name}")  # as torch's own unpickler says it
        return allowed[full_name]


class _RestrictedPickle:
    """What `torch.load` uses of a pickle module."""

    Unpickler = _RestrictedUnpickler

    @staticmethod
    def load(file, **kwargs):
        try:
            return _RestrictedUnpickler(file, **kwargs).load()
        except ValueError as error:  # of a protocol that there is not
            raise pickle.UnpicklingError(str(error)) from error


class _Overlay(types.ModuleType):
    """A module with some names replaced, for one importer; the module itself stays as it is."""

    def __init__(self, module, **replaced):
        super().__init__(module.__name__)
        self.__dict__.update(replaced, _module=module)

    def __getattr__(self, name):
        return getattr(self._module, name)


class _Generator(np.random.Generator):
    def randint(self, low, high=None, size=None):
        return self.integers(low, high, size)


def _numpy_for_masks():
    """numpy for fairseq's `compute_mask_indices`: it says `np.int`, and `randint` to a `Generator`."""

    def default_rng(seed=None):
        return _Generator(np.random.default_rng(seed).bit_generator)

    return _Overlay(np, int=int, random=_Overlay(np.random, default_rng=default_rng))


def _let_hubert_ctc_be_built():
    """fairseq-fixed asks the options of `hubert_ctc` for one that they do not have."""
    help_text = {"help": "of sequence-to-sequence models; not for CTC"}
    config = dataclasses.make_dataclass(
        "HubertCtcConfig",
        [("autoregressive", bool, dataclasses.field(default=False, metadata=help_text))],
        bases=(hubert_asr.HubertCtcConfig,),
    )
    hubert_asr.HubertCtcConfig = models.MODEL_DATACLASS_REGISTRY["hubert_ctc"] = config
    hubert_asr.HubertCtc.__dataclass = config
    ConfigStore.instance().store(
        name="hubert_ctc", group="model", node=config(_name="hubert_ctc"), provider="fairseq"
    )


def _keep_last_batch(batch_by_size):
    """fairseq-fixed drops the last batch unless its size is a multiple of --required-batch-size-multiple (8).

    fairseq 0.12.2 keeps it, as the option's help says: without it `fairseq-generate` loses sentences. Nothing
    to batch gives no batches, not an IndexError.
    """

    def keep_last_batch(indices, *args, **kwargs):
        _tell_of_rounded_batches(kwargs.get("max_sentences"), kwargs.get("required_batch_size_multiple") or 1)
        indices = np.fromiter(indices, dtype=np.int64) if not isinstance(indices, np.ndarray) else indices
        batches = batch_by_size(indices, *args, **kwargs) if len(indices) else []
        batched = sum(len(batch) for batch in batches)
        return batches if batched == len(indices) else [*batches, indices[batched:]]

    keep_last_batch.keeps_last_batch = True
    return keep_last_batch


@functools.cache
def _tell_of_rounded_batches(size, multiple):
    """fairseq rounds --batch-size down without a word."""
    if size and size > multiple and size % multiple:
        logging.getLogger(__name__).warning(
            f"--batch-size {size}: batches have {size // multiple * multiple} at most, a multiple of"
            f" --required-batch-size-multiple {multiple}; with --required-batch-size-multiple 1 they have {size}"
        )


def _mend_gradient_of_gelu(gelu):
    """On the CPU, torch 2.0.1 gives a wrong gradient, or memory that nobody wrote, where the gradient that arrives lies
    in another order in memory than the output: after `gelu(conv(x)).transpose(1, 2)`, as in every HuBERT."""

    def mended(input, approximate="none"):
        output = gelu(input, approximate=approximate)
        if output.requires_grad and output.device.type == "cpu":
            stride = output.stride()
            output.register_hook(
                lambda gradient: (
                    gradient
                    if gradient.stride() == stride
                    else torch.empty_strided(gradient.shape, stride, dtype=gradient.dtype).copy_(gradient)
                )
            )
        return output

    mended.mends_gradient = True
    return mended


def stop_background_loading():
    """End fairseq's threads that load batches ahead; called at exit.

    They are daemons: a program that ends within an epoch (--max-update) kills them wherever they are, and inside
    of a torch operation that aborts the whole process ("terminate called without an active exception", status 134).
    """
    for thread in threading.enumerate():
        if isinstance(thread, BackgroundConsumer):
            thread._max_len = 0  # it ends after the batch that it is at
            while thread.is_alive():
                with contextlib.suppress(queue.Empty):
                    thread._queue.get(timeout=0.01)  # room, should it wait for some


install()
