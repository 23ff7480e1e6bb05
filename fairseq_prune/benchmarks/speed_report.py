"""The measured tables of docs/speed.md in one file: each is a run of scripts/benchmark.py, for each instruction set."""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

import fairseq_prune
from fairseq_prune.files import complete
from fairseq_prune.modules import kernels

AVX2 = {
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "ATEN_CPU_CAPABILITY": "avx2",
    "FBGEMM_ENABLE_INSTRUCTIONS": "AVX2",  # int8 of torch
    "CT2_FORCE_CPU_ISA": "AVX2",  # CTranslate2
}


@dataclass(frozen=True)
class Section:
    """A table. arguments: of scripts/benchmark.py. limited: measured with `AVX2` too, which all of its entries obey."""

    title: str
    arguments: str
    limited: bool = True


TRANSLATORS = (
    "hubert_deltalm,vocabulary=12000 hubert_deltalm,vocabulary=12000,dtype=float16"
    " hubert_deltalm,vocabulary=12000,dtype=int8 hubert_deltalm hubert_deltalm,dtype=float16 hubert_deltalm,dtype=int8"
    " transformers_mbart,vocabulary=12000 ctranslate2_mbart,vocabulary=12000"
    " ctranslate2_mbart,vocabulary=12000,dtype=int8"
)
TRAINING = "--train --seconds 5 --batch-sizes 4 --memory --rounds 1"
SECTIONS = (
    Section(
        "Encoders",
        "fairseq torchaudio transformers_sdpa hubert_base hubert_base,keep=0.8 hubert_base,dtype=int8"
        " --seconds 1 3 10 --batch-sizes 1 --rounds 2 --stage-rounds 1",
    ),
    Section(
        "Encoders: long utterances",
        "fairseq hubert_base hubert_base,keep=0.8 --seconds 30 --batch-sizes 1 --rounds 1 --stage-rounds 1",
    ),
    Section(
        "Encoders: batches",
        "fairseq hubert_base --seconds 1 10 --batch-sizes 8 --rounds 1 --stage-rounds 1",
    ),
    Section(
        "Encoders in other engines",
        # not transformers_compiled, which compiles for minutes
        "hubert_base hubert_base,dtype=int8 onnx onnx,dtype=int8 onnx_transformers openvino openvino,dtype=int8"
        " --seconds 3 10 --batch-sizes 1 --rounds 2 --stage-rounds 1",
        limited=False,
    ),
    Section(
        "Encoders: HuBERT large",
        "hubert_large hubert_large,dtype=int8 ctranslate2_wav2vec2 ctranslate2_wav2vec2,dtype=int8"
        " --seconds 3 10 --batch-sizes 1 --rounds 2 --stage-rounds 1",
    ),
    Section(
        "Token pruning",
        "hubert_base hubert_base,keep=0.9 plain_pruning,keep=0.9 hubert_base,keep=0.8 plain_pruning,keep=0.8"
        " hubert_base,keep=0.7 plain_pruning,keep=0.7"
        " --seconds 10 30 --batch-sizes 1 --rounds 1 --stage-rounds 1",
    ),
    Section(
        "Token pruning: memory",
        "hubert_base hubert_base,keep=0.8 plain_pruning,keep=0.8"
        " --seconds 10 30 60 120 --batch-sizes 1 --rounds 1 --stage-rounds 1 --memory",
        limited=False,
    ),
    Section("Training: speech translation", f"st_fairseq st st,keep=0.9 st,keep=0.8 {TRAINING}"),
    Section("Training: DPHuBERT", f"plain_dphubert dphubert dphubert_second {TRAINING}"),
    Section("Training: recognition", f"ctc parp {TRAINING}"),
    Section("Training: understanding", f"slu_transformers slu {TRAINING}"),
    Section(
        "Generation: one sentence",
        f"{TRANSLATORS} --generate --seconds 3 --batch-sizes 1 --beams 1 5 --rounds 2",
    ),
    Section(
        "Generation: the likeliest tokens alone in full",
        "hubert_deltalm hubert_deltalm,preview=384 hubert_deltalm,preview=192 hubert_deltalm,dtype=float16"
        " hubert_deltalm,preview=384,dtype=float16 whisper_base,dtype=float16 whisper_base,preview=256,dtype=float16"
        " whisper_tiny,dtype=float16 whisper_tiny,preview=192,dtype=float16"
        " --generate --seconds 3 --batch-sizes 1 --beams 1 5 --rounds 2",
    ),
    Section(
        "Generation: batches",
        f"{TRANSLATORS} --generate --seconds 3 --batch-sizes 8 32 --beams 5 --rounds 1",
        limited=False,  # it takes long
    ),
    Section(
        "Generation: Whisper",
        "whisper_base whisper_base,dtype=float16 whisper_base,dtype=int8 whisper_tiny whisper_tiny,dtype=float16"
        " whisper_tiny,dtype=int8 --generate --seconds 30 --batch-sizes 1 --beams 1 5 --rounds 2",
        limited=False,
    ),
    Section(
        "Generation: Whisper, batches",
        "whisper_base whisper_base,dtype=float16 whisper_base,dtype=int8 whisper_tiny whisper_tiny,dtype=float16"
        " whisper_tiny,dtype=int8 --generate --seconds 30 --batch-sizes 8 32 --beams 5 --rounds 1",
        limited=False,  # it takes long
    ),
)
TINY_SECTIONS = (
    Section(
        "Encoders", "fairseq hubert_base --tiny --seconds 0.5 --batch-sizes 1 --rounds 1 --stage-rounds 1"
    ),
    Section(
        "Generation",
        "hubert_deltalm,vocabulary=50 --tiny --generate --seconds 0.5 --batch-sizes 1 --beams 2 --rounds 1",
        limited=False,
    ),
)


def report(program: Path, out: Path, sections: Sequence[Section] = SECTIONS) -> None:
    """Write the tables: on one thread, in the processor's time, with this machine's instructions, then with AVX2 alone.

    Each table is kept in the folder ``OUT.parts`` as soon as it is made. A report that was stopped goes on from there,
    on the same machine and with the same code.

    Args:
        program: scripts/benchmark.py.
        out: the file, which is written when all is measured; the folder is then removed.

    Raises:
        RuntimeError: a run ended with an error, whose last line is in the message.
    """
    runs = [(kernels.instructions(), {}, section) for section in sections]
    if kernels.instructions() != "AVX2":
        runs += [("AVX2", AVX2, section) for section in sections if section.limited]
    folder, code = out.with_name(f"{out.name}.parts"), _digest_of_code(program)
    parts: list[Path] = []
    for instructions, limits, section in tqdm(runs, desc="report", unit="table"):
        settings = "".join(f"{name}={value} " for name, value in limits.items())
        arguments = f"{section.arguments} --threads 1 --processor-time"
        command = f"{settings}python scripts/benchmark.py {arguments}"
        key = hashlib.sha256(f"{command}\n{kernels.machine()}\n{code}".encode()).hexdigest()
        part = folder / f"{key}.md"
        parts.append(part)
        if not part.exists():
            table = _run(program, arguments.split(), limits)
            with complete(part) as aside:
                text = f"## {section.title}, {instructions}\n\n    {command}\n\n{table}"
                aside.write_text(text, encoding="utf-8")
    with complete(out, overwrite=True) as aside:
        aside.write_text("\n".join(part.read_text(encoding="utf-8") for part in parts), encoding="utf-8")
    shutil.rmtree(folder)


def _digest_of_code(program: Path) -> str:
    """Of the program and of this package: tables of other code would not be comparable."""
    digest = hashlib.sha256()
    for path in [program, *sorted(Path(fairseq_prune.__file__).parent.rglob("*.py"))]:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _run(program: Path, arguments: Sequence[str], limits: dict[str, str]) -> str:
    """What the program writes into its folder as markdown."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, program, *arguments, "--out", folder],
            env={**os.environ, **limits},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise RuntimeError(
                f"{' '.join(arguments)}: {(done.stderr.strip().splitlines() or ['no error'])[-1]}"
            )
        (written,) = Path(folder).glob("*.md")
        return written.read_text(encoding="utf-8")
