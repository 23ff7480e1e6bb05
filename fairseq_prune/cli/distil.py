"""``fairseq-prune distil train``: fairseq-hydra-train on a configuration of examples/dphubert."""

import argparse
import sys
from pathlib import Path

import yaml

from fairseq_prune.checkpoints.sizes import check_count
from fairseq_prune.cli.programs import folder


def main(name: str, arguments: list[str]) -> int:
    """Train a student of a teacher; returns the exit status."""
    shipped = folder("examples") / "dphubert" / "config"
    parser = argparse.ArgumentParser(
        prog=name,
        description="Train a student (DPHuBERT, arXiv 2305.17651): it learns the teacher's hidden states, while gates"
        " close the heads, units and channels that it needs least. `fairseq-prune distil compress` then cuts these.",
        epilog="example: fairseq-prune distil train dphubert_base task.data=/data/librispeech"
        " model.teacher_path=/models/hubert_base_ls960.pt",
    )
    names = ", ".join(sorted(path.stem for path in shipped.glob("*.yaml")))
    parser.add_argument("config", help=f"a shipped configuration ({names}), or a path of a .yaml file")
    parser.add_argument("overrides", nargs="*", help="key=value, as for fairseq-hydra-train")
    args = parser.parse_args(arguments)
    path = Path(args.config) if args.config.endswith(".yaml") else shipped / f"{args.config}.yaml"
    if not path.is_file():
        print(
            f"error: configuration: found {args.config!r}, expected one of {names}, or a .yaml file",
            file=sys.stderr,
        )
        return 2
    try:
        # before hydra, which unfolds aliases without end and answers broken files with a traceback
        check_count(yaml.load(path.read_text(encoding="utf-8"), yaml.SafeLoader), "configuration")
    except (yaml.YAMLError, ValueError, TypeError, RecursionError, OSError) as error:
        print(f"error: {path}: not a configuration: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    package = Path(__file__).resolve().parent.parent
    sys.argv = [
        "fairseq-hydra-train",
        "--config-dir",
        str(path.resolve().parent),
        "--config-name",
        path.stem,
        f"common.user_dir={package}",
        *args.overrides,
    ]
    from fairseq_cli.hydra_train import cli_main

    cli_main()
    return 0
