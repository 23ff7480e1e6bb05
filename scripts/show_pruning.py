#!/usr/bin/env python
"""Draw which frames of an utterance survive each layer: waveform, spectrogram, and a row for each layer.

In the spectrogram the frames that reach the decoder are in colour, the others in grey. Of a Whisper, the words that it
writes stand above, where it hears them, and some of the silence that it hears after the clip is drawn too.

    python scripts/show_pruning.py --checkpoint demo_out/pruned/checkpoint_best.pt utterance.wav --out kept.png
    python scripts/show_pruning.py --checkpoint whisper-tiny.en utterance.wav \\
        --model-overrides "{'silence_stride': 8, 'token_keep_ratio': 0.5, 'token_keep_start_layer': 2}"
"""

import math
import textwrap
from pathlib import Path

from _cli import Parser, load_translator, positive, run

import matplotlib
import numpy as np
import torch

from fairseq_prune.checkpoints.whisper.foreign import is_whisper
from fairseq_prune.data.audio import SAMPLE_RATE, read_audio
from fairseq_prune.data.log_mel import log_mel
from fairseq_prune.inference.whisper.transcriber import WhisperTranscriber

matplotlib.use("Agg")
from matplotlib import pyplot as plt

FORMATS = (".png", ".pdf", ".svg")
COLUMN = 80  # samples from one column of the spectrogram to the next: 5 ms
WHISPER_FRAME = 320  # samples, 20 ms
DRAWN_SILENCE = 3  # seconds after a clip, of what a Whisper hears
WIDTH, LAYER_HEIGHT = 7.2, 0.22  # inches; the width of a page
COLOURS, GREYS = plt.get_cmap("RdPu"), plt.get_cmap("Greys")
KEPT, DROPPED = COLOURS(0.75), "0.93"


def spectrogram(waveform):
    """Decibels (0 to 8 kHz, columns), of which the 70 below the peak become 0 to 1."""
    window = torch.hann_window(400)
    spectrum = torch.stft(torch.from_numpy(waveform), 512, COLUMN, 400, window, return_complex=True)
    decibels = 20 * spectrum.abs().clamp(min=1e-10).log10().numpy()
    return np.clip(1 + (decibels - max(decibels.max(), -100)) / 70, 0, 1)  # 0 everywhere in digital silence


def stretches(places, frames):
    """(first, length) of each run of consecutive frames among ``places``."""
    kept = np.zeros(frames + 2, dtype=int)
    kept[np.asarray(places) + 1] = 1
    begins, ends = np.flatnonzero(np.diff(kept) == 1), np.flatnonzero(np.diff(kept) == -1)
    return np.stack([begins, ends - begins], axis=1)


def draw(waveform, kept, frames, step, title, out, words=()):
    """Write the picture.

    Args:
        waveform: (samples,) at 16 kHz.
        kept: for each layer, the places of the frames that leave it.
        frames: that enter the first layer.
        step: samples from one frame to the next.
        title: above the picture.
        out: file to write; the ending says the format.
        words: `text.subtitles.Word`s, to write above the waveform.
    """
    layers, seconds, frame = len(kept), len(waveform) / SAMPLE_RATE, step / SAMPLE_RATE
    fig, (top, middle, bottom) = plt.subplots(
        3,
        1,
        figsize=(WIDTH, 3.4 + LAYER_HEIGHT * layers),
        sharex=True,
        height_ratios=(0.7, 1.5, 0.3 + LAYER_HEIGHT * layers),
        layout="constrained",
    )
    wrapped = textwrap.fill(title, 95, max_lines=4, placeholder=" ...")
    fig.suptitle(wrapped, fontsize=9, parse_math=False)

    top.plot(np.arange(len(waveform)) / SAMPLE_RATE, waveform, linewidth=0.4, color="0.2")
    top.set_yticks([])
    top.set_ylabel("waveform", fontsize=8)
    for number, word in enumerate(words):  # on two lines in turn, so that neighbours have room
        place = ((word.start + word.end) / 2, 1.05 + 0.25 * (number % 2))
        top.annotate(
            word.word.strip(),
            place,
            xycoords=("data", "axes fraction"),
            ha="center",
            fontsize=6,
            parse_math=False,
        )

    power = spectrogram(waveform)
    survives = np.isin(np.arange(power.shape[1]) * COLUMN // step, kept[-1])
    # kept silence is tinted, dropped silence is white
    picture = np.where(survives[None, :, None], COLOURS(0.15 + 0.85 * power), GREYS(0.6 * power))
    # wider than its print, so that the borders between frames stay sharp
    picture = picture.repeat(-(-4000 // power.shape[1]), axis=1)
    end = power.shape[1] * COLUMN / SAMPLE_RATE
    middle.imshow(picture, origin="lower", aspect="auto", extent=(0, end, 0, SAMPLE_RATE / 2000))
    middle.set_ylabel("kHz", fontsize=8)

    for layer, places in enumerate(kept, 1):
        bar = (layer - 0.38, 0.76)
        bottom.broken_barh([(0, frames * frame)], bar, color=DROPPED, linewidth=0)
        bottom.broken_barh(stretches(places, frames) * frame, bar, color=KEPT, linewidth=0)
        share = f"{100 * len(places) / frames:.0f} %"
        bottom.annotate(share, (1.01, layer), xycoords=("axes fraction", "data"), va="center", fontsize=8)
    bottom.set_ylim(layers + 0.6, 0.4)
    bottom.set_yticks(range(1, layers + 1))
    bottom.annotate("kept", (1.01, 0.4), xycoords=("axes fraction", "data"), va="bottom", fontsize=8)
    bottom.set_ylabel("layer", fontsize=8)
    bottom.set_xlabel("seconds", fontsize=8)
    bottom.set_xlim(0, seconds)
    for ax in (top, middle, bottom):
        ax.tick_params(labelsize=8)
        ax.spines[["top", "right"]].set_visible(False)
    fig.align_ylabels()
    fig.savefig(out, dpi=300)
    plt.close(fig)


def of_translator(args, waveform):
    """Kept frames by layer, frames that enter the first layer, samples of a frame, and the translation."""
    translator = load_translator(args)
    kept = translator.kept_frames(torch.from_numpy(waveform))
    [text] = translator.translate([torch.from_numpy(waveform)])
    frames = translator.hubert.frame_counts(len(waveform))[0]
    step = math.prod(stride for _, stride in translator.hubert.kernels_strides)
    return kept, frames, step, text


@torch.inference_mode()
def of_whisper(args, waveform):
    """Kept frames by layer, the frames of clip and drawn silence, and the transcript with its words.

    Raises:
        ValueError: the clip is longer than the encoder's context.
    """
    transcriber = WhisperTranscriber(
        args.checkpoint, args.model_overrides, args.device, args.fp16, word_timestamps=True, long_form="off"
    )
    [transcript] = transcriber.transcribe([waveform])
    encoder = transcriber.listener.model.encoder
    features = log_mel(torch.from_numpy(waveform), transcriber.listener.mel_bins).to(args.device)
    heard = encoder(features[None], torch.tensor([len(features)], device=args.device), trace=True)
    last = len(waveform) // WHISPER_FRAME + DRAWN_SILENCE * SAMPLE_RATE // WHISPER_FRAME
    frames = min(last, encoder.max_positions() // 2)
    places = [positions[0].cpu() for positions in heard["trace"]]
    return [kept[kept < frames] for kept in places], frames, transcript


def main(args):
    if args.out.suffix not in FORMATS:
        raise ValueError(f"--out: found {str(args.out)!r}, expected a name that ends in {', '.join(FORMATS)}")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    samples = -1 if args.seconds is None else round(args.seconds * SAMPLE_RATE)
    waveform = read_audio(args.audio, round(args.start * SAMPLE_RATE), samples)
    words, step = [], WHISPER_FRAME
    if is_whisper(args.checkpoint):
        kept, frames, transcript = of_whisper(args, waveform)
        text = transcript.text
        words = [word for segment in transcript.segments for word in segment.words or ()]
        waveform = np.pad(waveform, (0, max(0, frames * step - len(waveform))))
    else:
        kept, frames, step, text = of_translator(args, waveform)
    draw(waveform, kept, frames, step, "" if words else text, args.out, words)
    print(f"{args.out}: {len(kept[-1])} of {frames} frames reach the decoder; it writes: {text}")


if __name__ == "__main__":
    parser = Parser(__doc__)
    add = parser.add_argument
    add("audio", help="audio file")
    add("--out", type=Path, default=Path("kept.png"), help="picture: .png, .pdf or .svg (default: kept.png)")
    add("--start", type=float, default=0.0, help="where to begin in the file, in seconds (default: 0)")
    add("--seconds", type=positive(float), help="how much of the file to draw (default: all)")
    run(main, parser)
