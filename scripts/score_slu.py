#!/usr/bin/env python
"""Scores of spoken language understanding: STOP (exact and tree match, label F1), SLURP (intent accuracy, SLU-F1).

Predictions of fairseq-generate, or answers of understand.py, against the manifest that they are of:

    python scripts/score_slu.py slurp --generated out/generate-test.txt --manifest data/test.tsv
    python scripts/score_slu.py stop --answers answers.jsonl --manifest data/test.tsv --by-speaker

or files in the format of the corpus, SLURP's jsonl files or, for STOP, a parse a line:

    python scripts/score_slu.py slurp --gold test.jsonl --predictions predictions.jsonl
    python scripts/score_slu.py stop --gold gold.txt --predictions hypotheses.txt

acceptance is the share of commands that would be carried out right: intent and every slot, in any order. Each score
has its 95 % interval over utterances (bootstrap), or over speakers with --by-speaker: where a speaker is there many
times, as the copies of a recording in noise are, utterances alone would make it too narrow.
"""

import json
from pathlib import Path

from _cli import PlainParser, run

from fairseq_prune.data.manifest import read_manifest
from fairseq_prune.evaluation.slu_scores import CORPORA, intervals, read_gold, total
from fairseq_prune.text.lines import read_lines, write_lines
from fairseq_prune.text.meanings import read_slurp

USAGE = "expected --manifest with --generated or --answers, or --gold with --predictions"


def read_generated(path, rows: int) -> list[str]:
    """The best hypothesis of each row of a manifest, from the D lines of fairseq-generate.

    Raises:
        ValueError: it is not the output for a manifest of so many rows.
    """
    found = {}
    for line in read_lines(path):
        kind, _, rest = line.partition("-")
        fields = rest.split("\t")
        if kind == "D" and len(fields) == 3 and fields[0].isdigit():
            found.setdefault(int(fields[0]), fields[2])  # the first of --nbest is the best
    if sorted(found) != list(range(rows)):
        raise ValueError(
            f"{path}: expected hypotheses (D-0 to D-{rows - 1}) for the {rows} rows of the manifest, found {len(found)}"
        )
    return [found[row] for row in range(rows)]


def read_answers(path, rows: list) -> list[str]:
    """The texts of the JSON lines of understand.py, a line for each row of a manifest, in its order.

    Raises:
        ValueError: names the line, and says what is wrong with it.
    """
    texts = []
    lines = read_lines(path)
    if len(lines) != len(rows):
        raise ValueError(f"{path}: {len(lines)} answers for the {len(rows)} rows of the manifest")
    for number, (line, row) in enumerate(zip(lines, rows), start=1):
        try:
            answer = json.loads(line)
            name, text = Path(answer["audio"]).name, answer["text"]
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"{path}, line {number}: expected JSON with audio and text") from None
        if name != Path(row.audio).name:
            raise ValueError(f"{path}, line {number}: the answer for {name}, expected {Path(row.audio).name}")
        texts.append(text)
    return texts


def slurp_pairs(gold_path, predictions_path) -> tuple[list, list]:
    """Gold and predicted meanings of the predictions' recordings, or utterances, as SLURP's evaluation pairs them.

    Raises:
        ValueError: names the line of a bad row, or says that no gold annotation has a prediction.
    """
    predictions = {}
    for where, row, meaning in read_slurp(predictions_path):
        keys = [key for key in ("file", "slurp_id") if key in row]
        if not keys:
            raise ValueError(f"{where}: a prediction needs file or slurp_id")
        predictions[(keys[0], str(row[keys[0]]))] = meaning
    gold = {}
    for where, row, meaning in read_slurp(gold_path):
        if "slurp_id" not in row:
            raise ValueError(f"{where}: no slurp_id")
        gold[("slurp_id", str(row["slurp_id"]))] = meaning
        gold.update({("file", recording["file"]): meaning for recording in row.get("recordings", ())})
    kinds = {kind for kind, _ in predictions}
    wanted = [key for key in gold if key[0] in kinds]
    scored = [key for key in wanted if key in predictions]
    if not scored:
        raise ValueError(f"{predictions_path}: predicts no utterance of {gold_path}")
    if len(scored) < len(wanted):
        # as the published evaluation does; a reader of the scores must know
        print(
            f"{len(wanted) - len(scored):,} of {len(wanted):,} gold annotations have no prediction: not scored"
        )
    return [gold[key] for key in scored], [predictions[key] for key in scored]


def main(args):
    corpus, speakers = CORPORA[args.corpus], None
    if args.manifest or args.generated or args.answers:
        if not args.manifest or bool(args.generated) == bool(args.answers) or args.gold or args.predictions:
            raise ValueError(USAGE)
        rows = read_manifest(args.manifest)
        if args.by_speaker:
            speakers = [row.speaker for row in rows]
        gold = [
            read_gold(args.corpus, row.tgt_text, f"{args.manifest}, line {line}")
            for line, row in enumerate(rows, start=2)
        ]
        texts = (
            read_generated(args.generated, len(rows)) if args.generated else read_answers(args.answers, rows)
        )
        predicted = [corpus.read_or_none(text) for text in texts]
        if args.write_predictions:
            write_predictions(args.write_predictions, rows, predicted)
    elif not (args.gold and args.predictions) or args.by_speaker:
        raise ValueError(USAGE)
    elif args.corpus == "slurp":
        gold, predicted = slurp_pairs(args.gold, args.predictions)
    else:
        gold = [
            read_gold(args.corpus, text, f"{args.gold}, line {line}")
            for line, text in enumerate(read_lines(args.gold), start=1)
        ]
        predicted = [corpus.read_or_none(text) for text in read_lines(args.predictions)]
        if not gold or len(gold) != len(predicted):
            raise ValueError(
                f"{args.predictions}: {len(predicted)} parses for the {len(gold)} of {args.gold}"
            )
    malformed = sum(meaning is None for meaning in predicted)
    counts = [corpus.counts(*pair) for pair in zip(gold, predicted)]
    scores = {name: round(100 * value.f1, 2) for name, value in total(counts).items()}
    report = {"utterances": len(gold), "malformed": malformed, **scores}
    ranges = {name: [round(end, 2) for end in ends] for name, ends in intervals(counts, speakers).items()}
    if args.json:
        print(json.dumps({**report, "intervals": ranges}))
    else:
        for name, value in report.items():
            print(f"{name:<20}{value:>8}", "  {:>6} to {}".format(*ranges[name]) if name in ranges else "")


def write_predictions(path, rows, predicted) -> None:
    """Write SLURP's predictions; a parse that could not be read has empty names, and no entities."""
    empty = {"scenario": "", "action": "", "entities": []}
    write_lines(
        path,
        (
            json.dumps({"file": row.id, **(meaning.to_row() if meaning else empty)})
            for row, meaning in zip(rows, predicted)
        ),
    )


if __name__ == "__main__":
    parser = PlainParser(__doc__)
    add = parser.add_argument
    add("corpus", choices=sorted(CORPORA), help="whose scores")
    add("--generated", help="output of fairseq-generate (generate-SUBSET.txt)")
    add(
        "--answers", metavar="JSONL", help="output of understand.py for the files of --manifest, in its order"
    )
    add("--manifest", help="manifest of that subset, with the gold parses as tgt_text")
    add("--gold", help="SLURP: jsonl file; STOP: a parse a line")
    add("--predictions", help="SLURP: jsonl file of predictions; STOP: a parse a line")
    add("--write-predictions", metavar="JSONL", help="write SLURP's predictions of --generated")
    add("--by-speaker", action="store_true", help="intervals over the speakers of --manifest")
    add("--json", action="store_true", help="one line of JSON")
    run(main, parser)
