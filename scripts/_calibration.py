"""Options of the scripts that look at what a Whisper does with speech."""

from pathlib import Path

from _cli import overrides, positive

from fairseq_prune.benchmarks.weight_calibration import draw_windows, own_texts
from fairseq_prune.checkpoints.loading import load_checkpoint_file
from fairseq_prune.checkpoints.whisper.foreign import is_whisper
from fairseq_prune.data.log_mel import HOP
from fairseq_prune.data.manifest import check_audio, read_manifest
from fairseq_prune.data.waveform_manifest import read_waveform_manifest
from fairseq_prune.inference.whisper.recordings import FileRecording
from fairseq_prune.pruning.magnitude import SCOPES


def add_speech_options(parser) -> None:
    """Where the speech is, and how much of it is heard."""
    add = parser.add_argument
    add("audio", nargs="*", type=Path, help="audio files to calibrate with; texts are not needed")
    add(
        "--manifest",
        type=Path,
        help="instead: data folder with SUBSET.tsv (data_prep/prep_speech.py), or a manifest of prep_audio.py",
    )
    add("--subset", default="train", help="of --manifest (default: train)")
    add("--minutes", type=positive(float), default=5.0, help="of speech to calibrate with (default: 5)")
    add("--language", help="of the speech, such as de (default: the likeliest of each window)")
    add("--seed", type=int, default=1, help="of the choice of speech, and of random scores (default: 1)")
    add(
        "--model-overrides",
        type=overrides,
        default={},
        help="options of the checkpoint to change while speech is heard: \"{'silence_stride': 8}\" saves time",
    )


def add_calibration_options(parser, scores) -> None:
    """The checkpoint, the speech, the score and the scope."""
    add = parser.add_argument
    add("--checkpoint", type=Path, required=True, help="checkpoint of this package or of fairseq")
    add_speech_options(parser)
    add("--batch-size", type=positive(int), default=8, help="windows at a time (default: 8)")
    add("--device", default="cpu", help="cpu (default), cuda, cuda:1, ...")
    add("--score", choices=scores, default="wanda", help="what weights are ranked by (default: wanda)")
    add(
        "--scope",
        choices=SCOPES,
        default="row",
        help="the weights that compete: all, those of a layer, of a matrix, of a row (default: row)",
    )


def read_recordings(args) -> list[FileRecording]:
    """The recordings that the options name.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: none are named, or in two ways; a manifest or a file is bad.
    """
    if bool(args.audio) == bool(args.manifest):
        raise ValueError("expected either --manifest or audio files to calibrate with")
    if args.audio:
        return [FileRecording(path) for path in args.audio]
    if args.manifest.is_file():
        manifest = read_waveform_manifest(args.manifest)
        return [FileRecording(manifest.root / path) for path in manifest.paths]
    rows = read_manifest(args.manifest / f"{args.subset}.tsv")
    check_audio(rows, args.manifest)
    return [FileRecording(args.manifest / row.audio, row.offset, row.n_frames) for row in rows]


def calibration_clips(pipeline, recordings, args):
    """Clips of --minutes of speech with the texts that the model writes of them; says how much it heard."""
    longest = pipeline.model.encoder.max_positions() * HOP  # samples
    [windows] = draw_windows(recordings, longest, [60 * args.minutes], args.seed)
    clips = own_texts(pipeline, windows, args.language, args.batch_size, "texts of its own")
    seconds = sum(window.seconds for window in windows)
    print(f"calibrated with {len(clips)} clips of {seconds / 60:.1f} min, seed {args.seed}")
    return clips


def load_own_checkpoint(path):
    """The content of a checkpoint, and whether it is one of our Whispers.

    Raises:
        ValueError: a Whisper of another library, or a file without configuration.
    """
    whisper = is_whisper(path)
    if path.is_dir():
        raise ValueError(
            f"{path}: found a folder, expected a checkpoint (scripts/import_whisper.py makes one)"
        )
    content = load_checkpoint_file(path)
    if whisper and "model" not in content:
        raise ValueError(f"{path}: a .pt of OpenAI, expected a checkpoint of scripts/import_whisper.py")
    if not content.get("cfg"):
        raise ValueError(f"{path}: found no configuration (cfg), expected a checkpoint of fairseq 0.12")
    return content, whisper
