"""A tiny corpus of tones in the layout of MuST-C, and the command that prepares it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import soundfile

ROOT = Path(__file__).resolve().parent.parent
WORDS = {"one": "eins", "two": "zwei", "three": "drei", "four": "vier", "five": "fünf", "six": "sechs"}
RATE = 8000  # Hz; not that of the models, so that resampling is part of every test
WORD_SECONDS = 0.1
SEGMENTS = {"train": 12, "dev": 3, "tst-COMMON": 3}  # in each talk


def tone(word: str) -> np.ndarray:
    """A word as a tone of its own frequency, float ``(WORD_SECONDS * RATE,)``."""
    time = np.arange(round(WORD_SECONDS * RATE)) / RATE
    return 0.3 * np.sin(2 * np.pi * (300 + 200 * list(WORDS).index(word)) * time)


def write_talk(path: Path, texts: list) -> list:
    """Write a talk with 0.2 s of quiet noise around its segments; (offset, duration) in seconds of each."""
    noise = np.random.default_rng(len(texts))
    parts, times, offset = [], [], 0
    for text in texts:
        pause = 0.001 * noise.standard_normal(RATE // 5)
        speech = np.concatenate([tone(word) for word in text])
        parts += [pause, speech]
        times.append(((offset + len(pause)) / RATE, len(speech) / RATE))
        offset += len(pause) + len(speech)
    soundfile.write(path, np.concatenate([*parts, np.zeros(RATE // 5)]), RATE, subtype="PCM_16")
    return times


def write_corpus(root: Path) -> None:
    """Write a tiny corpus in MuST-C's layout: two talks a split, words are tones, German is reversed."""
    rng = np.random.default_rng(1)
    for split, count in SEGMENTS.items():
        folder = root / "en-de" / "data" / split
        (folder / "wav").mkdir(parents=True)
        (folder / "txt").mkdir()
        rows, lines = [], []
        for talk in (1, 2):
            texts = [list(rng.choice(list(WORDS), rng.integers(2, 6))) for _ in range(count)]
            name = f"ted_{split}_{talk}.wav"
            for text, (offset, duration) in zip(texts, write_talk(folder / "wav" / name, texts)):
                rows.append(
                    f"- {{duration: {duration:.6f}, offset: {offset:.6f}, rW: {len(text)}, uW: 0, "
                    f"speaker_id: spk.{talk}, wav: {name}}}\n"
                )
                lines.append(text)
        txt = folder / "txt"
        (txt / f"{split}.yaml").write_text("".join(rows), encoding="utf-8")
        (txt / f"{split}.en").write_text("".join(" ".join(words) + "\n" for words in lines), encoding="utf-8")
        german = [" ".join(WORDS[word] for word in reversed(words)) for words in lines]
        (txt / f"{split}.de").write_text("".join(text + "\n" for text in german), encoding="utf-8")


def run_prep_mustc(root: Path, out: Path, *options: str) -> subprocess.CompletedProcess:
    """Run data_prep/prep_mustc.py as a user does."""
    command = [sys.executable, ROOT / "data_prep" / "prep_mustc.py", "--data-root", root, "--tgt-lang", "de"]
    command += ["--out", out, "--workers", "2", *options]
    return subprocess.run([str(word) for word in command], capture_output=True, text=True)
