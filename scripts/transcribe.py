#!/usr/bin/env python
"""Transcribe speech with a Whisper or a CTC checkpoint, translate it with a Whisper, and score what has references.

A Whisper is a checkpoint of this package, a folder of Hugging Face or CTranslate2, or OpenAI's .pt (with --tokenizer).
Recordings have any length, format and rate. Without --format the text of each is printed, a line a file.

    python scripts/transcribe.py --checkpoint whisper-base talk.wav interview.mp3 --format srt,json
    python scripts/transcribe.py --checkpoint whisper-base rede.flac --language de --task translate
    python scripts/transcribe.py --checkpoint whisper.pt --audio-context clip+4 --long-form batched talk.wav
    python scripts/transcribe.py --checkpoint whisper.pt --manifest data --subset test --out result
    python scripts/transcribe.py --onnx exported talk.wav
    python scripts/transcribe.py --checkpoint ctc.pt --manifest data --lm 4-gram.arpa --lm-weight 2

With --manifest, a split that data_prep wrote: WER and CER (after Whisper's normalizer for a Whisper), BLEU and chrF for
translations, or PER on the 39 classes of TIMIT; with --out a folder with report.json and hypotheses.tsv.
"""

from argparse import ArgumentTypeError
from pathlib import Path

from _cli import PlainParser, add_engine_options, engine_options, overrides, positive, run

from _transcribe_ctc import score as score_ctc
from _transcribe_ctc import transcribe as transcribe_ctc
from _transcribe_onnx import transcribe as transcribe_onnx
from _transcribe_whisper import score as score_whisper
from _transcribe_whisper import transcribe as transcribe_whisper

from fairseq_prune.checkpoints.whisper.foreign import is_whisper
from fairseq_prune.evaluation.normalizers import NORMALIZERS
from fairseq_prune.inference.whisper.options import LONG_FORMS, TASKS
from fairseq_prune.text.subtitles import FORMATS

WHISPER = "Whisper"
CTC = "CTC"
ALL = "all"


def main(args):
    if bool(args.audio) == bool(args.manifest):
        raise ValueError("expected either --manifest or audio files")
    if bool(args.checkpoint) == bool(args.onnx):
        raise ValueError("expected either --checkpoint or --onnx")
    engine = engine_options(args)
    if args.onnx:
        return transcribe_onnx(args, engine, args.options[ALL])
    whisper = is_whisper(args.checkpoint)
    foreign = args.options[CTC if whisper else WHISPER]
    for action in foreign:
        if getattr(args, action.dest) is not None:
            kind = "a Whisper" if whisper else "no Whisper"
            raise ValueError(f"{action.option_strings[0]}: found with {args.checkpoint}, which is {kind}")
    if args.audio:
        (transcribe_whisper if whisper else transcribe_ctc)(args)
    else:
        (score_whisper if whisper else score_ctc)(args)


def listed(convert, expected: str):
    """For argparse: what ``convert`` makes of each of the values between commas."""

    def read(text: str) -> tuple:
        try:
            return tuple(convert(part) for part in text.split(","))
        except ValueError:
            raise ArgumentTypeError(f"found {text!r}, expected {expected}") from None

    return read


def known_format(name: str) -> str:
    if name not in FORMATS:
        raise ValueError
    return name


def layer_and_head(text: str) -> tuple:
    layer, head = text.split(".")
    return int(layer), int(head)


def parser() -> PlainParser:
    """With the options of a kind of model in a group each; these have no defaults, so that it shows which are given."""
    parser = PlainParser(__doc__)
    add = parser.add_argument
    add("--checkpoint", help="a Whisper, or a wav2vec_ctc or hubert_ctc, sparse ones too")
    add("--onnx", type=Path, help="instead: a folder that export.py --format onnx wrote")
    add_engine_options(parser)
    add("audio", nargs="*", help="audio files")
    add(
        "--manifest",
        type=Path,
        help="data folder with SUBSET.tsv; for CTC SUBSET.ltr and dict.ltr.txt (or .phn) too",
    )
    add("--subset", default="test", help="of --manifest (default: test)")
    add(
        "--format",
        type=listed(known_format, f"some of {', '.join(FORMATS)}, with commas between"),
        help=f"write files of these formats, with commas between: {', '.join(FORMATS)}",
    )
    add("--out", type=Path, help="folder for what is written (default for --format: beside the audio)")
    add("--overwrite", action="store_true", help="replace what is there")
    add(
        "--max-seconds", type=positive(float), default=30.0, help="longest piece between pauses (default: 30)"
    )
    add("--device", default="cpu", help="cpu (default), cuda, cuda:1, ...")
    add("--fp16", action="store_true", help="float16, for GPUs")
    whisper = parser.add_argument_group(WHISPER)
    add = whisper.add_argument
    add("--tokenizer", type=Path, help="tokenizer.json or OpenAI's .tiktoken, for a .pt of OpenAI")
    add("--int8", action="store_true", default=None, help="the decoder's weights in 8 bits, for the CPU")
    add("--language", help="of the speech, such as de (default: the likeliest of each recording)")
    add("--task", choices=TASKS, help="translate: to English (default: transcribe)")
    add("--beam", type=positive(int), help="beam size (default: 1)")
    add(
        "--temperature",
        type=listed(float, "numbers with commas between, such as 0,0.4,0.8"),
        help="tried one after the other while a text repeats itself or is unlikely (default: 0,0.2,0.4,0.6,0.8,1)",
    )
    add("--seed", type=int, help="of sampling at temperatures above 0 (default: 1)")
    add("--initial-prompt", help="text before the speech, such as names as they are spelled")
    add(
        "--no-timestamps",
        action="store_true",
        default=None,
        help="the model writes no times: a segment is a whole window",
    )
    add(
        "--word-timestamps",
        action="store_true",
        default=None,
        help="times of words, in json; srt and vtt have captions of words that fit on a screen",
    )
    add(
        "--alignment-heads",
        type=listed(layer_and_head, "LAYER.HEAD with commas between, such as 2.0,3.5"),
        help="LAYER.HEAD with commas between, for --word-timestamps (default: of the source, or the best on the audio)",
    )
    add(
        "--long-form",
        choices=LONG_FORMS,
        help="recordings of more than 30 s: sequential, windows follow the timestamps (default); batched, cut at"
        " pauses, many windows at a time; off, refused",
    )
    add(
        "--condition-on-previous-text",
        action="store_true",
        default=None,
        help="sequential windows see the text before",
    )
    add("--no-speech-threshold", type=float, help="a window is silent above this probability (default: 0.6)")
    add("--batch-size", type=positive(int), help="windows at a time (default: 8)")
    add("--audio-context", help="what the encoder hears: 30s, clip, clip+SECONDS (default: the checkpoint's)")
    add(
        "--model-overrides",
        type=overrides,
        help="options of the checkpoint to change: \"{'token_keep_ratio': 0.7}\"",
    )
    add("--normalizer", choices=NORMALIZERS, help="for --manifest (default: english for English, else basic)")
    ctc = parser.add_argument_group(CTC)
    add = ctc.add_argument
    add("--dict", type=Path, help="fairseq dictionary, where neither checkpoint nor --manifest has it")
    add("--batch-seconds", type=positive(float), help="audio at a time (default: 60)")
    add("--lm", help="word n-gram model of KenLM, ARPA or binary; needs pip install fairseq_prune[lm]")
    add("--lexicon", help="a line a word: WORD W O R D | (default: the words of an ARPA file)")
    add("--lm-weight", type=float, help="factor of its log probabilities (default: 2)")
    add("--word-score", type=float, help="added for each word (default: 0)")
    add("--lm-beam", type=positive(int), help="hypotheses that are held (default: 50)")
    parser.set_defaults(
        options={WHISPER: whisper._group_actions, CTC: ctc._group_actions, ALL: parser._actions}
    )
    return parser


if __name__ == "__main__":
    run(main, parser())
