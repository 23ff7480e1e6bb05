#!/usr/bin/env python
"""One table of quality against speed: checkpoints, and keep ratios by criteria on the first of them.

    python scripts/sweep_pruning.py --checkpoint dense.pt pruned.pt --data demo_out/data --out report \\
        --keep-ratios 1.0 0.9 0.8 0.7 --criteria received random uniform

Quality is measured on a whole split. Times are medians over repeated passes through the same batches, where the
settings take turns, so that the ratios hold on a machine that does other things too.
"""

import argparse
import dataclasses
import time
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import sacrebleu
import torch
from _cli import add_model_options, load_translator, run
from tqdm import tqdm

from fairseq_prune.data.audio import read_audio
from fairseq_prune.data.config import DataConfig
from fairseq_prune.data.manifest import check_audio, read_manifest
from fairseq_prune.modules.hubert import TokenPruning
from fairseq_prune.pruning.schedules import layer_keep_ratios
from fairseq_prune.pruning.tokens import CRITERIA

matplotlib.use("Agg")
from matplotlib import pyplot as plt


@dataclasses.dataclass
class Setting:
    """A row of the table: a model, and how its encoder prunes."""

    model: str
    translator: object
    pruning: TokenPruning

    @property
    def keep_ratio(self):
        """Of the layers that prune, for the table."""
        ratios = sorted({round(ratio, 3) for ratio in self.pruning.keep_ratios if ratio < 1}, reverse=True)
        return " ".join(map(str, ratios)) or "1.0"

    def activate(self):
        """Make the model prune in this way."""
        self.translator.hubert.pruning = self.pruning
        return self.translator


def settings_of(args):
    """The rows that the options ask for; the first is what the others are compared with."""
    translators = [load_translator(args, checkpoint) for checkpoint in args.checkpoint]
    names = [Path(path).resolve().parent.name for path in args.checkpoint]
    settings = [
        Setting(name, translator, translator.hubert.pruning) for name, translator in zip(names, translators)
    ]
    layers = len(settings[0].pruning.keep_ratios)
    for criterion in args.criteria:
        for ratio in args.keep_ratios:
            ratios = layer_keep_ratios(layers, ratio, args.start_layer)
            if min(ratios) < 1.0:  # the unpruned model is a row already
                settings.append(Setting(names[0], translators[0], TokenPruning(ratios, criterion)))
    return settings


def quality(setting, waveforms, references, transcripts, batch_size):
    """BLEU, chrF, exact translations (and transcripts by CTC) in percent, and the hypotheses."""
    translator = setting.activate()
    hypotheses = translator.translate(waveforms, batch_size)
    row = scores(hypotheses, references)
    if translator.task.ctc_vocabulary is not None:
        recognized = translator.recognize(waveforms, batch_size)
        row["CTC exact %"] = 100 * np.mean([a == b for a, b in zip(recognized, transcripts)])
    return row, hypotheses


def scores(hypotheses, references):
    """sacrebleu's BLEU and chrF, and the share of exact translations."""
    return {
        "BLEU": sacrebleu.corpus_bleu(hypotheses, [references]).score,
        "chrF": sacrebleu.corpus_chrf(hypotheses, [references]).score,
        "exact %": 100 * np.mean([a == b for a, b in zip(hypotheses, references)]),
    }


def frames_and_macs(setting, waveforms):
    """Share of the frames that reach the end of the encoder, and MACs of the encoder, over all utterances."""
    hubert = setting.activate().hubert
    lengths = [len(waveform) for waveform in waveforms]
    counts = np.array([hubert.frame_counts(n) for n in lengths]).sum(0)
    kept = counts[-1] / counts[0]
    return {"frames %": 100 * kept, "encoder MACs": sum(hubert.macs(n)["total"] for n in lengths)}


def clock(device):
    """Seconds, after all work of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


@torch.inference_mode()
def seconds(settings, waveforms, batch_size, repeats):
    """Median seconds of the encoder and of whole translations, of each setting; the settings take turns."""
    times = np.zeros((repeats, len(settings), 2))
    first = settings[0].translator
    batches = [[waveforms[i] for i in indices] for indices in first.batches(waveforms, batch_size)]
    for repeat in tqdm(range(repeats), desc="timing", unit="pass"):
        for i, setting in enumerate(settings):
            translator = setting.activate()
            for batch in batches:
                sample = translator.batch(batch)
                start = clock(translator.device)
                translator.model.encoder(**sample["net_input"])
                middle = clock(translator.device)
                translator.generator.generate([translator.model], sample)
                times[repeat, i] += middle - start, clock(translator.device) - middle
    return np.median(times, axis=0)


def plot(table, out):
    """BLEU and chrF against the encoder's MACs, a line for each criterion."""
    fig, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for score, ax in zip(("BLEU", "chrF"), axes):
        for (model, criterion), rows in table.groupby(["model", "criterion"], sort=False):
            ax.plot(rows["encoder MACs"], rows[score], marker="o", label=f"{model}, {criterion}")
        ax.set_xlabel("encoder MACs, share of the first row")
        ax.set_ylabel(score)
        ax.grid(alpha=0.3)
    axes[0].legend(fontsize=7)
    fig.savefig(out, dpi=200)
    plt.close(fig)


def markdown(table):
    """The table as markdown."""
    cells = [list(table.columns)] + [["---"] * len(table.columns)]
    for row in table.itertuples(index=False):
        cells.append([text_of(name, value) for name, value in zip(table.columns, row)])
    return "".join("| " + " | ".join(map(str, row)) + " |\n" for row in cells)


def text_of(column, value):
    """A cell; ratios have two decimals, scores one."""
    if isinstance(value, str):
        return value
    if pd.isna(value):
        return ""
    return f"{value:.2f}" if column.startswith(("encoder", "total")) else f"{value:.1f}"


def main(args):
    config = DataConfig.load(args.data)
    utterances = read_manifest(config.manifest(args.split))[: args.max_utterances]
    check_audio(utterances, config.audio_folder)
    settings = settings_of(args)
    waveforms = [
        torch.from_numpy(read_audio(config.audio_folder / u.audio, u.offset, u.n_frames)) for u in utterances
    ]
    references = [u.tgt_text for u in utterances]
    transcripts = [u.src_text for u in utterances]

    rows, hypotheses = [], []
    for setting in tqdm(settings, desc="quality", unit="setting"):
        row, texts = quality(setting, waveforms, references, transcripts, args.batch_size)
        ratio = setting.keep_ratio
        criterion = "none" if ratio == "1.0" else setting.pruning.criterion
        name = {"model": setting.model, "criterion": criterion, "keep ratio": ratio}
        rows.append({**name, **row, **frames_and_macs(setting, waveforms)})
        hypotheses.append(texts)
    timed = seconds(settings, waveforms[: args.timed_utterances], args.batch_size, args.repeats)
    table = pd.DataFrame(rows)
    table["encoder MACs"] /= table["encoder MACs"][0]
    table["encoder time"] = timed[:, 0] / timed[0, 0]
    table["total time"] = timed[:, 1] / timed[0, 1]
    # fluent sentences of the domain that have nothing to do with the audio: those of other utterances
    half = len(utterances) // 2
    ignorant = scores(hypotheses[0][half:] + hypotheses[0][:half], references)
    table = pd.concat([table, pd.DataFrame([{"model": "ignores the audio", **ignorant}])], ignore_index=True)
    args.out.mkdir(parents=True, exist_ok=True)
    table.to_csv(args.out / "sweep.csv", index=False)
    text = markdown(table)
    (args.out / "sweep.md").write_text(text, encoding="utf-8")
    plot(table[:-1], args.out / "sweep.png")
    print(text)
    print(f"{len(utterances)} utterances of {args.split}; MACs and times are ratios to the first row.")
    print(f"Written: {args.out}/sweep.md, sweep.csv, sweep.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_model_options(parser, checkpoints="+")
    parser.add_argument("--data", required=True, help="data directory (of data_prep/prep_mustc.py)")
    parser.add_argument("--split", default="tst-COMMON", help="split to translate (default: tst-COMMON)")
    parser.add_argument("--out", type=Path, default=Path("report"), help="folder for sweep.md, .csv, .png")
    parser.add_argument(
        "--keep-ratios", type=float, nargs="*", default=[], help="ratios to try on the first model"
    )
    parser.add_argument(
        "--criteria", nargs="*", choices=CRITERIA, default=["received"], help="criteria to try at each ratio"
    )
    parser.add_argument("--start-layer", type=int, default=1, help="first layer that prunes in these trials")
    parser.add_argument("--max-utterances", type=int, help="use only the first utterances of the split")
    parser.add_argument(
        "--timed-utterances", type=int, default=32, help="utterances that are timed (default: 32)"
    )
    parser.add_argument("--repeats", type=int, default=5, help="timed passes (default: 5)")
    run(main, parser)
