"""Sizes in a configuration that no model has: found before memory or time is asked for."""

import re
from collections.abc import Mapping, Sequence

COUNT = re.compile(r"(.*_)?(layers|convs|blocks|depth|n_(audio|text)_layer)")
WIDTH = re.compile(
    r"(.*_)?(dim|dims|heads|groups|channels|kernel|stride|hidden_size|intermediate_size|d_model|kernel_size"
    r"|buckets|conv_pos|n_mels|num_mel_bins|n_(audio|text)_(state|head)|positions|target_length)"
)
MOST_LAYERS = 1_000
MOST_WIDTH = 2**17
MOST_DEPTH = 30
MOST_VALUES = 10_000  # omegaconf makes an object of each: a hundred thousand take it a minute


def check_sizes(options: Mapping, source, depth: int = 0) -> None:
    """Refuse what no model has: more than 1,000 layers, or a width above 131,072.

    Args:
        options: of a model, as a configuration file or a checkpoint states them, with whatever else it states.
        source: the file or the option that they are from, for the error.

    Raises:
        ValueError: names ``source`` and the option.
    """
    if depth > MOST_DEPTH:
        raise ValueError(f"{source}: options inside of options, more than {MOST_DEPTH} deep")
    for name, value in options.items():
        if isinstance(value, Mapping):
            check_sizes(value, source, depth + 1)
        elif isinstance(name, str):
            _check(name, value, source)


def check_count(config, name: str = "cfg") -> None:
    """Refuse more values than a configuration has, with those inside of lists and dicts.

    Raises:
        TypeError: names the option that has too many.
    """
    waiting, values = [(name, config)], 0
    while waiting:
        place, value = waiting.pop()
        if isinstance(value, dict):
            inner = [(f"{place}.{name}", item) for name, item in value.items()]
        else:
            inner = [(place, item) for item in value] if isinstance(value, (list, tuple)) else []
        values += len(inner)
        if values > MOST_VALUES:
            raise TypeError(f"{place}: found {len(inner):,} values, expected {MOST_VALUES:,} in all at most")
        waiting += inner


def _check(name, value, source):
    if COUNT.fullmatch(name):
        length = len(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
        if _is_number(length) and length > MOST_LAYERS:
            raise ValueError(f"{source}: {name}: found {length:.9g} layers, expected {MOST_LAYERS:,} at most")
    elif (
        WIDTH.fullmatch(name) and name != "max_source_positions"
    ):  # in samples or frames: memory does not follow
        for width in value[:MOST_LAYERS] if isinstance(value, (list, tuple)) else [value]:
            if _is_number(width) and width > MOST_WIDTH:
                raise ValueError(f"{source}: {name}: found {width:.9g}, expected {MOST_WIDTH:,} at most")


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
