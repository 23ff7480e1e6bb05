"""Turns the texts of a data directory into binary data for fairseq's task `translation`.

Reads   DIR/SPLIT.tsv, DIR/config.yaml with a source and a target vocabulary (data_prep/prep_mustc.py)
Writes  OUT/NAME.SRC-TGT.{SRC,TGT}.{bin,idx}      NAME is fairseq's: train, valid, test, test1
        OUT/dict.{SRC,TGT}.txt, OUT/spm.{SRC,TGT}.model

With one vocabulary for both languages, as DeltaLM's, `--share-embeddings all` of the models deltalm is possible.
OUT appears when all of it is complete.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from fairseq_prune.command_line import PlainParser, finish
from fairseq_prune.data.config import DataConfig
from fairseq_prune.data.manifest import read_manifest
from fairseq_prune.files import complete_folder
from fairseq_prune.preparation.options import add_output

# manifest -> what fairseq calls the split; others keep their name
FAIRSEQ_SPLITS = {"train": "train", "dev": "valid", "tst-COMMON": "test", "tst-HE": "test1"}
CHUNK = 5000  # sentences encoded at a time


class SideReport(NamedTuple):
    """Tokens of one language in a split, with end of sentence; `longest` is that of a sentence."""

    tokens: int
    unknown: int
    longest: int


class SplitReport(NamedTuple):
    sentences: int
    skipped: int
    source: SideReport
    target: SideReport


def read_texts(path: Path, skip_bad: bool) -> "tuple[list[str], list[str], int]":
    """Transcripts and translations of a manifest, and how many rows were left out.

    Raises:
        ValueError: a row without transcript, unless `skip_bad`; or none is left.
    """
    sources, targets, skipped = [], [], 0
    for line, row in enumerate(read_manifest(path), start=2):
        if row.src_text.strip():
            sources.append(row.src_text)
            targets.append(row.tgt_text)
        elif skip_bad:
            skipped += 1
        else:
            raise ValueError(
                f"{path}, line {line}: src_text of {row.id!r} is empty; --skip-bad leaves such rows out"
            )
    if not sources:
        raise ValueError(f"{path}: no row has a src_text")
    return sources, targets, skipped


def binarize(texts: "list[str]", vocabulary, prefix: Path, progress) -> SideReport:
    """Write prefix.bin and prefix.idx: a sentence a row, and end of sentence after each."""
    import torch  # here, so that --help need not wait for torch and fairseq
    from fairseq.data import indexed_dataset

    eos, unk = vocabulary.dictionary.eos(), vocabulary.dictionary.unk()
    builder = indexed_dataset.make_builder(f"{prefix}.bin", impl="mmap", vocab_size=len(vocabulary))
    tokens = unknown = longest = 0
    for start in range(0, len(texts), CHUNK):
        chunk = texts[start : start + CHUNK]
        for ids in vocabulary.encode_all(chunk):
            builder.add_item(torch.from_numpy(np.append(ids, eos)))
            tokens += len(ids) + 1
            unknown += int((ids == unk).sum())
            longest = max(longest, len(ids) + 1)
        progress.update(len(chunk))
    builder.finalize(f"{prefix}.idx")
    return SideReport(tokens, unknown, longest)


def prepare_split(config: DataConfig, split: str, languages, vocabularies, folder: Path, skip_bad: bool):
    """Binarize one manifest in both languages."""
    sources, targets, skipped = read_texts(config.manifest(split), skip_bad)
    prefix = f"{FAIRSEQ_SPLITS.get(split, split)}.{'-'.join(languages)}"
    with tqdm(total=2 * len(sources), desc=split, unit=" sentences") as progress:
        sides = [
            binarize(texts, vocabulary, folder / f"{prefix}.{language}", progress)
            for texts, vocabulary, language in zip((sources, targets), vocabularies, languages)
        ]
    return SplitReport(len(sources), skipped, *sides)


def prepare(args) -> None:
    """Make the folder `args.out`."""
    if args.source_lang == args.target_lang:
        raise ValueError(f"--source-lang and --target-lang must differ, found {args.source_lang} twice")
    config = DataConfig.load(args.data_dir)
    if "source" not in config.vocabularies:
        raise ValueError(f"{args.data_dir}/config.yaml: translation needs a source vocabulary, there is none")
    splits = args.splits or [split for split in FAIRSEQ_SPLITS if config.manifest(split).is_file()]
    if not splits:
        raise FileNotFoundError(f"{args.data_dir}: found none of {', '.join(FAIRSEQ_SPLITS)} (.tsv)")
    loaded = config.load_vocabularies()
    languages = (args.source_lang, args.target_lang)
    vocabularies = (loaded["source"], loaded["target"])
    with complete_folder(args.out, args.overwrite) as folder:
        reports = {
            split: prepare_split(config, split, languages, vocabularies, folder, args.skip_bad)
            for split in splits
        }
        for language, vocabulary in zip(languages, vocabularies):
            vocabulary.save(folder / f"spm.{language}.model", folder / f"dict.{language}.txt")
    print_report(reports, languages, vocabularies)


def print_report(reports: "dict[str, SplitReport]", languages, vocabularies) -> None:
    print(
        f"{'split':<12}{'in fairseq':<12}{'sentences':>10}{'skipped':>9}  tokens, unknown, longest sentence"
    )
    for split, report in reports.items():
        sides = "; ".join(
            f"{language} {side.tokens:,}, {side.unknown / side.tokens:.2%}, {side.longest}"
            for language, side in zip(languages, (report.source, report.target))
        )
        name = FAIRSEQ_SPLITS.get(split, split)
        print(f"{split:<12}{name:<12}{report.sentences:>10,}{report.skipped:>9,}  {sides}")
    source, target = vocabularies
    joint = source.dictionary == target.dictionary
    sizes = f"one of {len(source):,} symbols" if joint else f"{len(source):,} and {len(target):,} symbols"
    print(f"vocabularies: {sizes}")


def language_code(text: str) -> str:
    """fairseq takes file names apart at dots and dashes."""
    if not text or any(mark in text for mark in ".-/ "):
        raise argparse.ArgumentTypeError(
            f"expected a code without dot, dash, slash and space, found {text!r}"
        )
    return text


def make_parser() -> PlainParser:
    parser = PlainParser(__doc__)
    add = parser.add_argument
    add("--data-dir", type=Path, required=True, help="data directory with config.yaml and manifests")
    add_output(parser)
    add("--source-lang", type=language_code, default="src", help="code of the transcripts (%(default)s)")
    add("--target-lang", type=language_code, default="tgt", help="code of the translations (%(default)s)")
    add("--splits", nargs="+", help=f"default: those of {' '.join(FAIRSEQ_SPLITS)} that there are")
    add("--skip-bad", action="store_true", help="leave rows without transcript out, rather than stop")
    return parser


def main(argv=None) -> int:
    return finish(prepare, make_parser().parse_args(argv))
