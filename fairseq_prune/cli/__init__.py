"""The command ``fairseq-prune VERB``. Nothing heavy is imported before the verb is known."""

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Optional

from fairseq_prune.cli import programs
from fairseq_prune.cli.verbs import VERBS, Verb
from fairseq_prune.command_line import interrupted

NAME = "fairseq-prune"
HELP = ("-h", "--help")


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Run a verb; returns the exit status: 2 for bad input, which is named in one line, 130 after Ctrl-C."""
    try:
        status = _main(arguments)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:  # while a verb is imported; from there on it answers by itself
        return interrupted()
    except BrokenPipeError:  # as of `| head`
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (Python closes it, and would complain of the pipe)
        return 1


def _main(arguments: Optional[Sequence[str]]) -> int:
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in HELP:
        print(
            f"usage: {NAME} VERB [options]\n\n{_table(VERBS)}\n\n{NAME} VERB --help prints the options of a verb."
        )
        return 0
    if words[0] == "--version":
        from importlib.metadata import version

        print(f"{NAME} {version(NAME)}")
        return 0
    verbs, said = VERBS, []
    while True:
        if words[0] not in verbs:
            found = " ".join([*said, words[0]])
            return _refuse(f"verb: found {found!r}, expected one of {', '.join(verbs)}")
        said.append(words.pop(0))
        verb = verbs[said[-1]]
        if not verb.verbs:
            return _run(verb, " ".join([NAME, *said]), words)
        if not words or words[0] in HELP:
            print(f"usage: {NAME} {' '.join(said)} VERB [options]\n\n{verb.help}\n\n{_table(verb.verbs)}")
            return 0
        verbs = verb.verbs


def _run(verb: Verb, name: str, arguments: list[str]) -> int:
    try:
        if verb.program:
            name = name.removesuffix(" ".join(["", *verb.words]))  # the program says these words itself
            programs.run(verb.program, name, [*verb.words, *arguments])
            return 0
        module, _, function = verb.function.partition(":")
        return getattr(import_module(module), function)(name, arguments)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("fairseq", "fairseq_cli", "hydra", "omegaconf"):
            raise
        return _refuse(f"{name} needs fairseq: pip install 'fairseq_prune[fairseq]'")


def _table(verbs) -> str:
    width = max(map(len, verbs))
    return "\n".join(f"  {name:<{width}}  {verb.help}" for name, verb in verbs.items())


def _refuse(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2
