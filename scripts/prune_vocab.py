#!/usr/bin/env python
"""Cut the vocabulary of a checkpoint to what texts need: embedding, output projection and tokenizer together.

For a Whisper (whisper.pt of import_whisper.py, or trained), a trained hubert_deltalm, and a DeltaLM, which brings its
sentencepiece model and dictionary:

    python scripts/prune_vocab.py --checkpoint whisper.pt --text data/train.tsv --labels data/labels.txt --out small
    python scripts/prune_vocab.py --checkpoint deltalm-base.pt --spm-model spm.model --dict dict.txt \\
        --text train.de --heldout val.de --out small

Special tokens, bytes, and whatever the tokenizer needs to arrive at a kept token stay. A text whose tokens all stay is
encoded as before; any other text too, with more tokens. A checkpoint that was being trained loses its optimizer: go on
with --finetune-from-model, or with the model's own option (--whisper-path, --deltalm-path).

Whisper writes a space before a text, capitals, stops and digits, which transcripts often have not. So for a Whisper
without --labels the tokens of the texts stay in all forms that it may choose (--forms written), and the report says how
much of the texts stays as the model most likely writes them.

A decoder whose answers use kept tokens alone gives the same ones by greedy search. Beam search weighs its hypotheses by
probabilities, which now are shares among fewer tokens: it is the dense model's with all other tokens forbidden.
"""

import json
from pathlib import Path

from _cli import PlainParser, complete, positive, run

import torch
from fairseq import checkpoint_utils
from omegaconf import open_dict

from fairseq_prune.checkpoints.loading import load_checkpoint_file, load_fairseq_state
from fairseq_prune.checkpoints.saving import save
from fairseq_prune.cuts.base import count_weights
from fairseq_prune.cuts.vocabulary import cut_checkpoint, plan_cut, vocabulary_in
from fairseq_prune.pruning.vocabulary import coverage
from fairseq_prune.text.byte_level_bpe import START
from fairseq_prune.text.lines import read_lines
from fairseq_prune.text.sentencepiece import SentencePieceVocabulary
from fairseq_prune.text.sentencepiece_cutting import CuttableSentencePiece
from fairseq_prune.text.written_forms import ALWAYS, written, written_forms

WRITTEN = "as the model writes"


def read_texts(paths, columns):
    """The texts of all files: lines, or the columns of a manifest.

    Raises:
        ValueError: names the file that has no text, or no such column.
    """
    texts = []
    for path in map(Path, paths):
        lines = read_lines(path)
        if path.suffix == ".tsv":
            header, *rows = [line.split("\t") for line in lines] or [[]]
            missing = [column for column in columns if column not in header]
            if missing:
                raise ValueError(f"{path}: expected a column {missing[0]}, found {', '.join(header)}")
            places = [header.index(column) for column in columns]
            for number, row in enumerate(rows, 2):
                if len(row) != len(header):
                    raise ValueError(
                        f"{path}, line {number}: found {len(row)} fields, expected {len(header)}"
                    )
            lines = [row[place] for row in rows for place in places]
        found = [line for line in lines if line.strip()]
        if not found:
            raise ValueError(f"{path}: the corpus has no text")
        texts += found
    return texts


def read_vocabulary(args, checkpoint):
    """The vocabulary of the embedding rows: from the options, or from the checkpoint."""
    stored = vocabulary_in(checkpoint, args.checkpoint)
    if stored is not None and (args.spm_model or args.dict):
        raise ValueError(f"{args.checkpoint}: holds its vocabulary, expected neither --spm-model nor --dict")
    if stored is not None:
        return stored
    if not (args.spm_model and args.dict):
        raise ValueError(f"{args.checkpoint}: holds no vocabulary, expected --spm-model and --dict")
    loaded = SentencePieceVocabulary.load(args.spm_model, args.dict)
    return CuttableSentencePiece(loaded.model, loaded.dictionary.symbols, loaded.name)


def written_is_wanted(args, vocabulary, texts):
    """Whether texts stand for what a Whisper writes of them: not where it has learned to write parses."""
    if args.forms is not None:
        return args.forms == "written"
    return (
        START in vocabulary.symbols and not args.labels and not any(text.startswith("[IN:") for text in texts)
    )


def compare(vocabulary, small, cut, texts):
    """What the cut does to texts, as numbers."""
    labelled = vocabulary.with_labels(cut.labels) if cut.labels else vocabulary
    before, after = labelled.encode(texts), small.encode(texts)
    tokens, whole = coverage(before, cut)
    length = sum(map(len, before))
    found = {
        "texts": len(texts),
        "tokens that stay": tokens,
        "texts whose tokens all stay": whole,
        "tokens after, to those before": sum(map(len, after)) / length if length else 1.0,
    }
    if isinstance(vocabulary, CuttableSentencePiece):
        for name, encoded in (("before", before), ("after", after)):
            found[f"unknown tokens {name}"] = sum(ids.count(vocabulary.unknown) for ids in encoded)
    return found


def check(folder, name, smaller):
    """Read back what was written, as the programs of fairseq do where the file is enough for that."""
    written = load_checkpoint_file(folder / name, mmap=True)
    if vocabulary_in(written, name) is not None:
        state = load_fairseq_state(folder / name)
        with open_dict(state["cfg"].task) as task:
            task.data = None  # the data folder of the training has the vocabulary of before
        checkpoint_utils.load_model_ensemble_and_task([str(folder / name)], state=state)
        return
    SentencePieceVocabulary.load(folder / "spm.model", folder / "dict.txt")
    kind = "weights" if "weights" in smaller else "model"
    if not all(torch.equal(written[kind][key], value) for key, value in smaller[kind].items()):
        raise ValueError(f"{folder / name}: does not come back as it was written")


def show(report):
    """Print the report as tables."""
    print("| | before | after | gone |\n|---|---|---|---|")
    for name in ("tokens", "parameters", "megabytes of weights", "megabytes of the file"):
        before, after = report["before"][name], report["after"][name]
        form = "{:,.1f}" if name.startswith("megabytes") else "{:,}"
        print(f"| {name} | {' | '.join(form.format(n) for n in (before, after, before - after))} |")
    print(f"\n{report['new labels']} new labels")
    for name in ("corpus", f"corpus {WRITTEN}", "held out", f"held out {WRITTEN}"):
        if name in report:
            values = (
                f"{k} {v:.4f}" if isinstance(v, float) else f"{k} {v:,}" for k, v in report[name].items()
            )
            print(f"{name}: {'; '.join(values)}")


def read_labels(paths):
    """The lines of files, with the white space that they begin and end with."""
    labels = []
    for path in map(Path, paths):
        labels += [line for line in read_lines(path) if line]
    return labels


def prune(args, out):
    """Write the pruned checkpoint, its tokenizer and report.json into the folder ``out``; returns the report."""
    texts, heldout = read_texts(args.text, args.columns), read_texts(args.heldout, args.columns)
    labels = read_labels(args.labels)
    checkpoint = load_checkpoint_file(args.checkpoint, mmap=True)
    vocabulary = read_vocabulary(args, checkpoint)
    forms = {}
    if written_is_wanted(args, vocabulary, texts):
        forms = {"forms": written_forms, "always": ALWAYS}
    cut = plan_cut(
        vocabulary, texts, args.min_count, labels, args.keep_timestamps, args.keep_extra_rows, **forms
    )
    small, smaller = vocabulary.cut(cut), cut_checkpoint(checkpoint, vocabulary, cut, args.checkpoint)
    out.mkdir()
    path = out / args.checkpoint.name
    save(smaller, path)
    small.save(out)
    check(out, path.name, smaller)
    report = {"checkpoint": str(args.checkpoint), "text": args.text, "min count": args.min_count}
    states = {"before": (checkpoint, vocabulary, args.checkpoint), "after": (smaller, small, path)}
    for when, (state, words, file) in states.items():
        parameters, size = count_weights(state.get("weights") or state["model"])
        report[when] = {
            "tokens": len(words),
            "parameters": parameters,
            "megabytes of weights": size / 1e6,
            "megabytes of the file": file.stat().st_size / 1e6,
        }
    report["new labels"] = len(cut.labels)
    for name, found in (("corpus", texts), ("held out", heldout)):
        if found:
            report[name] = compare(vocabulary, small, cut, found)
        if found and forms:
            report[f"{name} {WRITTEN}"] = compare(vocabulary, small, cut, [written(text) for text in found])
    (out / "report.json").write_text(json.dumps(report, indent=1, ensure_ascii=False), encoding="utf-8")
    return report


def main(args):
    with complete(args.out, args.overwrite) as out:
        report = prune(args, out)
    show(report)
    print(args.out / args.checkpoint.name)


if __name__ == "__main__":
    parser = PlainParser(__doc__)
    add = parser.add_argument
    add("--checkpoint", type=Path, required=True, help="Whisper, hubert_deltalm or DeltaLM")
    add("--text", nargs="+", required=True, help="corpus: texts, one a line, or manifests (.tsv)")
    add("--heldout", nargs="+", default=[], help="further texts, to measure the coverage on")
    add("--columns", nargs="+", default=["tgt_text"], help="columns of manifests (default: tgt_text)")
    add(
        "--forms",
        choices=("given", "written"),
        help="tokens that stay: of the texts as they are given, or in all forms in which Whisper may write them "
        "(default: written for a Whisper without --labels and parses, else given)",
    )
    add("--labels", nargs="+", default=[], help="files of new tokens, one a line, white space counts")
    add(
        "--min-count",
        type=positive(int),
        default=1,
        help="keep tokens that the corpus has so often (default: 1)",
    )
    add("--spm-model", help="sentencepiece model of DeltaLM")
    add("--dict", help="dict.txt of DeltaLM")
    add("--keep-timestamps", action="store_true", help="keep Whisper's timestamps")
    add(
        "--keep-extra-rows",
        action="store_true",
        help="keep embedding rows without a token (DeltaLM's sentinels)",
    )
    add("--out", type=Path, required=True, help="folder: checkpoint, tokenizer files, report.json")
    add("--overwrite", action="store_true", help="replace what is there")
    run(main, parser)
