"""Reading checkpoint files without running code from them, and strict loading with readable errors."""

from argparse import Namespace
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path

import safetensors.torch
from fairseq import checkpoint_utils
from fairseq.dataclass.utils import overwrite_args_by_name
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor

from fairseq_prune import compat
from fairseq_prune.checkpoints.integrity import check_records
from fairseq_prune.checkpoints.sizes import check_count, check_sizes
from fairseq_prune.checkpoints.sparse import STATE
from fairseq_prune.errors import BAD_INPUT, in_short, is_ours


def load_checkpoint_file(path, mmap=False):
    """Read a checkpoint onto the CPU: tensors and the classes in `compat.SAFE_GLOBALS`, nothing else.

    Args:
        path: a file that `torch.save` wrote (zip or older pickle format), or a `.safetensors` file.
        mmap: leave the tensors in the file until they are used (current stack only). Whoever writes over the
            file in place meanwhile crashes the process; copy what you keep.

    Returns:
        the dict in the file; `{name: tensor}` for `.safetensors`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a checkpoint, a broken one (the damaged record is named), or one that asks for another class
            (named, too).
    """
    with readable_errors(path):
        if Path(path).suffix == ".safetensors":
            checkpoint = safetensors.torch.load_file(path)
        else:
            check_records(path)
            checkpoint = compat.load_weights_only(path, mmap=mmap)
    if not isinstance(checkpoint, dict):
        raise ValueError(f"{path}: holds a {type(checkpoint).__name__}, expected a dict")
    return checkpoint


def load_fairseq_state(path, overrides=None):
    """Read a checkpoint of fairseq as fairseq does, brought up to date, for `load_model_ensemble_and_task`.

    Args:
        path: a file that fairseq-train wrote.
        overrides: {option: value} of its configuration to change, in whatever section the option is.

    Returns:
        the dict in the file; `cfg` is an omegaconf DictConfig.

    Raises:
        FileNotFoundError: no such file.
        ValueError: as for `load_checkpoint_file`, not a checkpoint of fairseq, or an override that it has not.
    """
    with readable_errors(path):
        state = checkpoint_utils.load_checkpoint_to_cpu(str(path))
    cfg, state["args"] = state.get("cfg"), None  # fairseq has turned the args of old files into a cfg
    if cfg is None:
        raise ValueError(f"{path}: not a checkpoint of fairseq: it holds no configuration")
    compat.refuse_unknown_overrides(path, cfg, overrides)
    overwrite_args_by_name(cfg, overrides or {})
    return state


def _with_sound_configuration(checkpoint):
    """The checkpoint, whose configuration has the form that all expect who use it.

    Raises:
        TypeError: it has not; `readable_errors` adds the path.
    """
    config = checkpoint["cfg"]
    check_count(config)
    if config is not None and not isinstance(config, (Mapping, Namespace)):
        raise TypeError(f"cfg: found {type(config).__name__}, expected a configuration")
    for section in ("model", "task"):
        options = config.get(section) if isinstance(config, Mapping) else None
        if options is not None and not isinstance(options, (Mapping, Namespace)):
            raise TypeError(f"cfg.{section}: found {type(options).__name__}, expected options")
        name = options.get("_name", "") if isinstance(options, Mapping) else ""
        if not isinstance(name, str):
            raise TypeError(f"cfg.{section}._name: found {str(name)[:50]!r}, expected a name")
    return checkpoint


compat.READERS.append(("cfg", _with_sound_configuration))


def model_and_task_options(checkpoint, path):
    """Options in a checkpoint of fairseq: two sections of its `cfg`, or both together in the older `args`.

    Returns:
        options of the model, options of the task: dicts.

    Raises:
        ValueError: it holds no configuration, or one with sizes that no model has.
    """
    config = _as_dict(checkpoint.get("cfg") or checkpoint.get("args"), path)
    if "model" not in config:
        check_sizes(config, path)
        return config, config
    model, task = _as_dict(config["model"], path), _as_dict(config.get("task", {}), path)
    check_sizes(model, path)
    return model, task


def _as_dict(section, path):
    if isinstance(section, Namespace):
        return vars(section)
    if isinstance(section, DictConfig):
        try:
            return OmegaConf.to_container(section)
        except (OmegaConfBaseException, AttributeError, TypeError) as error:
            raise ValueError(
                f"{path}: written by a later omegaconf than the installed one ({error})"
            ) from error
    if not isinstance(section, dict):
        raise ValueError(f"{path}: no configuration: found {type(section).__name__}, expected cfg or args")
    return section


def _is_refusal(error):
    """Whether an exception is a line for users as it is; what fairseq asserts does not name the file."""
    return isinstance(error, BAD_INPUT) and is_ours(error)


@contextmanager
def readable_errors(path):
    """Whatever goes wrong in reading becomes one line with the path."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such checkpoint")
    if not path.is_file():
        raise ValueError(f"{path}: found a directory, expected a checkpoint file")
    try:
        yield
    except MemoryError as error:  # a damaged length asks for as much, too
        raise ValueError(f"{path}: does not fit into memory, or is broken") from error
    except Exception as error:  # a broken file can fail in any way
        if _is_refusal(error):
            raise
        raise ValueError(f"{path}: no checkpoint, or a broken one ({in_short(error)})") from error


# torch, where an optimizer trained other parameters: a loss was added or left out
OTHER_PARAMETERS = "doesn't match the size of optimizer's group"


@contextmanager
def usable(path):
    """Whatever goes wrong in building what a checkpoint describes becomes one line with the path."""
    try:
        yield
    except Exception as error:
        if _is_refusal(error):
            raise
        first = error
        while first.__cause__ or first.__context__:  # the one that others were raised after
            first = first.__cause__ or first.__context__
        if _is_refusal(first):
            raise first from None
        remedy = "; --reset-optimizer begins a new one" if OTHER_PARAMETERS in str(first) else ""
        raise ValueError(f"{path}: cannot be used here ({in_short(first)}){remedy}") from error


def load_state_dict_strictly(module, state_dict, path):
    """Load all of ``state_dict`` into ``module``, or nothing.

    Only the state of magnitude pruning is left out: who loads here uses weights, or begins another training with them.

    Args:
        path: where the weights come from, for the error.

    Raises:
        ValueError: a key is missing, unexpected, or has another shape; names the first ten of each.
    """
    own, state_dict = (
        {key: value for key, value in state.items() if key != STATE}
        for state in (module.state_dict(), state_dict)
    )
    others = [key for key, value in state_dict.items() if not isinstance(value, Tensor)]
    if others:
        raise ValueError(
            f"{path}: {others[0]}: found {type(state_dict[others[0]]).__name__}, expected a tensor"
        )
    missing = [key for key in own if key not in state_dict and not compat.fills_itself(key)]
    unexpected = [key for key in state_dict if key not in own]
    reshaped = [
        f"{key} (found {tuple(value.shape)}, expected {tuple(own[key].shape)})"
        for key, value in state_dict.items()
        if key in own and value.shape != own[key].shape
    ]
    kinds = (("missing", missing), ("unexpected", unexpected), ("of another shape", reshaped))
    problems = [f"{len(keys)} {kind}: {_first_ten(keys)}" for kind, keys in kinds if keys]
    if problems:
        raise ValueError(f"{path}: weights do not fit {type(module).__name__}: {'; '.join(problems)}")
    module.load_state_dict(state_dict, strict=True)


def _first_ten(keys):
    return ", ".join(keys[:10]) + (", ..." if len(keys) > 10 else "")
