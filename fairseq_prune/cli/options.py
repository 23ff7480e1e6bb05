"""``fairseq-prune options NAME``: the options of what this package registers, which ``fairseq-train --help`` omits."""

import argparse
import sys
from typing import Any


def main(name: str, arguments: list[str]) -> int:
    """Print the options of one model, architecture, task or criterion; without one, their names."""
    parser = argparse.ArgumentParser(
        prog=name, description="Print options, as flags of fairseq-train and keys of Hydra."
    )
    parser.add_argument("name", nargs="?", help="model, architecture, task or criterion; none: list all")
    wanted = parser.parse_args(arguments).name
    found = registered()
    if wanted is None:
        for kind, classes in found.items():
            print(f"{kind}: {' '.join(classes)}")
        return 0
    matches = {kind: classes[wanted] for kind, classes in found.items() if wanted in classes}
    if not matches:
        known = sorted({known for classes in found.values() for known in classes})
        print(f"error: name: found {wanted!r}, expected one of {', '.join(known)}", file=sys.stderr)
        return 2
    for kind, config in matches.items():
        print(f"{kind} {wanted}\n\n{help_of(config)}")
    return 0


def registered() -> dict[str, dict[str, Any]]:
    """{"model": {name: instance of the dataclass of its options}, ...} of all that comes from this package."""
    from fairseq import models, registry, tasks

    from fairseq_prune.registration import register

    register()
    criterions = registry.REGISTRIES["criterion"]
    kinds = {
        "model": (models.MODEL_REGISTRY, models.MODEL_DATACLASS_REGISTRY),
        "task": (tasks.TASK_REGISTRY, tasks.TASK_DATACLASS_REGISTRY),
        "criterion": (criterions["registry"], criterions["dataclass_registry"]),
    }
    return {
        kind: {
            name: configs[name]()
            for name, cls in sorted(classes.items())
            if cls.__module__.startswith("fairseq_prune.") and configs.get(name)
        }
        for kind, (classes, configs) in kinds.items()
    }


def help_of(config: Any) -> str:
    """The flags that fairseq makes of a dataclass, with their help and defaults."""
    from fairseq.dataclass.utils import gen_parser_from_dataclass

    parser = argparse.ArgumentParser(
        usage=argparse.SUPPRESS, add_help=False, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    gen_parser_from_dataclass(parser, config)
    return parser.format_help().partition("\n")[2].lstrip("\n")
