#!/usr/bin/env python
"""Find the keep ratios by layer that meet a budget with the least loss of attention.

    python scripts/plan_pruning.py --checkpoint C --data data --split train --budget-macs 0.6
    python scripts/plan_pruning.py --checkpoint C --data data --budget-ms 250 --dev-split dev

The checkpoint is one of the task speech_translation, or any HuBERT (then calibrate with --manifest). Budgets are of
the encoder: --budget-macs is a share of its MACs without pruning, --budget-ms the mean milliseconds for an utterance
of the calibration set, alone in its batch, on this machine. With --dev-split, constant ratios of the same budget from
every first layer on compete with the plan, and the one of the least loss on that split wins.
"""

import time
from pathlib import Path

from _cli import PlainParser, positive, run

import numpy as np
import torch
from tqdm import tqdm

from fairseq_prune.benchmarks.calibration import (
    attention_received,
    encoder_macs,
    keeping,
    layer_costs,
    lost_attention,
)
from fairseq_prune.benchmarks.report import table
from fairseq_prune.checkpoints.hubert.reading import read_hubert
from fairseq_prune.checkpoints.loading import (
    load_checkpoint_file,
    load_state_dict_strictly,
    model_and_task_options,
)
from fairseq_prune.data.audio import read_audio
from fairseq_prune.data.config import DataConfig
from fairseq_prune.data.manifest import check_audio, read_manifest
from fairseq_prune.data.waveform_manifest import read_waveform_manifest
from fairseq_prune.inference.translation import Translator
from fairseq_prune.modules.hubert.architecture import build_encoder
from fairseq_prune.pruning.planning import plan_keep_ratios
from fairseq_prune.pruning.schedules import check_keep_ratio, layer_keep_ratios

# of the frames; what schedules are searched among
SHARES = torch.linspace(0.02, 1.0, 99, dtype=torch.float64)


def load(path):
    """The encoder, and the translator that it is part of, or None."""
    if not Path(path).is_dir():
        task = model_and_task_options(load_checkpoint_file(path, mmap=True), path)[1]
        if task.get("_name") == "speech_translation":
            translator = Translator(path)
            return translator.hubert, translator
    checkpoint = read_hubert(path)
    hubert = build_encoder(checkpoint.architecture)
    load_state_dict_strictly(hubert, checkpoint.state_dict, path)
    hubert.eval()
    hubert.make_generation_fast_()
    return hubert, None


def translated_split(data, split, limit):
    """Utterances of a split and their waveforms (samples,)."""
    config = DataConfig.load(data)
    utterances = read_manifest(config.manifest(split))[:limit]
    check_audio(utterances, config.audio_folder)
    audio = (read_audio(config.audio_folder / u.audio, u.offset, u.n_frames) for u in utterances)
    return utterances, [torch.from_numpy(waveform) for waveform in audio]


def calibration_set(args):
    """Waveforms (samples,)."""
    if args.data:
        return translated_split(args.data, args.split, args.max_utterances)[1]
    manifest = read_waveform_manifest(args.manifest)
    paths = manifest.paths[: args.max_utterances]
    return [torch.from_numpy(read_audio(manifest.root / path)) for path in paths]


@torch.inference_mode()
def milliseconds(hubert, waveforms, keep_ratios, repeats=3):
    """Mean over utterances of the median over repeats."""
    times = np.zeros((repeats + 1, len(waveforms)))
    with keeping(hubert, keep_ratios):
        for repeat in range(repeats + 1):
            for i, waveform in enumerate(waveforms):
                start = time.perf_counter()
                hubert(waveform.unsqueeze(0), [len(waveform)])
                times[repeat, i] = time.perf_counter() - start
    return 1000 * np.median(times[1:], axis=0).mean()


@torch.inference_mode()
def loss_on(translator, utterances, waveforms, keep_ratios, batch_size):
    """Nats for each token of the translations."""
    vocabulary = translator.task.vocabularies["target"]
    dictionary, total, count = vocabulary.dictionary, 0.0, 0
    for indices in translator.batches(waveforms, batch_size):
        targets = [
            torch.tensor([*vocabulary.encode(utterances[i].tgt_text), dictionary.eos()]) for i in indices
        ]
        target = torch.nn.utils.rnn.pad_sequence(targets, True, dictionary.pad())
        previous = torch.cat([torch.full((len(target), 1), dictionary.eos()), target[:, :-1]], 1)
        previous[:, 1:][target[:, :-1] == dictionary.eos()] = dictionary.pad()
        sample = translator.batch([waveforms[i] for i in indices])["net_input"]
        with keeping(translator.hubert, keep_ratios):
            logits, _ = translator.model(**sample, prev_output_tokens=previous)
        losses = torch.nn.functional.cross_entropy(
            logits.float().flatten(0, 1), target.flatten(), ignore_index=dictionary.pad(), reduction="sum"
        )
        total, count = total + float(losses), count + sum(map(len, targets))
    return total / count


def constant_ratios(layers, first, macs_of, budget):
    """The highest constant ratio from a layer on that meets the budget, or None."""
    low, high = 0.05, 1.0
    if macs_of(layer_keep_ratios(layers, low, first)) > budget:
        return None
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (
            (low, middle) if macs_of(layer_keep_ratios(layers, middle, first)) > budget else (middle, high)
        )
    return layer_keep_ratios(layers, round(low - 5e-5, 4), first)


def plan_for_time(hubert, waveforms, plan, budget):
    """The plan for a budget of milliseconds: of MACs that are adjusted until the time is right."""
    dense = milliseconds(hubert, waveforms, [1.0] * len(hubert.encoder.layers))
    if dense <= budget:
        return [1.0] * len(hubert.encoder.layers)
    macs = budget / dense
    for _ in range(4):
        ratios = plan(macs)
        found = milliseconds(hubert, waveforms, ratios)
        print(f"{macs:.3f} of the MACs take {found:.1f} ms, all of them {dense:.1f} ms")
        if found <= budget:
            return ratios
        macs *= 0.99 * budget / found
    raise ValueError(
        f"--budget-ms: found {found:.1f} ms after four plans, expected {budget:g}; is the machine busy?"
    )


def choose_by_loss(translator, dev, split, planned, macs_of, batch_size):
    """The schedule of least loss on a split among the planned one and constant ratios of its MACs; prints a table.

    Args:
        dev: utterances of the split and their waveforms.
        planned: keep ratios by layer.
        macs_of: keep ratios by layer -> share of the encoder's MACs.
    """
    layers, budget = len(planned), macs_of(planned)
    schedules = {"least attention lost": planned}
    for first in range(1, layers + 1):
        ratios = constant_ratios(layers, first, macs_of, budget)
        if ratios:
            schedules[f"constant from layer {first}"] = ratios
    found = {
        name: loss_on(translator, *dev, ratios, batch_size)
        for name, ratios in tqdm(schedules.items(), desc="dev loss", unit="schedule")
    }
    unpruned = loss_on(translator, *dev, [1.0] * layers, batch_size)
    rows = [("no pruning", 1.0, unpruned)]
    rows += [(name, macs_of(schedules[name]), found[name]) for name in sorted(found, key=found.get)]
    print(
        table(
            [
                {"schedule": name, "MACs": f"{share:.3f}", f"loss on {split}": f"{loss:.4f}"}
                for name, share, loss in rows
            ]
        )
    )
    return schedules[min(found, key=found.get)]


def print_schedule(ratios, losses):
    """A row a layer: its keep ratio, the frames that are left, and the attention that goes with the others."""
    kept = np.cumprod(ratios)
    nearest = [int((SHARES - share).abs().argmin()) for share in kept]
    rows = [
        {
            "layer": str(i + 1),
            "keep ratio": f"{ratio:g}",
            "frames left": f"{100 * kept[i]:.1f} %",
            "attention lost": f"{100 * losses[i, nearest[i]]:.2f} %",
        }
        for i, ratio in enumerate(ratios)
    ]
    print(table(rows))


def main(args):
    check_keep_ratio(args.least_ratio, "--least-ratio")
    hubert, translator = load(args.checkpoint)
    if args.dev_split and (translator is None or not args.data):
        raise ValueError("--dev-split needs a checkpoint of the task speech_translation, and --data")
    waveforms = [w for w in calibration_set(args) if hubert.frame_counts(len(w))[0] > 1]
    if not waveforms:
        raise ValueError("no utterance to calibrate with is as long as two frames of the encoder")
    dev = translated_split(args.data, args.dev_split, args.max_dev_utterances) if args.dev_split else None
    samples, layers = [len(waveform) for waveform in waveforms], len(hubert.encoder.layers)
    losses = [
        lost_attention(attention_received(hubert, waveform), SHARES)
        for waveform in tqdm(waveforms, desc="calibrating", unit="utterance")
    ]
    losses, costs = torch.stack(losses).mean(0), layer_costs(hubert, samples, SHARES)
    dense = encoder_macs(hubert, samples, [1.0] * layers)

    def macs_of(ratios):
        """Share of the encoder's MACs without pruning."""
        return encoder_macs(hubert, samples, ratios) / dense

    def plan(budget):
        return plan_keep_ratios(losses, costs, SHARES, macs_of, budget, args.least_ratio)

    in_time = args.budget_ms
    best = plan_for_time(hubert, waveforms, plan, in_time) if in_time else plan(args.budget_macs)
    if dev:
        best = choose_by_loss(translator, dev, args.dev_split, best, macs_of, args.batch_size)
    print_schedule(best, losses)
    print(f"MACs of the encoder: {macs_of(best):.3f} of those without pruning")
    options = f"--token-keep-ratios {','.join(f'{ratio:g}' for ratio in best)}"
    # the plan is one for attention received
    print(options if hubert.pruning.criterion == "received" else f"{options} --token-keep-criterion received")


if __name__ == "__main__":
    parser = PlainParser(__doc__)
    add = parser.add_argument
    add("--checkpoint", required=True, help="of the task speech_translation, or a HuBERT")
    budget = parser.add_mutually_exclusive_group(required=True)
    budget.add_argument(
        "--budget-macs", type=positive(float), help="share of the encoder's MACs, such as 0.6"
    )
    budget.add_argument("--budget-ms", type=positive(float), help="mean milliseconds for an utterance")
    calibration = parser.add_mutually_exclusive_group(required=True)
    calibration.add_argument("--data", help="data directory (of data_prep/prep_mustc.py) to calibrate with")
    calibration.add_argument(
        "--manifest", help="manifest of audio (of data_prep/prep_audio.py) to calibrate with"
    )
    add("--split", default="train", help="of --data, to calibrate with (default: train)")
    add("--dev-split", help="of --data: choose by the loss on it")
    add("--max-utterances", type=positive(int), default=32, help="utterances to calibrate with (default: 32)")
    add(
        "--max-dev-utterances",
        type=positive(int),
        default=100,
        help="utterances of --dev-split (default: 100)",
    )
    add(
        "--batch-size", type=positive(int), default=8, help="utterances of --dev-split at a time (default: 8)"
    )
    add(
        "--least-ratio",
        type=positive(float),
        default=0.5,
        help="keep ratio that every layer has at least (default: 0.5)",
    )
    run(main, parser)
