#!/usr/bin/env python
"""Average the weights of several checkpoints of one training.

    python scripts/average_checkpoints.py checkpoints --newest 5 --out average.pt
    python scripts/average_checkpoints.py checkpoint8.pt checkpoint9.pt checkpoint10.pt --out average.pt

A folder gives the newest of the checkpoints that fairseq-train keeps by epoch and by number of updates. Files are
loaded without running code from them. The result is for use and for --finetune-from-model: it has no optimizer state.
"""

from pathlib import Path

from _cli import PlainParser, complete, positive, run

from fairseq_prune.checkpoints.averaging import average, newest
from fairseq_prune.checkpoints.loading import load_checkpoint_file
from fairseq_prune.checkpoints.saving import save
from fairseq_prune.checkpoints.sparse import STATE, weights_of


def main(args):
    if args.newest:
        if len(args.inputs) > 1 or not args.inputs[0].is_dir():
            raise ValueError(f"--newest: found {args.inputs[0]}, expected one folder")
        paths = newest(args.inputs[0], args.newest)
    else:
        paths = args.inputs
    with complete(args.out, args.overwrite) as written:
        averaged = average(paths, progress=True)
        save(averaged, written)
        load_checkpoint_file(written)
    weights = weights_of(averaged, args.out)
    zeros = sum(int((weight == 0).sum()) for weight in weights.values())
    print(f"{args.out}: average of {', '.join(path.name for path in paths)}; {zeros:,} weights are zero")
    if STATE not in averaged["model"] and STATE in load_checkpoint_file(paths[-1], mmap=True)["model"]:
        print("the masks of these checkpoints differ: weights are zero only where all have left them out")


def parser():
    parser = PlainParser(__doc__)
    parser.add_argument(
        "inputs", type=Path, nargs="+", help="checkpoints, or the folder that --newest looks in"
    )
    parser.add_argument("--newest", type=positive(int), help="average this many: the newest in the folder")
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    parser.add_argument("--overwrite", action="store_true", help="replace what is there")
    return parser


if __name__ == "__main__":
    run(main, parser())
