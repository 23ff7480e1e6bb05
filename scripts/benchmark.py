#!/usr/bin/env python
"""Where the time goes: models side by side, by stage, length and batch size.

    python scripts/benchmark.py fairseq torchaudio hubert_base hubert_base,keep=0.7 --out report
    python scripts/benchmark.py hubert_deltalm hubert_deltalm,keep=0.7,dtype=int8 --tokens-per-second 3

Entries are checkpoints (of the task speech_translation, or any HuBERT) or architectures with random weights of the
published sizes: hubert_base, hubert_large, hubert_deltalm; and of others: fairseq, transformers_eager,
transformers_sdpa, torchaudio, plain_pruning (token pruning as published), transformers_compiled (torch.compile); in
ONNX Runtime onnx (our export) and onnx_transformers, in OpenVINO openvino (our export; int8 by NNCF), and in
CTranslate2 ctranslate2_wav2vec2 (of hubert_large's form and size). Options follow an entry's name: keep=0.7 (ratio of
the layers from start=4 on) or keeps=1/1/0.8/..., dtype=bfloat16, float16 (GPU) or int8 (CPU, linear layers),
kernels=torch or onednn (default: what `fairseq-prune kernels` says), vocabulary=15000 and hubert=pruned.pt (both of
hubert_deltalm), label=name. The models of transformers drop frames, too, by `fairseq_prune.adapters`.

With --train entries are kinds of training: st (speech translation; keep= and start= prune), st_fairseq (with fairseq's
own HuBERT), plain_dphubert (as published), dphubert, dphubert_second (the second stage, without gates), ctc, parp, slu
(PruneSLU: half of the layers of whisper-tiny.en learn from all, on 30 s), slu_transformers (the same by transformers).
A step is a forward pass, a backward pass and Adam. "reading" is how many seconds one process takes to read such a batch
from FLAC files, to augment and to collate it, as for speech translation; "share" is its part of reading and step.

    python scripts/benchmark.py st_fairseq st st,keep=0.8 plain_dphubert dphubert --train --seconds 5 --batch-sizes 4

With --generate entries are decoders that write 20 tokens of encoded sentences: hubert_deltalm, whisper_tiny,
whisper_base, transformers_mbart, ctranslate2_mbart (of DeltaLM's size), each step by stage.

    python scripts/benchmark.py hubert_deltalm,vocabulary=12000 transformers_mbart,vocabulary=12000 --generate

With --report all tables of docs/speed.md are written to one file: on one thread, with the machine's instructions and
with AVX2 alone. It takes about 50 minutes. Each table is kept in speed.md.parts/ as soon as it is made, and
the same command goes on where it was stopped.

    python scripts/benchmark.py --report speed.md

In every round all entries take turns, so that ratios hold on a machine that does other things. The audio is noise.
"""

from pathlib import Path

from _cli import PlainParser, positive, run

import torch
from tqdm import tqdm

from fairseq_prune.benchmarks.entries import build_entry
from fairseq_prune.benchmarks.generation import Task, copy_bandwidth, generation_table, measure_generation
from fairseq_prune.benchmarks.measure import Setting, measure, peak_memory
from fairseq_prune.benchmarks.reading_speed import reading_seconds
from fairseq_prune.benchmarks.report import write_report
from fairseq_prune.benchmarks.specs import TINY, Spec
from fairseq_prune.benchmarks.speed_report import SECTIONS, TINY_SECTIONS, report
from fairseq_prune.benchmarks.training import measure_steps, training_memory, training_table
from fairseq_prune.benchmarks.updates import Batch
from fairseq_prune.inference.base import usable_device
from fairseq_prune.modules import kernels


def settings_of(args):
    """The lengths and batch sizes that the options ask for."""
    return [
        Setting(seconds, batch, args.tokens_per_second and max(1, round(args.tokens_per_second * seconds)))
        for batch in args.batch_sizes
        for seconds in args.seconds
    ]


def machine(device):
    """What the figures were taken on, and what its products reach."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    found = ", ".join(f"{way} {gflops:.0f}" for way, gflops in kernels.peaks().items())
    return f"{kernels.machine()}; matrix products reach (GFLOP/s): {found}"


def add_options(add, report):
    """Those of all programs that measure, which write ``report``.md and so on."""
    add("--beam", type=positive(int), default=5, help="beam size (default: 5)")
    add(
        "--memory", action="store_true", help="measure peak memory too, of each entry in a process of its own"
    )
    add("--device", default="cpu", help="cpu (default), cuda, cuda:1, ...")
    add(
        "--threads", type=positive(int), default=torch.get_num_threads(), help="of the CPU (default: torch's)"
    )
    add(
        "--processor-time",
        action="store_true",
        help="instead of wall-clock; for busy machines, with --threads 1",
    )
    add(
        "--out",
        type=Path,
        default=Path("report"),
        help=f"folder for {report}.md, .json, .png (default: report)",
    )


def measure_all(specs, args, device, **more):
    """Measurements of the entries, a list for each setting; with their memory if that is asked for."""
    settings = settings_of(args)
    sizes = TINY if getattr(args, "tiny", False) else None
    entries = [build_entry(spec, device, args.beam, sizes) for spec in specs]
    turns = measure(entries, settings, device, args.rounds, args.beam, processor=args.processor_time, **more)
    measured = list(tqdm(turns, desc="timing", total=len(settings), unit="setting"))
    del entries
    if args.memory:
        for i, spec in enumerate(tqdm(specs, desc="memory", unit="model")):
            peaks = peak_memory(spec, settings, args.device, args.beam, args.threads)
            for group, peak in zip(measured, peaks):
                group[i].memory = peak
    return measured


def generate(specs, args):
    """Measure steps of generation, write benchmark_generation.md and print it."""
    kind = "processor time" if args.processor_time else "wall-clock"
    tasks = [
        Task(
            seconds,
            batch,
            beam,
            max(1, round(args.tokens_per_second * seconds)) if args.tokens_per_second else 20,
        )
        for seconds in args.seconds
        for batch in args.batch_sizes
        for beam in args.beams
    ]
    bandwidth = copy_bandwidth(args.processor_time)
    groups = measure_generation(specs, tasks, args.rounds, args.processor_time, TINY if args.tiny else None)
    about = f"{machine(torch.device('cpu'))}; a copy reads and writes {bandwidth / 1e9:.1f} GB/s; {args.rounds} rounds,"
    publish(f"{about} {kind}.\n\n{generation_table(groups, bandwidth)}", args.out, "benchmark_generation")


def publish(text, out, name):
    """Write a report and print it."""
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.md").write_text(text, encoding="utf-8")
    print(f"{text}\nWritten: {out}/{name}.md")


def train(specs, args, device):
    """Measure steps of training, write benchmark_training.md and print it."""
    kind = "processor time" if args.processor_time else "wall-clock"
    parts = [f"{machine(device)}; training in float32; {args.rounds} rounds, {kind}.\n"]
    for setting in settings_of(args):
        tokens = max(1, round((args.tokens_per_second or 5) * setting.seconds))
        batch = Batch(setting.seconds, setting.batch, tokens)
        sizes = TINY if args.tiny else None
        groups = list(measure_steps(specs, batch, device, args.rounds, args.processor_time, sizes))
        if args.memory:
            for m in (m for group in groups for m in group):
                spec = next(spec for spec in specs if str(spec) == m.name)
                m.memory = training_memory(spec, batch, args.device, args.threads, sizes)
        parts.append(f"{batch.batch} utterances of {batch.seconds:g} s, {tokens} tokens each\n")
        parts.append(training_table(groups, reading_seconds(batch, args.processor_time)))
    publish("\n".join(parts), args.out, "benchmark_training")


def main(args):
    if bool(args.entries) == bool(args.report):
        raise ValueError("expected either entries or --report")
    if args.report:
        report(Path(__file__), args.report, TINY_SECTIONS if args.quick else SECTIONS)
        print(f"Written: {args.report}")
        return
    torch.set_num_threads(args.threads)
    device = usable_device(args.device)
    specs = [Spec.parse(text) for text in args.entries]
    if args.train:
        train(specs, args, device)
        return
    if args.generate:
        if device.type != "cpu":
            raise ValueError(f"--generate: found --device {args.device}, expected cpu")
        generate(specs, args)
        return
    measured = measure_all(specs, args, device, stage_rounds=args.stage_rounds)
    kind = "processor time" if args.processor_time else "wall-clock"
    what = f"beam {args.beam}, {args.tokens_per_second:g} tokens/s" if args.tokens_per_second else "encoders"
    about = f"{machine(device)}; {what}; {args.rounds} rounds, {kind}."
    if device.type == "cpu":
        about += f" Kernels: {kernels.kernels_for() or 'those of torch'}."
    print(write_report(measured, about, args.out, "benchmark"))
    print(f"Written: {args.out}/benchmark.md, .json, .png")


if __name__ == "__main__":
    parser = PlainParser(__doc__)
    add = parser.add_argument
    add("entries", nargs="*", metavar="ENTRY", help="checkpoint or architecture, with options: see above")
    add(
        "--seconds",
        type=positive(float),
        nargs="+",
        default=[1, 3, 10, 30],
        help="lengths of utterances (default: 1 3 10 30)",
    )
    add(
        "--batch-sizes",
        type=positive(int),
        nargs="+",
        default=[1, 8],
        help="utterances at a time (default: 1 8)",
    )
    add(
        "--tokens-per-second",
        type=positive(float),
        default=0,
        help="of audio: translate by beam search into so many tokens (default: encoders alone)",
    )
    add("--train", action="store_true", help="measure steps of training")
    add("--generate", action="store_true", help="measure steps of generation")
    add("--beams", type=positive(int), nargs="+", default=[1, 5], help="of --generate (default: 1 5)")
    add("--report", type=Path, help="write all tables of docs/speed.md to this file")
    add("--quick", action="store_true", help="a few tables of tiny models for --report, to try it")
    add("--tiny", action="store_true", help="tiny models instead of the published sizes, to try a command")
    add("--rounds", type=positive(int), default=5, help="timed rounds (default: 5)")
    add("--stage-rounds", type=positive(int), default=3, help="rounds in which stages are timed (default: 3)")
    add_options(add, "benchmark")
    run(main, parser)
