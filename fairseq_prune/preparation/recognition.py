"""What preparations of recognition write: manifests with letters as labels, and the dictionary of the letters."""

from pathlib import Path

from fairseq_prune.command_line import PlainParser
from fairseq_prune.data.audio import SAMPLE_RATE
from fairseq_prune.data.labelled_audio import (
    ENGLISH_LETTERS,
    Labelled,
    check_labels,
    count_labels,
    write_split,
)


def add_dictionary_option(parser: PlainParser) -> None:
    """--dict."""
    add = parser.add_argument
    add(
        "--dict",
        default="english",
        metavar="english|corpus|FILE",
        help="labels of the dictionary: of the published recognisers, of this corpus, or of a fairseq dictionary",
    )


def dictionary_labels(option: str, splits: dict[str, list[Labelled]]) -> list[str]:
    """The labels of --dict: the English letters, those of the corpus by frequency, or those of a file."""
    if option == "english":
        return list(ENGLISH_LETTERS)
    if option == "corpus":
        counts = count_labels(utterance for split in splits.values() for utterance in split)
        return sorted(counts, key=lambda label: (-counts[label], label))
    from fairseq_prune.text.dictionaries import read_dictionary

    dictionary = read_dictionary(option)
    return dictionary.symbols[dictionary.nspecial :]


def write_recognition(
    folder: Path, roots: dict[str, Path], splits: dict[str, list[Labelled]], option: str
) -> None:
    """Write SPLIT.tsv, .ltr and .wrd, and dict.ltr.txt.

    Args:
        roots: where the paths of each split start
        option: of --dict

    Raises:
        ValueError: a text has a letter that the dictionary lacks.
    """
    from fairseq_prune.text.dictionaries import (
        write_dictionary,  # here, so that --help need not wait for fairseq
    )

    labels = dictionary_labels(option, splits)
    print(f"{'split':<16}{'hours':>9}{'utterances':>12}{'words':>12}{'seconds':>16}")
    for split, utterances in splits.items():
        names = [f"{roots[split] / utterance.path}" for utterance in utterances]
        check_labels(names, [utterance.labels for utterance in utterances], labels)
        write_split(folder, split, roots[split], utterances)
        seconds = [utterance.samples / SAMPLE_RATE for utterance in utterances]
        n_words = sum(len(utterance.words.split()) for utterance in utterances)
        spread = f"{min(seconds):.1f} to {max(seconds):.1f}"
        print(f"{split:<16}{sum(seconds) / 3600:>9.2f}{len(seconds):>12,}{n_words:>12,}{spread:>16}")
    counts = count_labels(utterance for split in splits.values() for utterance in split)
    write_dictionary(folder / "dict.ltr.txt", labels, counts)
    print(f"dict.ltr.txt: {len(labels)} labels: {' '.join(labels)}")
