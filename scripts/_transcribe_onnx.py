"""transcribe.py with a Whisper or a recogniser that was exported to ONNX: torch runs no model.

The likeliest token is taken at each step. Nothing is tried again: where a text fails, a checkpoint hears all silence.
"""

import math

from _transcribe_files import Writer
from tqdm import tqdm

from fairseq_prune.checkpoints.huggingface_folder import read_json
from fairseq_prune.checkpoints.runtime.folder import CONFIG
from fairseq_prune.checkpoints.runtime.hubert import RECOGNIZER, OnnxRecognizer
from fairseq_prune.checkpoints.runtime.whisper import HOP, OnnxWhisper
from fairseq_prune.constants import SAMPLE_RATE
from fairseq_prune.data.pauses import cut_by_blocks
from fairseq_prune.inference.whisper.recordings import FileRecording
from fairseq_prune.text.subtitles import Segment, Transcript

TAKEN = ("onnx", "audio", "format", "out", "overwrite", "max_seconds", "engine", "threads")


def transcribe(args, engine, options):
    """Print or write the text of each file.

    Args:
        engine: of `_cli.engine_options`.
        options: the parser's, as ``parser._actions``.

    Raises:
        ValueError: an option was given that an export does not know; a file of the folder is damaged.
    """
    for action in options:
        if action.dest not in TAKEN and getattr(args, action.dest, action.default) != action.default:
            raise ValueError(
                f"{action.option_strings[0]}: found with --onnx, which writes as its export was told and takes"
                f" {', '.join(f'--{name}'.replace('_', '-') for name in TAKEN[2:])}"
            )
    if set(args.format or ()) - {"txt"}:
        raise ValueError(
            f"--format: found {','.join(args.format)} with --onnx, expected txt: it knows no times"
        )
    writer = Writer(args)
    recordings = [FileRecording(path) for path in args.audio]
    config = read_json(args.onnx / CONFIG, "file, expected a folder of scripts/export.py")
    if config.get("kind") == RECOGNIZER:
        model, longest = OnnxRecognizer(args.onnx, **engine), math.inf
    else:
        model, longest = OnnxWhisper(args.onnx, **engine), config["mel_frames"] * HOP / SAMPLE_RATE
    total = sum(recording.seconds for recording in recordings)
    with tqdm(total=round(total, 1), desc="transcribing", unit="s", disable=None) as bar:
        for number, recording in enumerate(recordings):
            segments = []
            pieces = cut_by_blocks(recording.read, recording.samples, min(args.max_seconds, longest))
            for start, end in pieces:
                text = model.text(recording.read(start, end - start)).strip()
                times = (start / SAMPLE_RATE, end / SAMPLE_RATE)
                segments.append(Segment(len(segments), round(times[0] * 100), *times, f" {text}"))
                bar.update((end - start) / SAMPLE_RATE)
            writer.write(number, Transcript(segments, None, recording.seconds))
