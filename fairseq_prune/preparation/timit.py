"""Prepares TIMIT for fairseq's task audio_finetuning, with phones as labels.

Reads   ROOT, the LDC's tree or a re-packing of it in any letter case (layouts/timit.py)
Writes  OUT/{train,dev,test}.{tsv,phn}      462, 50 and 24 speakers without SA sentences; the audio stays where it is
        OUT/dict.phn.txt                    the fairseq dictionary
        OUT/skipped.tsv                     with --skip-bad: what was left out, and why

    prep_timit.py --root TIMIT --out data               39 classes, as the published wav2vec 2.0 was trained on
    prep_timit.py --root TIMIT --out data --phones 48   scripts/transcribe.py scores on 39 classes all the same
    prep_timit.py --root TIMIT --out data --manifest    for a Whisper, that is task spoken_language_understanding:
                                                        OUT/{train,dev,test}.tsv alone, with the phones as target text

The glottal stop q is left out of 39 and 48 classes. OUT appears when all of it is complete.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

from fairseq_prune.command_line import PlainParser, finish
from fairseq_prune.data.audio import SAMPLE_RATE
from fairseq_prune.data.labelled_audio import Labelled, count_labels, write_split
from fairseq_prune.data.manifest import Utterance, write_manifest
from fairseq_prune.evaluation.timit_phones import PHONES, fold
from fairseq_prune.files import complete_folder
from fairseq_prune.preparation.audio_files import AudioFiles, Skipped
from fairseq_prune.preparation.layouts.timit import SIZES, Sentence, find_sentences, read_phones
from fairseq_prune.preparation.options import add_audio_reading, add_output


def labels(sentence: Sentence, classes: int) -> str:
    """The phones of a sentence as 61, 48 or 39 classes.

    Raises:
        ValueError: names the file, and what is wrong with it.
    """
    try:
        return " ".join(fold(read_phones(sentence.phones), classes))
    except ValueError as error:
        if str(error).startswith(str(sentence.phones)):
            raise
        raise ValueError(f"{sentence.phones}: {error}") from None


def targets(root: Path, sentences: Iterable[Sentence], labelled: Iterable[Labelled]) -> Iterator[Utterance]:
    """Rows of a manifest, with the phones as target text."""
    for sentence, (path, samples, phones, _) in zip(sentences, labelled):
        name = f"{sentence.speaker}-{sentence.name}"
        yield Utterance(name, str(root / path), 0, samples, "", phones, sentence.speaker)


def check_sizes(splits: dict[str, list[Sentence]]) -> None:
    """Refuse a part of the corpus: an error rate of it could not be compared.

    Raises:
        ValueError: names the first split that has not the standard's size.
    """
    for split, (speakers, sentences) in SIZES.items():
        found = splits.get(split, [])
        found_speakers = len({sentence.speaker for sentence in found})
        if (found_speakers, len(found)) != (speakers, sentences):
            raise ValueError(
                f"{split}: found {len(found):,} sentences of {found_speakers} speakers, expected {sentences:,} of "
                f"{speakers}; --incomplete takes what there is"
            )


def prepare(args) -> None:
    """Make the data folder ``args.out``."""
    from fairseq_prune.text.dictionaries import (
        write_dictionary,  # here, so that --help need not wait for fairseq
    )

    splits: dict[str, list[Sentence]] = {split: [] for split in SIZES}
    for sentence in find_sentences(args.root):
        splits[sentence.split].append(sentence)
    if not args.incomplete:
        check_sizes(splits)
    skipped, written = Skipped(args.skip_bad), []
    with complete_folder(args.out, args.overwrite) as folder:
        audio = AudioFiles(args, folder, skipped)
        print(f"{'split':<8}{'hours':>8}{'sentences':>12}{'speakers':>10}{'phones':>10}")
        for split, sentences in splits.items():
            if not sentences:
                print(f"{split:<8}no sentence of its speakers")
                continue
            files = audio.measure(split, args.root, [sentence.audio for sentence in sentences], True)
            kept = [(sentence, file) for sentence, file in zip(sentences, files) if file]
            sentences = [sentence for sentence, _ in kept]
            labelled = [
                Labelled(file.path, file.samples, labels(sentence, args.phones)) for sentence, file in kept
            ]
            root = audio.root(split, args.root)
            if args.manifest:
                write_manifest(folder / f"{split}.tsv", targets(root, sentences, labelled))
            else:
                write_split(folder, split, root, labelled, kind="phn")
            hours = sum(utterance.samples for utterance in labelled) / SAMPLE_RATE / 3600
            speakers = len({sentence.speaker for sentence in sentences})
            phones = sum(count_labels(labelled).values())
            print(f"{split:<8}{hours:>8.2f}{len(sentences):>12,}{speakers:>10}{phones:>10,}")
            written += labelled
        if not args.manifest:
            write_dictionary(folder / "dict.phn.txt", PHONES[args.phones], count_labels(written))
        skipped.write(folder)


def make_parser() -> PlainParser:
    parser = PlainParser(__doc__)
    add = parser.add_argument
    add("--root", type=Path, required=True, help="folder that holds TRAIN and TEST, or one above")
    add_output(parser)
    add("--phones", type=int, choices=sorted(PHONES), default=39, help="classes to train on (%(default)s)")
    add("--manifest", action="store_true", help="write manifests of the task spoken_language_understanding")
    add("--incomplete", action="store_true", help="take a corpus that lacks speakers or sentences")
    add_audio_reading(parser)
    return parser


def main(argv=None) -> int:
    return finish(prepare, make_parser().parse_args(argv))
