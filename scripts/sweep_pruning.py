#!/usr/bin/env python
"""One table of quality against speed: checkpoints, and keep ratios by criteria on the first of them.

    python scripts/sweep_pruning.py --checkpoint dense.pt pruned.pt --data demo_out/data --out report \\
        --keep-ratios 1.0 0.9 0.8 0.7 --criteria received random uniform

Quality is measured on a whole split. Times are medians over repeated passes through the same utterances, where
the settings take turns, so that the ratios hold on a machine that does other things too. The last row scores
sentences of the domain that have nothing to do with the audio: the translations of other utterances.
"""

import dataclasses
from pathlib import Path

from _cli import Parser, load_translator, positive, run

import numpy as np
import pandas as pd
import torch
from sacrebleu.metrics import BLEU, CHRF
from tqdm import tqdm

from fairseq_prune.benchmarks.stages import clock
from fairseq_prune.benchmarks.sweep_picture import plot_sweep
from fairseq_prune.data.audio import SAMPLE_RATE, read_audio
from fairseq_prune.data.config import DataConfig
from fairseq_prune.data.manifest import check_audio, read_manifest
from fairseq_prune.inference.translation import Translator
from fairseq_prune.modules.hubert.encoder import TokenPruning
from fairseq_prune.pruning.criteria import CRITERIA
from fairseq_prune.pruning.schedules import check_keep_ratio, layer_keep_ratios

RESAMPLED = 1000  # test sets that the intervals are taken from


@dataclasses.dataclass
class Setting:
    """A row of the table: a model, and how its encoder prunes."""

    model: str
    translator: Translator
    pruning: TokenPruning

    @property
    def keep_ratio(self):
        """Of the layers that prune, as text."""
        ratios = sorted({round(ratio, 3) for ratio in self.pruning.keep_ratios if ratio < 1})
        return " to ".join(map(str, ratios[:: max(1, len(ratios) - 1)])) or "1.0"

    @property
    def criterion(self):
        return self.pruning.criterion if self.keep_ratio != "1.0" else "none"

    def activate(self):
        """Make the model prune in this way."""
        self.translator.hubert.pruning = self.pruning
        return self.translator


def settings_of(args):
    """The rows that the options ask for, and how many of them, at the end, are trials of keep ratios.

    The first row is what the others are compared with.
    """
    paths = [Path(path).resolve() for path in args.checkpoint]
    names = [path.parent.name for path in paths]
    if len(set(names)) < len(names):
        names = [f"{path.parent.name}/{path.stem}" for path in paths]
    translators = [load_translator(args, path) for path in args.checkpoint]
    settings = [Setting(name, model, model.hubert.pruning) for name, model in zip(names, translators)]
    own = settings[0].pruning

    def trial(ratio, criterion):
        ratios = layer_keep_ratios(len(own.keep_ratios), ratio, args.start_layer)
        return Setting(
            names[0], translators[0], dataclasses.replace(own, keep_ratios=ratios, criterion=criterion)
        )

    if 1.0 in args.keep_ratios and settings[0].criterion != "none":
        settings.insert(0, trial(1.0, own.criterion))
    pruned = [ratio for ratio in args.keep_ratios if ratio < 1.0]
    trials = [trial(ratio, criterion) for criterion in args.criteria for ratio in pruned]
    return settings + trials, len(trials)


def quality(setting, waveforms, utterances, batch_size, progress):
    """Scores in percent by column, and the translations."""
    translator = setting.activate()
    hypotheses = translator.translate(waveforms, batch_size, progress)
    row = scores(hypotheses, [u.tgt_text for u in utterances])
    vocabulary = translator.task.ctc_vocabulary
    if vocabulary is not None:
        texts = [u.tgt_text if translator.task.ctc_text == "target" else u.src_text for u in utterances]
        # as the vocabulary writes them: the case may be folded
        references = [vocabulary.decode(vocabulary.encode(text), unk="<<unk>>") for text in texts]
        row["CTC exact %"] = exact(translator.recognize(waveforms, batch_size), references)
    return row, hypotheses


def exact(hypotheses, references):
    """Share of the texts that are the same, in percent."""
    return 100 * np.mean([a == b for a, b in zip(hypotheses, references)])


def scores(hypotheses, references):
    """sacrebleu's BLEU and chrF with their 95 % intervals, and the share of exact translations."""
    row = {}
    for name, metric in (("BLEU", BLEU()), ("chrF", CHRF())):
        found = metric.corpus_score(hypotheses, [references], n_bootstrap=RESAMPLED)
        row[name] = found.score
        if len(references) > 1:
            row[f"{name} low"], row[f"{name} high"] = found._mean - found._ci, found._mean + found._ci
        else:
            row[f"{name} low"] = row[f"{name} high"] = found.score
    return {**row, "exact %": exact(hypotheses, references)}


def frames_and_macs(setting, waveforms):
    """Share of the frames that reach the end of the encoder, and MACs of the encoder, over all utterances."""
    translator = setting.activate()
    lengths = [len(waveforms[i]) for [i] in translator.batches(waveforms, 1)]
    counts = np.sum([translator.hubert.frame_counts(n) for n in lengths], axis=0)
    macs = sum(translator.hubert.macs(n)["total"] for n in lengths)
    return {"frames kept %": 100 * counts[-1] / counts[0], "encoder MACs": macs}


@torch.inference_mode()
def seconds(settings, waveforms, batch_size, repeats):
    """Median seconds of the encoder and of whole translations, (settings, 2); the settings take turns."""
    times = np.zeros((repeats, len(settings), 2))
    with tqdm(total=repeats * len(settings), desc="timing", unit="pass") as progress:
        for repeat in range(repeats):
            for i, setting in enumerate(settings):
                translator = setting.activate()
                for indices in translator.batches(waveforms, batch_size):
                    sample = translator.batch([waveforms[i] for i in indices])
                    start = clock(translator.device)
                    translator.model.encoder(**sample["net_input"])
                    middle = clock(translator.device)
                    translator.generator.generate([translator.model], sample)
                    times[repeat, i] += middle - start, clock(translator.device) - middle
                progress.update()
    return np.median(times, axis=0)


def markdown(table):
    """The table as markdown, without the ends of intervals, which sweep.csv has."""
    table = table[[name for name in table.columns if not name.endswith((" low", " high"))]]
    cells = [list(table.columns)] + [["---"] * len(table.columns)]
    for row in table.itertuples(index=False):
        cells.append([text_of(name, value) for name, value in zip(table.columns, row)])
    return "".join("| " + " | ".join(row) + " |\n" for row in cells)


def text_of(column, value):
    """A cell; ratios to the first row have two decimals, percentages and scores one."""
    if isinstance(value, str):
        return value
    if pd.isna(value):
        return ""
    return f"{value:.2f}" if column.startswith(("encoder", "total")) else f"{value:.1f}"


def main(args):
    for ratio in args.keep_ratios:
        check_keep_ratio(ratio, "--keep-ratios")
    args.out.mkdir(parents=True, exist_ok=True)
    config = DataConfig.load(args.data)
    utterances = read_manifest(config.manifest(args.split))[: args.max_utterances]
    check_audio(utterances, config.audio_folder)
    settings, trials = settings_of(args)
    waveforms = [
        torch.from_numpy(read_audio(config.audio_folder / u.audio, u.offset, u.n_frames)) for u in utterances
    ]

    rows, translations = [], []
    for number, setting in enumerate(settings, 1):
        name = {"model": setting.model, "criterion": setting.criterion, "keep ratio": setting.keep_ratio}
        title = f"{number}/{len(settings)} {' '.join(name.values())}"
        row, hypotheses = quality(setting, waveforms, utterances, args.batch_size, title)
        rows.append({**name, **row, **frames_and_macs(setting, waveforms)})
        translations.append(hypotheses)
    timed = seconds(settings, waveforms[: args.timed_utterances], args.batch_size, args.repeats)
    table = pd.DataFrame(rows)
    table["encoder MACs"] /= table["encoder MACs"][0]
    table[["encoder time", "total time"]] = timed / timed[0]
    plot_sweep(table, trials, args.out / "sweep.png")
    half = len(utterances) // 2
    if half:  # a single utterance has no other
        others = translations[0][half:] + translations[0][:half]
        ignorant = {"model": "ignores the audio", **scores(others, [u.tgt_text for u in utterances])}
        table = pd.concat([table, pd.DataFrame([ignorant])], ignore_index=True)
    table.to_csv(args.out / "sweep.csv", index=False)
    audio = sum(map(len, waveforms[: args.timed_utterances])) / SAMPLE_RATE
    note = (
        f"{len(utterances)} utterances of {args.split}. MACs and times are ratios to the first row, whose encoder"
        f" takes {timed[0, 0]:.2f} s, and translation in all {timed[0, 1]:.2f} s, for {audio:.0f} s of audio.\n"
    )
    text = markdown(table) + "\n" + note
    (args.out / "sweep.md").write_text(text, encoding="utf-8")
    print(text)
    print(f"Written: {args.out}/sweep.md, sweep.csv, sweep.png")


if __name__ == "__main__":
    parser = Parser(__doc__, checkpoints="+")
    add = parser.add_argument
    add("--data", required=True, help="data directory (of data_prep/prep_mustc.py)")
    add("--split", default="tst-COMMON", help="split to translate (default: tst-COMMON)")
    add("--out", type=Path, default=Path("report"), help="folder for sweep.md, .csv, .png (default: report)")
    add("--keep-ratios", type=float, nargs="*", default=[], help="ratios to try on the first model")
    add("--criteria", nargs="*", choices=CRITERIA, default=["received"], help="criteria to try at each ratio")
    add("--start-layer", type=int, default=1, help="first layer that prunes in these trials (default: 1)")
    add("--max-utterances", type=positive(int), help="use only the first utterances of the split")
    add("--timed-utterances", type=positive(int), default=32, help="utterances that are timed (default: 32)")
    add("--repeats", type=positive(int), default=5, help="timed passes (default: 5)")
    run(main, parser)
