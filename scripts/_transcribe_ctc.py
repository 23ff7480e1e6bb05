"""transcribe.py with CTC checkpoints."""

import time

import torch
from _transcribe_files import Writer, write_report

from fairseq_prune.data.audio import SAMPLE_RATE, read_audio
from fairseq_prune.data.labelled_audio import check_labels, read_split
from fairseq_prune.data.log_mel import HOP
from fairseq_prune.data.pauses import cut_at_pauses
from fairseq_prune.evaluation.error_rates import character_error_rate, phone_error_rate, word_error_rate
from fairseq_prune.evaluation.timit_phones import PHONES
from fairseq_prune.inference.ctc_decoding import beam_search
from fairseq_prune.inference.recognition import Recognizer
from fairseq_prune.text.subtitles import Segment, Transcript

BATCH_SECONDS = 60.0
LM_OPTIONS = {"lm_weight": 2.0, "word_score": 0.0, "lm_beam": 50}


def load(args):
    """The model and its decoder, None for the greedy one."""
    recognizer = Recognizer(args.checkpoint, args.dict or args.manifest, device=args.device, half=args.fp16)
    if not args.lm:
        return recognizer, None
    given = {
        name: default if getattr(args, name) is None else getattr(args, name)
        for name, default in LM_OPTIONS.items()
    }
    return recognizer, beam_search(recognizer.dictionary, args.lm, args.lexicon, *given.values())


def max_samples(args) -> int:
    """Of a batch."""
    return round((args.batch_seconds or BATCH_SECONDS) * SAMPLE_RATE)


def transcribe(args):
    """Print or write the text of each file; long ones are cut at pauses."""
    writer = Writer(args)
    recognizer, decode = load(args)
    waveforms = [read_audio(path) for path in args.audio]
    times = [cut_at_pauses(waveform, args.max_seconds) for waveform in waveforms]
    cut = [waveform[start:end] for waveform, pieces in zip(waveforms, times) for start, end in pieces]
    texts = iter(
        recognizer.recognize(
            [len(piece) for piece in cut],
            lambda i: torch.from_numpy(cut[i]),
            decode,
            max_samples(args),
            progress="recognising",
        )
    )
    for number, pieces in enumerate(times):
        segments = []
        for start, end in pieces:
            text = recognizer.text(next(texts))
            if text:
                seconds = (round(start / SAMPLE_RATE, 3), round(end / SAMPLE_RATE, 3))
                segments.append(Segment(len(segments), start // HOP, *seconds, f" {text}"))
        writer.write(number, Transcript(segments, seconds=len(waveforms[number]) / SAMPLE_RATE))


def score(args):
    """Recognise a split, print the report, and write it beside the hypotheses."""
    recognizer, decode = load(args)
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
        max_samples(args),
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
    write_report(args, report, audio.paths, references, found)


def error_rates(references, hypotheses, dictionary):
    """By name: PER where all labels are phones of TIMIT, else WER and CER."""
    if set(dictionary.symbols[dictionary.nspecial :]) <= {*PHONES[61], *PHONES[48]}:
        return {"PER": phone_error_rate(references, hypotheses)}
    return {
        "WER": word_error_rate(references, hypotheses),
        "CER": character_error_rate(references, hypotheses),
    }
