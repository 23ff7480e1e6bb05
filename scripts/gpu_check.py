#!/usr/bin/env python
"""Is all right on this GPU, and how fast is it? One command, at most 8 minutes.

    python scripts/gpu_check.py --out gpu_report

First correctness: the encoder and the gradients as on the CPU; float16, bfloat16 and autocast; an utterance alone as in
a batch; no wait for the device; the encoder as a CUDA graph. Then speed: HuBERT base dense and pruned beside fairseq,
transformers and torchaudio; updates of training a second with their memory; and translation by beam search. Weights are
random, audio is noise; nothing is downloaded. A line a check; gpu_check.md and gpu_check.json have it all.

The exit status is 1 if a check has failed. --small makes small models, for a test on the CPU.
"""

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

from _cli import PlainParser, positive, run

import torch
from benchmark import machine

from fairseq_prune.benchmarks.device_checks import Subject, run_checks
from fairseq_prune.benchmarks.entries import build_entry
from fairseq_prune.benchmarks.measure import Setting, measure
from fairseq_prune.benchmarks.report import markdown, table
from fairseq_prune.benchmarks.specs import Spec
from fairseq_prune.benchmarks.training_steps import measure_training
from fairseq_prune.inference.base import usable_device

SMALL = {
    "hubert_layers": 2,
    "hubert_embed_dim": 32,
    "hubert_ffn_embed_dim": 48,
    "hubert_attention_heads": 4,
    "hubert_conv_layers": "[(16,10,5)] + [(16,3,2)] * 4 + [(16,2,2)] * 2",
    "hubert_conv_pos_groups": 4,
    "deltalm_embed_dim": 32,
    "deltalm_ffn_embed_dim": 48,
    "deltalm_attention_heads": 4,
    "deltalm_decoder_layers": 1,
    "deltalm_text_layers": 1,
    "adaptor_channels": 32,
}
ENCODERS = ("fairseq", "transformers_sdpa", "torchaudio", "hubert_base")
KEEPS = (0.9, 0.8, 0.7)
TRAININGS = {
    "dense": {},
    "keep 0.9 from layer 4": {"token_keep_ratio": 0.9, "token_keep_start_layer": 4},
    "keep 0.7 from layer 4": {"token_keep_ratio": 0.7, "token_keep_start_layer": 4},
    "extractor trained": {"freeze_feature_extractor": "never"},
}


class Clock:
    """How much is left of the time that this may take."""

    def __init__(self, seconds):
        self.end = time.monotonic() + seconds

    def is_over(self):
        return time.monotonic() > self.end


def check(subject, small):
    """All checks, a line each."""
    found = []
    for result in run_checks(subject):
        word = {True: "ok", False: "FAILED", None: "left out"}[result.passed]
        print(f"{word:9} {result.name}: {result.found}", flush=True)
        found.append(result)
    return found


def time_encoders(device, small, clock):
    """Measurements of encoders, then of translations; a list for each setting that there was time for."""
    dtype = ",dtype=float16" if device.type == "cuda" else ""
    if small:
        specs, settings = ["hubert_base", "hubert_base,keep=0.7"], [Setting(0.5, 1)]
    else:
        pruned = [f"hubert_base,keep={keep}{dtype}" for keep in KEEPS]
        specs = [*(f"{name}{dtype}" for name in ENCODERS), *pruned]
        settings = [Setting(seconds, batch) for seconds in (10, 30) for batch in (1, 8, 32)]
    yield from _measured(specs, settings, device, 1 if small else 5, clock)
    if not small:
        specs = [f"hubert_deltalm{keep}{dtype}" for keep in ("", ",keep=0.9", ",keep=0.7")]
        yield from _measured(specs, [Setting(10, 8, tokens=30)], device, 3, clock)


def _measured(specs, settings, device, rounds, clock):
    entries = [build_entry(Spec.parse(text), device) for text in specs]
    for setting in settings:
        if clock.is_over():
            print(f"left out  {setting.seconds:g} s, batch {setting.batch}: no time left", flush=True)
            continue
        (group,) = measure(entries, [setting], device, rounds, beam=5)
        for m in group:
            what = f"{m.entry}, {setting.seconds:g} s, batch {setting.batch}"
            print(f"{m.median:9.4f} s {what}: {m.speedup:.2f} times the first", flush=True)
        yield group
    entries.clear()


def time_training(subject, small, clock):
    """Updates a second of each kind of training that there was time for."""
    found = []
    for name, options in ({"dense": {}} if small else TRAININGS).items():
        if clock.is_over():
            print(f"left out  training, {name}: no time left", flush=True)
            continue
        result = measure_training(subject, name, options, 1 if small else 10)
        memory = "" if result.memory is None else f", {result.memory:.0f} MiB at the peak"
        print(f"{result.updates_per_second:9.2f} updates a second, training {name}{memory}", flush=True)
        found.append(result)
    return found


def report(about, checks, trainings, groups):
    """All of it as markdown."""
    word = {True: "ok", False: "**failed**", None: "left out"}
    parts = [f"# GPU check\n\n{about}\n"]
    parts.append(table([{"check": c.name, "": word[c.passed], "found": c.found} for c in checks]))
    if trainings:
        rows = [
            {
                "training": t.name,
                "updates a second": f"{t.updates_per_second:.2f}",
                "peak memory (MiB)": "" if t.memory is None else f"{t.memory:.0f}",
            }
            for t in trainings
        ]
        parts.append("\n## Training\n\n" + table(rows))
    if groups:
        parts.append("\n## Speed\n\n" + markdown(groups, about))
    return "\n".join(parts)


def main(args):
    clock = Clock(args.minutes * 60)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    device = usable_device(args.device)
    about = f"{machine(device)}; random weights, noise."
    print(about, flush=True)
    options = SMALL if args.small else {}
    subject = Subject(device, options, (0.9, 0.6) if args.small else (10.0, 7.0, 4.0))
    checks = check(subject, args.small)
    if device.type == "cuda":  # as users have it
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    trainings = time_training(subject, args.small, clock)
    groups = list(time_encoders(device, args.small, clock))
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "gpu_check.md").write_text(report(about, checks, trainings, groups), encoding="utf-8")
    content = {
        "about": about,
        "checks": [asdict(c) for c in checks],
        "training": [asdict(t) for t in trainings],
        "speed": [
            [{**asdict(m), "median": m.median, "speedup": m.speedup} for m in group] for group in groups
        ],
    }
    (args.out / "gpu_check.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
    print(f"Written: {args.out}/gpu_check.md, .json")
    if any(c.passed is False for c in checks):
        sys.exit(1)


if __name__ == "__main__":
    parser = PlainParser(__doc__)
    add = parser.add_argument
    add("--device", default="cuda", help="cuda (default), cuda:1, ... or cpu")
    add("--minutes", type=positive(float), default=7, help="after which no measurement begins (default: 7)")
    add("--small", action="store_true", help="small models and few measurements, for a test")
    add("--out", type=Path, default=Path("gpu_report"), help="folder of the report (default: gpu_report)")
    run(main, parser)
