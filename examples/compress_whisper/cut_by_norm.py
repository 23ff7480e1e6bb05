#!/usr/bin/env python
"""Cut a Whisper by the norms of its weights, to as many parameters as another one has.

    python examples/compress_whisper/cut_by_norm.py --checkpoint tiny.en.pt --size-of cut.pt --out norm.pt

All attention blocks keep as many heads as those of the other one on average, rounded; all feed-forward blocks as many
units as make the sizes equal. Otherwise it is scripts/prune_layers.py --heads --units.
"""

from pathlib import Path
from types import SimpleNamespace

from fairseq_prune.checkpoints.loading import load_checkpoint_file
from fairseq_prune.checkpoints.saving import save
from fairseq_prune.command_line import PlainParser, finish
from fairseq_prune.cuts.base import count_weights
from fairseq_prune.cuts.narrower_layers import with_narrower_layers
from fairseq_prune.files import complete
from fairseq_prune.modules.whisper.settings import sizes_by_component


def main(args):
    whole, other = load_checkpoint_file(args.checkpoint), load_checkpoint_file(args.size_of)
    sizes = sizes_by_component(SimpleNamespace(**{"layer_sizes": None, **other["cfg"]["model"]}))
    found = [count for name, counts in sizes.items() if not name.endswith("fc") for count in counts]
    heads, target = max(1, round(sum(found) / len(found))), count_weights(other["model"])[0]

    def parameters(units):
        return count_weights(with_narrower_layers(whole, units, heads, args.checkpoint)["model"])[0]

    least, step = parameters(1), parameters(2) - parameters(1)
    most = whole["cfg"]["model"]["ffn_embed_dim"]
    units = min(most, max(1, 1 + round((target - least) / step)))
    with complete(args.out, args.overwrite) as written:
        save(with_narrower_layers(whole, units, heads, args.checkpoint), written)
    print(
        f"{args.out}: {heads} heads, {units} units: {parameters(units):,} parameters, {target:,} of --size-of"
    )


if __name__ == "__main__":
    parser = PlainParser(__doc__)
    add = parser.add_argument
    add("--checkpoint", required=True, help="Whisper of this package")
    add("--size-of", required=True, help="the other one")
    add("--out", type=Path, required=True, help="file to write")
    add("--overwrite", action="store_true", help="replace what is there")
    raise SystemExit(finish(main, parser.parse_args()))
