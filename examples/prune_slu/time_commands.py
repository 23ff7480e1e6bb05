#!/usr/bin/env python
"""Seconds and memory for spoken commands, one system beside the other: transformers, faster-whisper, ours, ONNX.

A system is a process of its own, with the threads of --threads; it warms up on two clips and then takes each clip
alone, greedily. The systems take turns, --repeats times, so that a machine that grows slower or faster does so for all.
Every clip is cut or filled up to --seconds, and with --tokens every system writes that many tokens: what is compared
is work, not who falls silent first. With --tokens 0 each ends where it ends, and the texts can be compared (--texts).

    python examples/prune_slu/time_commands.py --seconds 3 \\
        --system transformers=transformers:whisper_hf  --system ours-30s=ours:whisper.pt \\
        --system ours-clip=ours:whisper.pt:clip        --system student-int8=onnx:student_onnx \\
        --system faster-int8=faster-whisper:whisper_ct2:int8 --faster-whisper-python venv/bin/python  commands/*.wav

Kinds: transformers:FOLDER, faster-whisper:FOLDER:int8|float32[-silence],
ours:CHECKPOINT:30s|clip, onnx:FOLDER. Their folders are
written by scripts/export.py; faster-whisper may live in another environment.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[2]
RATE = 16000
WARM_UP = 2  # clips
LONGEST = 200  # tokens


def read_clips(paths, seconds):
    """Waveforms (samples,) float32 of --seconds each."""
    import numpy as np
    import soundfile

    clips = []
    for path in paths:
        waveform, rate = soundfile.read(path, dtype="float32")
        if rate != RATE or waveform.ndim != 1:
            raise ValueError(
                f"{path}: expected mono at {RATE} Hz, found {waveform.ndim} dimensions at {rate} Hz"
            )
        if seconds:
            waveform = np.pad(
                waveform[: int(seconds * RATE)], (0, max(0, int(seconds * RATE) - len(waveform)))
            )
        clips.append(waveform)
    return clips


def transformers_system(folder, _, threads, tokens):
    """As published: every clip filled up to 30 s by the processor."""
    import torch
    import transformers

    torch.set_num_threads(threads)
    model = transformers.WhisperForConditionalGeneration.from_pretrained(folder).eval()
    processor = transformers.WhisperProcessor.from_pretrained(folder)
    length = {"min_new_tokens": tokens, "max_new_tokens": tokens or LONGEST}

    def text(clip):
        features = processor.feature_extractor(clip, sampling_rate=RATE, return_tensors="pt").input_features
        with torch.no_grad():
            found = model.generate(features, num_beams=1, do_sample=False, **length)
        return processor.tokenizer.decode(found[0], skip_special_tokens=True)

    return text


def faster_whisper_system(folder, variant, threads, tokens):
    """CTranslate2 through faster-whisper, without its fallbacks and filters.

    It fills the features of a short clip up with zeros, which are no silence; "-silence" after the type fills up the
    audio instead, as published.
    """
    import numpy as np
    from faster_whisper import WhisperModel

    compute_type, _, silence = variant.partition("-")
    model = WhisperModel(folder, device="cpu", compute_type=compute_type or "int8", cpu_threads=threads)
    options = dict(beam_size=1, temperature=0.0, without_timestamps=True, condition_on_previous_text=False)
    options |= dict(compression_ratio_threshold=None, log_prob_threshold=None, no_speech_threshold=None)
    options |= dict(max_new_tokens=tokens or LONGEST)
    if tokens:
        options |= dict(suppress_tokens=[-1, model.hf_tokenizer.token_to_id("<|endoftext|>")])

    def text(clip):
        if silence:
            clip = np.pad(clip, (0, 30 * RATE - len(clip)))
        segments, _ = model.transcribe(clip, language="en", **options)
        return "".join(segment.text for segment in segments)

    return text


def our_system(checkpoint, context, threads, tokens):
    """This package, through fairseq's generator."""
    sys.path.insert(0, str(ROOT))
    import logging

    logging.disable(logging.INFO)
    import torch

    from fairseq_prune.inference.understanding import Understander

    torch.set_num_threads(threads)
    understander = Understander(
        checkpoint, {"audio_context": context or "30s"}, beam=1, max_tokens=tokens or 200
    )
    understander.generator.min_len = tokens or 1

    def text(clip):
        return understander.texts([torch.from_numpy(clip)], 1)[0]

    return text


def onnx_system(folder, _, threads, tokens):
    """The exported folder, with the one folder of the package that a device needs."""
    sys.path.insert(0, str(ROOT / "fairseq_prune" / "checkpoints"))
    from runtime.whisper import OnnxWhisper

    model = OnnxWhisper(folder, threads)
    if tokens:
        model.config["suppressed"] = [*model.config["suppressed"], model.config["end"]]
    return lambda clip: model.text(clip, tokens or LONGEST)


SYSTEMS = {
    "transformers": transformers_system,
    "faster-whisper": faster_whisper_system,
    "ours": our_system,
    "onnx": onnx_system,
}


def work(args):
    """One system: its seconds a clip and texts as JSON on stdout."""
    kind, path, variant = [*args.worker.split(":"), ""][:3]
    clips = read_clips(args.audio, args.seconds)
    start = time.perf_counter()
    text = SYSTEMS[kind](path, variant, args.threads, args.tokens)
    loading = time.perf_counter() - start
    for clip in clips[:WARM_UP]:
        text(clip)
    seconds, texts = [], []
    clock = time.process_time if args.processor_time else time.perf_counter
    for clip in clips:
        start = clock()
        texts.append(text(clip))
        seconds.append(clock() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "texts": texts, "loading": loading, "peak_mb": peak}))


def measure(spec, args):
    """What a process of the system says; None where the libraries of its kind are missing."""
    faster = spec.startswith("faster-whisper:")
    python = args.faster_whisper_python if faster else sys.executable
    command = [python, __file__, "--worker", spec, "--threads", args.threads, "--tokens", args.tokens]
    command += [
        "--seconds",
        args.seconds,
        *(["--processor-time"] if args.processor_time else []),
        *args.audio,
    ]
    threads = {name: str(args.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    environment = {**os.environ, **threads, "PYTHONPATH": "" if faster else os.environ.get("PYTHONPATH", "")}
    done = subprocess.run([str(word) for word in command], env=environment, capture_output=True, text=True)
    if done.returncode:
        print(f"{spec}: left out: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
        return None
    return json.loads(done.stdout.splitlines()[-1])


def main(args):
    systems = dict(system.split("=", 1) for system in args.system)
    runs = {name: [] for name in systems}
    for turn in range(args.repeats):
        for name in [name for name in systems if runs[name] is not None]:
            found = measure(systems[name], args)
            runs[name] = None if found is None else [*runs[name], found]
        print(f"turn {turn + 1} of {args.repeats} done", file=sys.stderr)
    runs = {name: found for name, found in runs.items() if found}
    if not runs:
        sys.exit("error: no system could run")
    medians = {name: median(s for run in found for s in run["seconds"]) for name, found in runs.items()}
    slowest = next(iter(medians.values()))
    what = f"{args.tokens} tokens each" if args.tokens else "greedy texts"
    what += ", processor time" if args.processor_time else ""
    print(
        f"{len(args.audio)} clips of {args.seconds} s, {what}, {args.threads} threads, {args.repeats} turns: medians"
    )
    print(
        "| system | seconds a clip | against the first | peak memory, MB | loading, s |\n|---|---|---|---|---|"
    )
    for name, found in runs.items():
        peak, loading = (median(run[key] for run in found) for key in ("peak_mb", "loading"))
        ratio = slowest / medians[name]
        print(f"| {name} | {medians[name]:.3f} | {ratio:.2f}x | {peak:.0f} | {loading:.1f} |")
    if args.texts:
        first = next(iter(runs.values()))[0]["texts"]
        for name, found in runs.items():
            same = sum(a.strip() == b.strip() for a, b in zip(found[0]["texts"], first))
            print(f"{name}: {same} of {len(first)} texts are those of the first system")
        for path, *texts in zip(args.audio, *(found[0]["texts"] for found in runs.values())):
            if len({text.strip() for text in texts}) > 1:
                print(
                    Path(path).name,
                    *(f"{name}: {text.strip()}" for name, text in zip(runs, texts)),
                    sep="\n    ",
                )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--system", action="append", default=[], metavar="NAME=KIND:PATH[:VARIANT]", help="one column; repeat"
    )
    add(
        "--faster-whisper-python", default=sys.executable, help="python of an environment with faster-whisper"
    )
    add("--seconds", type=float, default=3.0, help="length of every clip; 0: as it is (default: 3)")
    add(
        "--tokens",
        type=int,
        default=12,
        help="tokens that every system writes; 0: until it ends (default: 12)",
    )
    add("--threads", type=int, default=os.cpu_count(), help="of every system (default: all)")
    add(
        "--processor-time",
        action="store_true",
        help="seconds that the processor worked, over all threads: for machines that do other things",
    )
    add("--repeats", type=int, default=5, help="turns of every system (default: 5)")
    add("--texts", action="store_true", help="compare the texts with those of the first system")
    add("--worker", help=argparse.SUPPRESS)
    add("audio", nargs="+", help="recordings, mono at 16 kHz")
    args = parser.parse_args()
    if args.worker:
        work(args)
    else:
        main(args)
