#!/usr/bin/env python
"""Split LibriSpeech's utterances by speaker: to train on, to choose on, to report.

    python examples/compress_whisper/split.py --table librispeech/transcripts.tsv --out split.tsv
    python data_prep/prep_speech.py --table split.tsv --split-column set --audio-root librispeech \\
        --task spoken_language_understanding --out data

The table has the columns file, seconds, text and speaker. Of 37 speakers, 22 are to train on, 5 to choose on, 10 to
report, drawn with --seed. A speaker of more than --most seconds is to train on, so that no single one makes up the
others. All are speakers of test-clean: a model that has trained on a part of them has seen a part of a test set.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from fairseq_prune.command_line import PlainParser, finish
from fairseq_prune.files import complete

CHOOSE, REPORT = 5, 10  # speakers


def sets_of(seconds: pd.Series, most: float, seed: int) -> dict[str, str]:
    """The set of each speaker, of the seconds by speaker.

    Raises:
        ValueError: there are too few speakers.
    """
    short = sorted(seconds.index[seconds <= most])
    if len(short) <= CHOOSE + REPORT:
        raise ValueError(
            f"--table: found {len(short)} speakers of at most {most:g} s, expected more than {CHOOSE + REPORT}"
        )
    order = np.random.default_rng(seed).permutation(short).tolist()
    sets = dict.fromkeys(seconds.index, "train")
    sets.update(dict.fromkeys(order[:REPORT], "report"))
    sets.update(dict.fromkeys(order[REPORT : REPORT + CHOOSE], "choose"))
    return sets


def main(args):
    rows = pd.read_csv(args.table, sep="\t", dtype={"speaker": str})
    missing = [name for name in ("file", "seconds", "text", "speaker") if name not in rows]
    if missing:
        raise ValueError(f"{args.table}: no column {', '.join(missing)}; found {', '.join(rows)}")
    sets = sets_of(rows.groupby("speaker").seconds.sum(), args.most, args.seed)
    table = pd.DataFrame(
        {
            "id": [Path(name).stem for name in rows.file],
            "audio": rows.file,
            "text": rows.text,
            "speaker": rows.speaker,
            "set": rows.speaker.map(sets),
        }
    )
    with complete(args.out, args.overwrite) as written:
        table.to_csv(written, sep="\t", index=False)
    for name in ("train", "choose", "report"):
        part = rows[table.set == name]
        speakers = ", ".join(sorted(part.speaker.unique(), key=int))
        print(f"{name}: {len(part)} utterances, {part.seconds.sum() / 60:.1f} min, speakers {speakers}")


if __name__ == "__main__":
    parser = PlainParser(__doc__)
    add = parser.add_argument
    add("--table", type=Path, required=True, help="transcripts.tsv")
    add(
        "--most", type=float, default=300.0, help="seconds of a speaker to choose on or report (default: 300)"
    )
    add("--seed", type=int, default=1, help="of the draw (default: 1)")
    add("--out", type=Path, required=True, help="table to write, for data_prep/prep_speech.py")
    add("--overwrite", action="store_true", help="replace what is there")
    raise SystemExit(finish(main, parser.parse_args()))
