"""The vocabularies of a data directory for speech translation: trained on its texts, or given."""

from collections.abc import Iterable
from pathlib import Path
from typing import Optional

from fairseq_prune.command_line import PlainParser
from fairseq_prune.data.config import DataConfig, VocabularyFiles
from fairseq_prune.data.manifest import Utterance

VOCAB_TYPES = ("unigram", "bpe", "char")  # of sentencepiece
FILES = {
    "target": VocabularyFiles("spm.model", "dict.txt"),
    "source": VocabularyFiles("spm_source.model", "dict_source.txt"),
    "ctc": VocabularyFiles("spm_ctc.model", "dict_ctc.txt"),
}


def add_vocabulary_options(parser: PlainParser, dictionary: str = "--dict") -> None:
    """Sizes and kinds of the vocabularies; ``dictionary`` names the option of --spm-model's dictionary."""
    add = parser.add_argument
    add("--vocab-size", type=int, default=8000, help="symbols of the target vocabulary (%(default)s)")
    add("--vocab-type", choices=VOCAB_TYPES, default="unigram", help="char ignores the sizes (%(default)s)")
    add("--src-vocab-size", type=int, help="symbols of the transcripts' vocabulary (as --vocab-size)")
    add("--joint-vocab", action="store_true", help="one vocabulary for transcripts and target")
    add(
        "--spm-model",
        type=Path,
        help=f"use this sentencepiece model (e.g. DeltaLM's) for both; needs {dictionary}",
    )
    add(dictionary, dest="spm_dict", type=Path, help="the fairseq dictionary of --spm-model")
    add("--ctc-vocab-size", type=int, help="symbols for CTC on transcripts, in lower case; not for char")
    add("--ctc-vocab-type", choices=VOCAB_TYPES, default="char", help="kind of that vocabulary (%(default)s)")


def check_vocabulary_options(args) -> None:
    """Raises `ValueError` for options that do not go together."""
    if (args.spm_model is None) != (args.spm_dict is None):
        raise ValueError("--spm-model and its dictionary go together")
    if args.spm_model is not None and args.joint_vocab:
        raise ValueError("--joint-vocab trains a vocabulary, --spm-model brings one")


def load_given(args):
    """The vocabulary of --spm-model, or None. Call it before there are worker processes, which then have fairseq."""
    from fairseq_prune.text.sentencepiece import (
        SentencePieceVocabulary,  # here, so that --help need not wait for it
    )

    return SentencePieceVocabulary.load(args.spm_model, args.spm_dict) if args.spm_model is not None else None


def make_vocabularies(args, given, utterances: Iterable[Utterance], folder: Path, pool) -> dict:
    """The vocabularies (`SentencePieceVocabulary`) by their names in config.yaml; one object where two share it.

    Args:
        given: that of ``--spm-model``, or None
        utterances: of the training split
        folder: where the trained ones are saved

    Raises:
        ValueError: there is no training text, or too little for a size.
    """
    from fairseq_prune.text.sentencepiece import SentencePieceVocabulary

    utterances = list(utterances)
    sources = [utterance.src_text for utterance in utterances if utterance.src_text]
    targets = [utterance.tgt_text for utterance in utterances]
    size, kind = args.vocab_size, args.vocab_type
    jobs = {}  # name: texts, size, kind, whether in lower case, option
    if given is None and args.joint_vocab:
        jobs["target"] = (sources + targets, size, kind, False, "--vocab-size")
    elif given is None:
        jobs["target"] = (targets, size, kind, False, "--vocab-size")
        if sources:
            option = "--src-vocab-size" if args.src_vocab_size else "--src-vocab-size (that of --vocab-size)"
            jobs["source"] = (sources, args.src_vocab_size or size, kind, False, option)
    if sources:
        jobs["ctc"] = (sources, args.ctc_vocab_size, args.ctc_vocab_type, True, "--ctc-vocab-size")
    # in processes of their own, since sentencepiece does not hear Ctrl-C
    training = {
        name: pool.submit(train_vocabulary, *job, *FILES[name].below(folder)) for name, job in jobs.items()
    }
    trained = {name: SentencePieceVocabulary.load(*done.result()) for name, done in training.items()}
    shared = given or (trained["target"] if args.joint_vocab else None)
    vocabularies = {"target": shared or trained["target"], "source": shared or trained.get("source")}
    vocabularies["ctc"] = trained.get("ctc")
    return {name: vocabulary for name, vocabulary in vocabularies.items() if vocabulary is not None}


def train_vocabulary(
    texts: list[str],
    size: Optional[int],
    kind: str,
    casefold: bool,
    option: str,
    model: Path,
    dictionary: Path,
) -> tuple[Path, Path]:
    """Train a vocabulary and save its two files; errors name the option."""
    from fairseq_prune.text.sentencepiece import SentencePieceVocabulary

    vocabulary = SentencePieceVocabulary.train(texts, size, kind, casefold=casefold, name=option)
    vocabulary.save(model, dictionary)
    return model, dictionary


def write_config(folder: Path, audio_root: Path, vocabularies: dict) -> None:
    """Write config.yaml and the files of all vocabularies."""
    files = {}
    for name, vocabulary in vocabularies.items():
        shared = [other for other in files if vocabularies[other] is vocabulary]
        files[name] = FILES[shared[0] if shared else name]
        vocabulary.save(*files[name].below(folder))
    DataConfig(str(audio_root), files).save(folder)


def print_vocabularies(vocabularies: dict) -> None:
    """Their sizes."""
    sizes = ", ".join(f"{name} {len(vocabulary):,}" for name, vocabulary in vocabularies.items())
    print(f"vocabularies: {sizes}")
    if "ctc" not in vocabularies:
        print("no vocabularies of the transcripts: there are none in train")
