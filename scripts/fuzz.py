#!/usr/bin/env python
"""Damage the input of every command, and see that each answers with one line or does its work.

    python scripts/fuzz.py                                  440 cases, drawn from all, some minutes
    python scripts/fuzz.py --cases 0 --jobs 4               all of them
    python scripts/fuzz.py --only "generate|translate"      of commands and mutations that this expression finds

Small models and tones are made first, and each command has to work on them. A case is a command on a copy of them
in which one file is changed. Found is a traceback, an end by a signal, an end without a line that begins with
"error:", more than --seconds, a bad input that was taken, and a file under its final name that is not whole.
The table counts the cases by kind; the exit status is 1 if anything was found.

Over 300 lines: a third is the table of all commands and their files.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # forks do not inherit threads

import importlib
import json
import logging
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import soundfile
import yaml
from _forks import become, leave
from _mutations import MUTATIONS
from tqdm import tqdm

from fairseq_prune.command_line import PlainParser, finish

ROOT = Path(__file__).resolve().parent.parent
CHECKPOINTS = ROOT / "tests" / "checkpoints" / "of_5d3c2e6"
PRELOAD = (
    "fairseq_cli.hydra_train fairseq_cli.generate fairseq_cli.validate fairseq_prune.inference.translation"
    " fairseq_prune.inference.understanding fairseq_prune.inference.recognition fairseq_prune.preparation.speech"
    " fairseq_prune.preparation.audio fairseq_prune.preparation.digits pandas torchaudio"
    " transformers.models.whisper.modeling_whisper"
).split()
HYDRAS = "Set the environment variable HYDRA_FULL_ERROR=1"  # the last line of what hydra says of its files
MEMORY = 4 << 30  # bytes that a case may ask for beside what its fork begins with
SPOKEN = "audio/2_ann_7.wav"  # of the split dev, as prep_speech.py orders it
ST = f"--user-dir {ROOT}/fairseq_prune --task speech_translation --cpu"
ASR = f"--user-dir {ROOT}/fairseq_prune --task audio_finetuning --labels ltr --cpu"
TRAIN = (
    "--optimizer adam --lr 1e-3 --max-tokens 64000 --train-subset train --valid-subset dev --max-update 1"
    " --no-epoch-checkpoints --log-format simple"
)
TRAIN_ST = (
    f"fairseq-train st {ST} {TRAIN} --arch hubert_deltalm_tiny --criterion speech_translation"
    " --hubert-layers 2 --hubert-embed-dim 32 --hubert-ffn-embed-dim 48 --hubert-conv-pos-groups 4"
    " --hubert-conv-layers [(16,10,5),(16,8,4),(16,8,4),(16,8,4)] --deltalm-embed-dim 32 --deltalm-ffn-embed-dim 48"
)
TRAIN_ASR = f"fairseq-train asr {ASR} {TRAIN} --arch hubert_ctc_parp --criterion ctc --post-process letter"
TRAIN_ASR += " --prune-sparsity 0.5 --w2v-path encoder.pt"
GENERATION = "--max-tokens 64000 --beam 2 --max-len-b 9"
SPEECH = "data_prep/prep_speech.py --table table.csv --split-column split --out"
DIGITS = "data_prep/prep_digits.py --fsdd fsdd --task asr --train-utterances 3 --dev-utterances 2 --test-utterances 2"
DIGITS += " --train-indices 0 --dev-indices 1 --test-indices 2"
RECIPE = {
    "common": {"user_dir": str(ROOT / "fairseq_prune"), "cpu": True},
    "task": {"_name": "ssl_distillation", "data": "ssl", "min_sample_size": 1000, "max_sample_size": 6400},
    "model": {"_name": "dphubert", "teacher_path": "encoder.pt", "distill_layers": "0|1,2"},
    "criterion": {"_name": "distill_prune", "target_sparsity": 0.5},
    "optimizer": {"_name": "adam_with_gates", "gate_lr": 0.1},
    "lr_scheduler": {"_name": "fixed"},
    "optimization": {"max_update": 1, "lr": [0.001]},
    "dataset": {"max_tokens": 64000, "valid_subset": "valid"},
    "checkpoint": {"save_dir": "out", "no_epoch_checkpoints": True},
}
PREPARED = [
    f"{SPEECH} st --task speech_translation --vocab-size 16 --src-vocab-size 16",
    f"{SPEECH} asr --task audio_finetuning --upper",
    f"{SPEECH} slu --task spoken_language_understanding",
    "data_prep/prep_audio.py --audio audio --valid-share 0.3 --out ssl",
    "scripts/compress_hubert.py --checkpoint distillation.pt --out encoder.pt",
    "scripts/export.py --checkpoint understanding.pt --format hf --out hf",
    "scripts/export.py --checkpoint understanding.pt --format ctranslate2 --out ct2",
    "scripts/export.py --checkpoint encoder.pt --format hf --out hubert",
    "scripts/export.py --checkpoint encoder.pt --format dphubert --out encoder.pth",
    f"{TRAIN_ST} --save-dir st_run",
]
# a command, and the files that are changed for it, each with the kinds of its changes
COMMANDS = {
    f"scripts/translate.py --checkpoint translation.pt {SPOKEN}": {
        "translation.pt": "checkpoint options",
        SPOKEN: "audio",
    },
    f"scripts/transcribe.py --checkpoint recognition.pt {SPOKEN}": {
        "recognition.pt": "checkpoint options",
        SPOKEN: "audio",
    },
    f"scripts/transcribe.py --checkpoint understanding.pt --language en {SPOKEN}": {
        "understanding.pt": "checkpoint options",
        SPOKEN: "audio",
    },
    f"scripts/understand.py --checkpoint understanding.pt {SPOKEN}": {
        "understanding.pt": "checkpoint options",
        SPOKEN: "audio",
    },
    "scripts/export.py --checkpoint understanding.pt --format hf --out out": {
        "understanding.pt": "checkpoint options"
    },
    "scripts/export.py --checkpoint encoder.pt --format dphubert --out out.pth": {
        "encoder.pt": "checkpoint options"
    },
    "scripts/sparsity.py report recognition.pt --csv out.csv": {"recognition.pt": "checkpoint options"},
    "scripts/sparsity.py finalize recognition.pt --out out.pt": {"recognition.pt": "checkpoint options"},
    f"scripts/prune_weights.py --checkpoint understanding.pt --sparsity 0.3 --out out.pt {SPOKEN}": {
        "understanding.pt": "checkpoint options",
        SPOKEN: "audio",
    },
    "scripts/prune_weights.py --checkpoint recognition.pt --score magnitude --sparsity 0.5 --out out.pt": {
        "recognition.pt": "checkpoint options"
    },
    "scripts/prune_layers.py --checkpoint understanding.pt --decoder 1 --out out.pt": {
        "understanding.pt": "checkpoint options"
    },
    "scripts/prune_vocab.py --checkpoint understanding.pt --text slu/train.tsv --out out": {
        "understanding.pt": "checkpoint options",
        "slu/train.tsv": "text",
    },
    "scripts/compress_hubert.py --checkpoint distillation.pt --out out.pt": {
        "distillation.pt": "checkpoint options"
    },
    f"scripts/extract_features.py --checkpoint encoder.pt {SPOKEN} --out out": {
        "encoder.pt": "checkpoint options",
        SPOKEN: "audio",
    },
    "scripts/import_whisper.py --from hf --out out.pt": {
        "hf/config.json": "json text",
        "hf/tokenizer.json": "json text",
        "hf/generation_config.json": "json",
        "hf/model.safetensors": "bytes",
    },
    "scripts/import_whisper.py --from ct2 --out out.pt": {
        "ct2/config.json": "json",
        "ct2/tokenizer.json": "json",
        "ct2/model.bin": "bytes",
    },
    f"scripts/extract_features.py --checkpoint hubert {SPOKEN} --out out": {
        "hubert/config.json": "json text",
        "hubert/preprocessor_config.json": "json",
        "hubert/model.safetensors": "bytes",
    },
    f"scripts/extract_features.py --checkpoint encoder.pth {SPOKEN} --out out": {"encoder.pth": "bytes"},
    "scripts/average_checkpoints.py st_run/checkpoint_last.pt st_run/checkpoint_best.pt --out out.pt": {
        "st_run/checkpoint_best.pt": "checkpoint options"
    },
    f"{SPEECH} out --task audio_finetuning --upper": {"table.csv": "text", SPOKEN: "audio"},
    f"{SPEECH} out --task spoken_language_understanding": {"table.csv": "text"},
    "data_prep/prep_audio.py --audio audio --valid-share 0.3 --convert --out out": {SPOKEN: "audio"},
    f"{DIGITS} --out out": {"fsdd/3_ann_0.wav": "audio"},
    f"fairseq-generate st {ST} --gen-subset dev --path st_run/checkpoint_best.pt {GENERATION}": {
        "st_run/checkpoint_best.pt": "checkpoint options",
        "st/dev.tsv": "text",
        "st/dict.txt": "text",
        "st/config.yaml": "text yaml",
        "st/spm.model": "bytes",
        SPOKEN: "audio",
    },
    f"fairseq-validate st {ST} --valid-subset dev --max-tokens 64000 --path st_run/checkpoint_best.pt": {
        "st_run/checkpoint_best.pt": "checkpoint options",
        SPOKEN: "audio",
    },
    f"{TRAIN_ST} --save-dir out --restore-file st_run/checkpoint_last.pt --max-update 2": {
        "st_run/checkpoint_last.pt": "checkpoint",
        "st/train.tsv": "text",
        SPOKEN: "audio",
    },
    f"{TRAIN_ST} --save-dir out --finetune-from-model st_run/checkpoint_best.pt": {
        "st_run/checkpoint_best.pt": "checkpoint"
    },
    f"{TRAIN_ASR} --save-dir out": {"encoder.pt": "checkpoint options", "asr/train.ltr": "text"},
    # not recipe.yaml: hydra reads it before it knows of this package
    "fairseq-hydra-train --config-dir . --config-name recipe hydra.run.dir=.": {
        "encoder.pt": "checkpoint options",
        "ssl/train.tsv": "text",
    },
}


def make_recordings(folder):
    """Tones of half a second, a table of them, and digits as in the Free Spoken Digit Dataset."""
    generator, rows = np.random.default_rng(0), ["audio,text,translation,parse,split"]
    words = ["one two", "two three one", "four", "three four two", "one four three two"]
    translations = ["eins zwei", "zwei drei eins", "vier", "drei vier zwei", "eins vier drei zwei"]

    def write(name, number):
        time_ = np.arange(8000 + 800 * (number % 5))
        tone = 0.2 * np.sin(time_ * (0.05 + 0.02 * (number % 5))) + 0.02 * generator.standard_normal(
            len(time_)
        )
        soundfile.write(folder / name, tone, 16000)

    for name in ("audio", "fsdd"):
        (folder / name).mkdir()
    for number in range(10):
        name, text = f"audio/{number % 5}_ann_{number}.wav", words[number % 5]
        write(name, number)
        split = "train" if number < 7 else "dev"
        rows.append(f"{name},{text},{translations[number % 5]},[IN:A [SL:B {text} ] ],{split}")
        for index in range(3):
            write(f"fsdd/{number}_ann_{index}.wav", number)
    (folder / "table.csv").write_text("\n".join(rows) + "\n")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))


def begin(command, folder):
    """Start a command in ``folder``; the id of its process, which leads a group."""
    program, *words = command.split(" ")
    program = ROOT / program if "/" in program else Path(sys.executable).parent / program
    child = os.fork()
    if not child:
        os.setsid()
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY,) * 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        logging.disable(logging.NOTSET)
        leave(become(str(program), words, folder, folder.parent / "stdout", folder.parent / "stderr"))
    return child


def problem(path):
    """What is wrong with a file that a command has left; empty if it is whole."""
    from fairseq_prune.checkpoints.loading import load_checkpoint_file

    if "unfinished" in str(path) or not path.stat().st_size:
        return "left unfinished" if "unfinished" in str(path) else "empty"
    readers = {".npy": np.load, ".json": lambda path: json.loads(path.read_text()), ".wav": soundfile.read}
    readers |= dict.fromkeys((".pt", ".safetensors"), load_checkpoint_file)
    try:
        readers.get(path.suffix, lambda path: None)(path)
    except Exception as error:  # whatever a reader says of a broken file
        return f"{type(error).__name__}: {error}"
    return ""


def found(folder, before, status, refusable):
    """[(what, text)] that is wrong with a case that has ended."""
    said = (folder.parent / "stdout").read_text(errors="replace")
    told = (folder.parent / "stderr").read_text(errors="replace")
    last = (told.strip() or said.strip() or " ").splitlines()[-1][:300]
    wrong = []
    if "Traceback (most recent call last)" in said + told:
        wrong.append(("tracebacks", last))
    elif status < 0:
        wrong.append(("hangs" if status == -signal.SIGKILL else "crashes", f"signal {-status}; {last}"))
    elif status > 0 and not last.startswith(("error: ", HYDRAS)):
        wrong.append(("unclear", last))
    elif status == 0 and refusable:
        wrong.append(("taken", last))
    new = [path for path in folder.rglob("*") if path.is_file() and path not in before]
    for path in new:
        if path.suffix == ".log" or ".hydra" in path.parts:
            continue
        reason = problem(path)
        if not reason and status and path.suffix not in (".pt", ".npy"):
            reason = "written by a command that failed"
        if reason:
            wrong.append(("not whole", f"{path.relative_to(folder)}: {reason}"))
    return wrong


class Case:
    """A command, the file that is changed for it, and how."""

    def __init__(self, command, file=None, kind="none", name="none"):
        self.command, self.file, self.kind, self.name = command, file, kind, name
        change = MUTATIONS[kind][name] if file else None
        self.change, self.refusable = change or (None, False)

    def __str__(self):
        program = self.command.split()[0].rpartition("/")[2]
        return f"{program} {self.file}: {self.kind}, {self.name}"

    def start(self, base, place, seed):
        """Begin it in a copy of ``base`` at ``place``."""
        self.folder = place / "work"
        shutil.copytree(base, self.folder)
        for path in [*self.folder.rglob("*.tsv"), *self.folder.rglob("*.yaml")]:
            path.write_bytes(path.read_bytes().replace(str(base).encode(), str(self.folder).encode()))
        if self.file:
            self.change(self.folder / self.file, random.Random(f"{seed} {self}"))
        self.before, self.since = set(self.folder.rglob("*")), time.monotonic()
        self.process = begin(self.command, self.folder)


def run_cases(cases, base, args):
    """Run them, --jobs at a time; yields (case, seconds, megabytes, [(what, text)]) as they end."""
    waiting, running = list(reversed(cases)), []
    with tempfile.TemporaryDirectory(prefix="fuzz-") as root:
        while waiting or running:
            while waiting and len(running) < args.jobs:
                case = waiting.pop()
                case.start(base, Path(tempfile.mkdtemp(dir=root)), args.seed)
                running.append(case)
            time.sleep(0.02)
            for case in list(running):
                process, status, usage = os.wait4(case.process, os.WNOHANG)
                seconds = time.monotonic() - case.since
                if not process and seconds > args.seconds:
                    os.killpg(case.process, signal.SIGKILL)
                    process, status, usage = os.wait4(case.process, 0)
                if process:
                    running.remove(case)
                    status = os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status)
                    yield (
                        case,
                        seconds,
                        usage.ru_maxrss / 1024,
                        found(case.folder, case.before, status, case.refusable),
                        status,
                    )
                    shutil.rmtree(case.folder.parent)


def chosen(args):
    """The cases of a run: from each kind as many, in an order that the seed gives."""
    every = [
        Case(command, file, kind, name)
        for command, files in COMMANDS.items()
        for file, kinds in files.items()
        for kind in kinds.split()
        for name in MUTATIONS[kind]
    ]
    every = [case for case in every if re.search(args.only, str(case))]
    random.Random(args.seed).shuffle(every)
    if not 0 < args.cases < len(every):
        return every
    kinds, taken = Counter(case.kind for case in every), []
    share = args.cases / len(every)
    for case in every:
        if sum(other.kind == case.kind for other in taken) < share * kinds[case.kind]:
            taken.append(case)
    return taken


def table(ended):
    """A row a kind."""
    columns = "cases done refused tracebacks crashes hangs unclear taken".split() + ["not whole"]
    rows = {kind: Counter() for kind in [*MUTATIONS, "all"]}
    for case, _, _, wrong, status in ended:
        for row in (rows[case.kind], rows["all"]):
            row.update(["cases", "refused" if status else "done", *(what for what, _ in wrong)])
    lines = [f"{'kind':<11}" + "".join(f"{name:>11}" for name in columns)]
    lines += [f"{kind:<11}" + "".join(f"{row[name]:>11}" for name in columns) for kind, row in rows.items()]
    return "\n".join(lines)


def main(args):
    for name in PRELOAD:
        importlib.import_module(name)
    with tempfile.TemporaryDirectory(prefix="fuzz-base-") as root:
        base = Path(root) / "base"
        base.mkdir()
        for path in CHECKPOINTS.glob("*.pt"):
            shutil.copy(path, base)
        make_recordings(base)
        for command in PREPARED:
            if os.waitpid(begin(command, base), 0)[1]:
                raise ValueError(f"{command}: {(base.parent / 'stderr').read_text()[-2000:]}")
        for name in ("vocab.json", "merges.txt"):  # which would be read in place of tokenizer.json
            (base / "hf" / name).unlink()
        whole = [Case(command) for command in COMMANDS]
        for case, _, _, wrong, status in tqdm(run_cases(whole, base, args), "undamaged", len(whole)):
            if status or wrong:
                raise ValueError(
                    f"undamaged: {case.command}: {wrong} {(case.folder.parent / 'stderr').read_text()[-800:]}"
                )
        ended, cases = [], chosen(args)
        for result in tqdm(run_cases(cases, base, args), "damaged", len(cases)):
            ended.append(result)
            case, _, _, wrong, _ = result
            for what, text in wrong:
                tqdm.write(f"{case}: {what}: {text}", file=sys.stdout)
    print(table(ended))
    slow, big = max(ended, key=lambda row: row[1]), max(ended, key=lambda row: row[2])
    print(f"slowest: {slow[1]:.1f} s, {slow[0]}")
    print(f"largest: {big[2]:,.0f} MB, {big[0]}")
    if any(wrong for *_, wrong, _ in ended):
        sys.exit(1)


if __name__ == "__main__":
    parser = PlainParser(__doc__)
    add = parser.add_argument
    add("--cases", type=int, default=440, help="how many, drawn from all; 0: all (default: 440)")
    add("--only", default="", help="regular expression for the cases to run, as they are printed")
    add("--seed", type=int, default=1, help="of the draw and of the damage (default: 1)")
    add("--jobs", type=int, default=2, help="cases at a time (default: 2)")
    add("--seconds", type=float, default=20.0, help="a case that takes longer hangs (default: 20)")
    sys.exit(finish(main, parser.parse_args()))
