#!/usr/bin/env python
"""Draw which frames of an utterance survive each layer: waveform, spectrogram, and a row for each layer.

python scripts/show_pruning.py --checkpoint demo_out/pruned/checkpoint_best.pt utterance.wav --out kept.png
"""

import argparse

import matplotlib
import numpy as np
import torch
from _cli import add_model_options, load_translator, run

from fairseq_prune.data.audio import SAMPLE_RATE, read_audio

matplotlib.use("Agg")
from matplotlib import pyplot as plt

FRAME_SECONDS = 0.02


def draw(waveform, kept, title, out):
    """Write the picture.

    Args:
        waveform: (samples,) at 16 kHz.
        kept: for each layer, the frames (20 ms) that survive it; the first entry are all frames.
        title: above the picture.
        out: file to write; the ending says the format.
    """
    seconds = len(waveform) / SAMPLE_RATE
    frames = len(kept[0])
    fig, (top, middle, bottom) = plt.subplots(
        3, 1, figsize=(9, 5.5), sharex=True, height_ratios=(1, 2, 2), layout="constrained"
    )
    top.plot(np.arange(len(waveform)) / SAMPLE_RATE, waveform, linewidth=0.4, color="black")
    top.set_ylabel("waveform")
    top.set_yticks([])
    top.set_title(title, fontsize=10)
    middle.specgram(waveform + 1e-7, NFFT=400, Fs=SAMPLE_RATE, noverlap=240, cmap="magma", vmin=-120)
    middle.set_ylabel("Hz")
    survives = np.zeros((len(kept), frames))
    for layer, positions in enumerate(kept):
        survives[layer, positions] = 1
    bottom.imshow(
        survives,
        aspect="auto",
        interpolation="nearest",
        cmap="Greys",
        vmax=1.4,
        extent=(0, frames * FRAME_SECONDS, len(kept) - 0.5, -0.5),
    )
    bottom.set_yticks(range(len(kept)))
    bottom.set_yticklabels(["input"] + [f"layer {i}" for i in range(1, len(kept))], fontsize=8)
    for layer, positions in enumerate(kept):
        share = len(positions) / frames
        bottom.text(
            1.01, layer, f"{share:.0%}", transform=bottom.get_yaxis_transform(), va="center", fontsize=8
        )
    bottom.set_xlabel("seconds")
    bottom.set_xlim(0, seconds)
    fig.savefig(out, dpi=200)
    plt.close(fig)


def main(args):
    offset = round(args.start * SAMPLE_RATE)
    waveform = read_audio(args.audio, offset, round(args.seconds * SAMPLE_RATE) if args.seconds else -1)
    translator = load_translator(args)
    sample = translator.batch([torch.from_numpy(waveform)])["net_input"]
    with torch.inference_mode():
        frames = translator.hubert(sample["src_tokens"], [len(waveform)], trace=True)
    everything = torch.arange(translator.hubert.frame_counts(len(waveform))[0])
    kept = [everything.numpy()] + [positions[0].cpu().numpy() for positions in frames.trace]
    text = translator.translate([torch.from_numpy(waveform)])[0]
    draw(waveform, kept, text, args.out)
    print(f"{args.out}: {len(kept[-1])} of {len(everything)} frames reach the decoder; translation: {text}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_model_options(parser)
    parser.add_argument("audio", help="audio file")
    parser.add_argument(
        "--out", default="kept.png", help="picture to write: png, pdf or svg (default: kept.png)"
    )
    run(main, parser)
