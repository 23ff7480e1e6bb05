#!/usr/bin/env python
"""The table of the recipe: how far each student is from its teacher on held-out speech, its size and its speed."""

import argparse
import time
from pathlib import Path

import torch
from fairseq import checkpoint_utils

import fairseq_prune  # noqa: F401 (registers the models)
from fairseq_prune.checkpoints.hubert.reading import read_hubert
from fairseq_prune.checkpoints.loading import load_fairseq_state, load_state_dict_strictly
from fairseq_prune.modules.hubert.architecture import build_encoder
from fairseq_prune.pruning.distillation import DistillationLoss

SAMPLES = 160_000  # 10 s


def load(path, teacher):
    state = load_fairseq_state(path, {"teacher_path": teacher})
    [model], _, task = checkpoint_utils.load_model_ensemble_and_task([path], state=state)
    return model.eval(), task


@torch.inference_mode()
def distance(model, task, data):
    """Mean over frames of L1 and cosine distance on the valid split: {part: mean}."""
    task.cfg.data = data
    task.load_dataset("valid")
    batches = task.get_batch_iterator(task.dataset("valid"), max_tokens=256_000).next_epoch_itr(shuffle=False)
    sums, frames = {"l1": 0.0, "cosine": 0.0}, 0
    for batch in batches:
        out = model(**batch["net_input"])
        _, parts, count = DistillationLoss()(out["student"], out["teacher"], out["padding_mask"])
        sums = {name: sums[name] + float(part) for name, part in parts.items()}
        frames += int(count)
    return {name: total / frames for name, total in sums.items()}


@torch.inference_mode()
def seconds(encoders, rounds=7):
    """Median seconds of each encoder for 10 s of audio, measured in turns."""
    waveform, times = torch.randn(1, SAMPLES), {name: [] for name in encoders}
    for _ in range(rounds):
        for name, encoder in encoders.items():
            start = time.perf_counter()
            encoder(waveform, [SAMPLES])
            times[name].append(time.perf_counter() - start)
    return {name: sorted(found)[rounds // 2] for name, found in times.items()}


def main(args):
    checkpoint = read_hubert(args.teacher)
    teacher = build_encoder(checkpoint.architecture).eval()
    load_state_dict_strictly(teacher, checkpoint.state_dict, args.teacher)
    encoders, distances = {"teacher": teacher}, {"teacher": None}
    for item in args.models:
        name, _, path = item.partition("=")
        model, task = load(path, args.teacher)
        encoders[name], distances[name] = model.student, distance(model, task, args.data)
    gated, _ = load(args.stage1, args.teacher)
    sparsity = float(1 - gated.student.expected_parameters() / gated.student.dense_parameters())
    lines = [
        "| model | parameters | MACs, 10 s | seconds, 10 s | distance | L1 | cosine |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    times = seconds(encoders)
    for name, encoder in encoders.items():
        size = sum(parameter.numel() for parameter in encoder.parameters())
        macs = encoder.macs(SAMPLES)["total"]
        parts = distances[name]
        far = ["0"] * 3 if parts is None else [f"{x:.4f}" for x in (sum(parts.values()), *parts.values())]
        cells = (name, f"{size:,}", f"{macs / 1e9:.3f} G", f"{times[name]:.3f}", *far)
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", f"Expected sparsity after stage 1: {sparsity:.4f}"]
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "table.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--data", required=True, help="folder with valid.tsv")
    parser.add_argument("--models", nargs="+", required=True, metavar="NAME=CHECKPOINT")
    parser.add_argument("--stage1", required=True, help="checkpoint with gates")
    parser.add_argument("--out", type=Path, required=True)
    main(parser.parse_args())
