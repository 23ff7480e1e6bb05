#!/usr/bin/env python
"""Recognise speech with a trained CTC checkpoint, and score what has labels.

With --manifest, a split that data_prep wrote: a report with WER and CER, or PER on the 39 classes of TIMIT, and with
--out a folder with that and hypotheses.tsv. With audio files of any format and rate: a line a file.

    python scripts/transcribe.py --checkpoint C --manifest data --subset test --out result
    python scripts/transcribe.py --checkpoint C talk.wav interview.flac
    python scripts/transcribe.py --checkpoint C --manifest data --subset test --lm 4-gram.arpa --lm-weight 2
"""

import json
import time
from pathlib import Path

import torch
from _cli import PlainParser, complete, positive, run

from fairseq_prune.data.audio import SAMPLE_RATE, read_audio
from fairseq_prune.data.labelled_audio import check_labels, read_split
from fairseq_prune.data.pauses import cut_at_pauses
from fairseq_prune.evaluation.error_rates import character_error_rate, phone_error_rate, word_error_rate
from fairseq_prune.evaluation.timit_phones import PHONES
from fairseq_prune.inference.ctc_decoding import beam_search
from fairseq_prune.inference.recognition import Recognizer


def main(args):
    if bool(args.audio) == bool(args.manifest):
        raise ValueError("expected either --manifest or audio files")
    recognizer = Recognizer(args.checkpoint, args.dict or args.manifest, device=args.device, half=args.fp16)
    decode = None
    if args.lm:
        decode = beam_search(
            recognizer.dictionary, args.lm, args.lexicon, args.lm_weight, args.word_score, args.lm_beam
        )
    max_samples = round(args.batch_seconds * SAMPLE_RATE)
    if args.audio:
        transcribe(args, recognizer, decode, max_samples)
    else:
        score(args, recognizer, decode, max_samples)


def transcribe(args, recognizer, decode, max_samples):
    """Print the text of each file; long ones are cut at pauses."""
    waveforms = [read_audio(path) for path in args.audio]
    times = [cut_at_pauses(waveform, args.max_seconds) for waveform in waveforms]
    cut = [waveform[start:end] for waveform, pieces in zip(waveforms, times) for start, end in pieces]
    texts = iter(
        recognizer.recognize(
            [len(piece) for piece in cut],
            lambda i: torch.from_numpy(cut[i]),
            decode,
            max_samples,
            progress="recognising",
        )
    )
    for path, pieces in zip(args.audio, times):
        found = [recognizer.text(next(texts)) for _ in pieces]
        print(f"{path}\t{' '.join(text for text in found if text)}")


def score(args, recognizer, decode, max_samples):
    """Recognise a split, print the report, and write it beside the hypotheses."""
    kind = recognizer.labels
    split = read_split(args.manifest, args.subset, kind)
    names = [f"{args.manifest / args.subset}.{kind}, line {n}" for n in range(1, len(split.labels) + 1)]
    check_labels(names, split.labels, recognizer.dictionary.symbols)
    audio = split.audio
    start = time.perf_counter()
    hypotheses = recognizer.recognize(
        audio.samples,
        lambda i: torch.from_numpy(read_audio(audio.root / audio.paths[i])),
        decode,
        max_samples,
        progress=args.subset,
    )
    seconds = time.perf_counter() - start
    references, found = (
        [recognizer.text(labels) for labels in texts] for texts in (split.labels, hypotheses)
    )
    rates = error_rates(references, found, recognizer.dictionary)
    hours = audio.samples.sum() / SAMPLE_RATE / 3600
    report = {
        **{name: round(rate.percent, 2) for name, rate in rates.items()},
        "errors": {name: f"{rate.errors}/{rate.tokens}" for name, rate in rates.items()},
        "utterances": len(audio.paths),
        "hours": round(float(hours), 3),
        "real_time_factor": round(seconds / 3600 / hours, 4),
    }
    print(
        f"{args.subset}:",
        ", ".join(
            f"{name} {rate.percent:.2f} % ({rate.errors}/{rate.tokens})" for name, rate in rates.items()
        ),
        f"on {len(audio.paths):,} utterances, {hours:.2f} h, {seconds:.1f} s",
    )
    if args.out:
        with complete(args.out, args.overwrite) as folder:
            folder.mkdir()
            (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
            rows = ["audio\treference\thypothesis\n"]
            rows += ["\t".join(row) + "\n" for row in zip(audio.paths, references, found)]
            (folder / "hypotheses.tsv").write_text("".join(rows), encoding="utf-8")


def error_rates(references, hypotheses, dictionary):
    """By name: PER where all labels are phones of TIMIT, else WER and CER."""
    if set(dictionary.symbols[dictionary.nspecial :]) <= {*PHONES[61], *PHONES[48]}:
        return {"PER": phone_error_rate(references, hypotheses)}
    return {
        "WER": word_error_rate(references, hypotheses),
        "CER": character_error_rate(references, hypotheses),
    }


if __name__ == "__main__":
    parser = PlainParser(__doc__)
    add = parser.add_argument
    add("--checkpoint", required=True, help="of wav2vec_ctc, hubert_ctc or their sparse kin")
    add("audio", nargs="*", help="audio files")
    add("--manifest", type=Path, help="data folder with SUBSET.tsv, SUBSET.ltr and dict.ltr.txt (or .phn)")
    add("--subset", default="test", help="of --manifest (default: test)")
    add("--out", type=Path, help="folder for report.json and hypotheses.tsv")
    add("--overwrite", action="store_true", help="replace an --out that exists")
    add("--dict", type=Path, help="fairseq dictionary, where neither checkpoint nor --manifest has it")
    add("--batch-seconds", type=positive(float), default=60.0, help="audio at a time (default: 60)")
    add("--max-seconds", type=positive(float), default=30.0, help="longest piece of a file (default: 30)")
    add("--device", default="cpu", help="cpu (default), cuda, cuda:1, ...")
    add("--fp16", action="store_true", help="float16, for GPUs")
    add("--lm", help="word n-gram model of KenLM, ARPA or binary; needs pip install fairseq_prune[lm]")
    add("--lexicon", help="a line a word: WORD W O R D | (default: the words of an ARPA file)")
    add("--lm-weight", type=float, default=2.0, help="factor of its log probabilities (default: 2)")
    add("--word-score", type=float, default=0.0, help="added for each word (default: 0)")
    add("--lm-beam", type=positive(int), default=50, help="hypotheses that are held (default: 50)")
    run(main, parser)
