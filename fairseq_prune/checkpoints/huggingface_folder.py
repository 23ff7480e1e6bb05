"""Folders of Hugging Face: JSON files, and weights in one file or in shards."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from torch import Tensor

from fairseq_prune.checkpoints.loading import load_checkpoint_file
from fairseq_prune.checkpoints.sizes import check_sizes
from fairseq_prune.constants import TOKEN_PRUNING
from fairseq_prune.modules.frames import DropsFrames, TokenPruning
from fairseq_prune.pruning.schedules import layer_keep_ratios
from fairseq_prune.text.lines import read_text

# in the order in which they are looked for; an index lists the file of each weight
WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json")
WEIGHT_FILES += ("pytorch_model.bin", "pytorch_model.bin.index.json")


def read_json(path: Path, what: str = "file") -> dict[str, Any]:
    """The object in a JSON file.

    Args:
        what: what is expected there, for the error.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no JSON, or no object, or the configuration of a model with sizes that none has.
    """
    try:
        content = json.loads(read_text(path, what))
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: not readable as JSON ({error})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: found a {type(content).__name__}, expected an object")
    if path.name == "config.json":
        check_sizes(content, path)
    return content


def read_weights(folder: Path) -> tuple[Path, dict[str, Tensor]]:
    """The file that names a folder's weights, and the weights, which stay in their files until they are used.

    Raises:
        FileNotFoundError: there are no weights, or a shard is missing.
        ValueError: a file is broken, or the index and its shards hold different weights.
    """
    path = next((folder / name for name in WEIGHT_FILES if (folder / name).is_file()), None)
    if path is None:
        raise FileNotFoundError(
            f"{folder}: found no {' or '.join(WEIGHT_FILES[::2])}, nor an index of their shards"
        )
    if path.suffix != ".json":
        return path, load_checkpoint_file(path, mmap=True)
    shards = defaultdict(set)
    for name, file in _weight_map(path).items():
        shards[file].add(name)
    missing = [file for file in sorted(shards) if not (folder / file).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{path}: no such shard: {missing[0]} ({len(missing)} of {len(shards)} are missing)"
        )
    weights = {}
    for file, listed in sorted(shards.items()):
        found = load_checkpoint_file(folder / file, mmap=True)
        if found.keys() != listed:
            other = min(found.keys() ^ listed)
            where = "not in the index" if other in found else "not in the file"
            raise ValueError(f"{folder / file}: does not fit {path.name}: weight {other!r} is {where}")
        weights.update(found)
    return path, weights


def _weight_map(path: Path) -> dict[str, str]:
    found = read_json(path).get("weight_map")
    if not isinstance(found, dict) or not found:
        raise ValueError(f"{path}: expected weight_map, an object with the file of each weight")
    for file in found.values():
        # a shard lies in the folder itself
        if not isinstance(file, str) or Path(file).name != file:
            raise ValueError(
                f"{path}: weight_map: expected the name of a file in this folder, found {file!r}"
            )
    return found


def pruning_entry(encoder: DropsFrames) -> dict[str, Any]:
    """What config.json says of the frames that an encoder drops, as `adapters.transformers` writes it; {}: of none."""
    pruning = encoder.pruning
    if pruning.keeps_all:
        return {}
    ratios = [encoder.keep_ratio(index) for index in range(len(pruning.keep_ratios))]
    return {
        TOKEN_PRUNING: {"keep_ratios": ratios, "criterion": pruning.criterion, "minimum": pruning.minimum}
    }


def pruning_options(config: dict[str, Any], layers: int, path: Path) -> dict[str, Any]:
    """The options of our models (`models.token_pruning`) that a config.json asks for; {} where it drops no frames.

    Args:
        layers: of the encoder.
        path: of the configuration, for the error.

    Raises:
        ValueError: the entry is not as `pruning_entry` makes it.
    """
    found = config.get(TOKEN_PRUNING)
    if found is None:
        return {}
    try:
        ratios = layer_keep_ratios(layers, explicit=[float(ratio) for ratio in found["keep_ratios"]])
        pruning = TokenPruning(ratios, found.get("criterion", "received"), found.get("minimum", 1))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: {TOKEN_PRUNING}: found {str(found)[:80]} ({error})") from None
    return {
        "token_keep_ratios": ",".join(map(str, ratios)),
        "token_keep_criterion": pruning.criterion,
        "token_keep_min": pruning.minimum,
    }
