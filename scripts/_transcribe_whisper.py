"""transcribe.py with a Whisper."""

import sys
import time

from _transcribe_files import Writer, write_report

from fairseq_prune.data.manifest import check_audio, read_manifest
from fairseq_prune.evaluation.normalizers import normalizer_of
from fairseq_prune.evaluation.transcripts import recognition_scores, translation_scores
from fairseq_prune.inference.whisper.recordings import FileRecording
from fairseq_prune.inference.whisper.transcriber import WhisperTranscriber

# options of `TranscriptionOptions` that have the names of the command line
SAME_NAMES = (
    "language task beam seed initial_prompt word_timestamps alignment_heads long_form condition_on_previous_text"
    " no_speech_threshold batch_size max_seconds"
).split()


def load(args) -> WhisperTranscriber:
    """The model, with the options that were given."""
    options = {name: getattr(args, name) for name in SAME_NAMES if getattr(args, name) is not None}
    if args.temperature is not None:
        options["temperatures"] = args.temperature
    if args.no_timestamps:
        options["timestamps"] = False
    changes = dict(args.model_overrides or {})
    if args.audio_context is not None:
        changes["audio_context"] = args.audio_context
    return WhisperTranscriber(
        args.checkpoint, changes, args.device, args.fp16, args.tokenizer, bool(args.int8), **options
    )


def transcribe(args):
    """Print or write the transcript of each file."""
    writer = Writer(args)
    recordings = [FileRecording(path) for path in args.audio]
    transcriber = load(args)
    detected = transcriber.multilingual and args.language is None
    for number, transcript in transcriber.transcribe_each(recordings, progress="transcribing"):
        if detected and transcript.language:
            print(f"{args.audio[number]}: language {transcript.language}", file=sys.stderr)
        writer.write(number, transcript)


def score(args):
    """Transcribe or translate a split, print the report, and write it beside the hypotheses."""
    path = args.manifest / f"{args.subset}.tsv"
    utterances = read_manifest(path)
    check_audio(utterances, args.manifest)
    translates = args.task == "translate"
    references = [row.tgt_text if translates else row.src_text or row.tgt_text for row in utterances]
    recordings = [FileRecording(args.manifest / row.audio, row.offset, row.n_frames) for row in utterances]
    transcriber = load(args)
    start = time.perf_counter()
    transcripts = transcriber.transcribe(recordings, progress=args.subset)
    seconds = time.perf_counter() - start
    hypotheses = [" ".join(transcript.text.split()) for transcript in transcripts]
    if translates:
        scores = translation_scores(references, hypotheses)
    else:
        language = args.language if transcriber.multilingual else "en"
        normalizer = args.normalizer or normalizer_of(language)
        scores = recognition_scores(references, hypotheses, normalizer)
    hours = sum(recording.seconds for recording in recordings) / 3600
    report = {
        **scores,
        **({} if translates else {"normalizer": normalizer}),
        "utterances": len(utterances),
        "hours": round(hours, 3),
        "real_time_factor": round(seconds / 3600 / hours, 4),
    }
    found = (
        f"{name} {entry['score']:.2f} ({entry['interval'][0]:.2f} to {entry['interval'][1]:.2f})"
        for name, entry in scores.items()
    )
    print(
        f"{args.subset}: {', '.join(found)} on {len(utterances):,} utterances, {hours:.2f} h, {seconds:.1f} s"
    )
    write_report(args, report, [row.audio for row in utterances], references, hypotheses)
