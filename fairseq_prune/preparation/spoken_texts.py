"""Speech for a folder of texts, synthesised in several voices: a data folder for training.

    make_speech.py texts --out data --voices en-us en-gb+f2 en-gb-scotland --test-voices en-us+f4 en-gb+m3

A stand-in where the audio of a corpus cannot be had. Each training text is spoken --copies times, each time by another
voice, each time at another rate and pitch; dev and test texts once. Voices of the test split are in no other.

Voices are those of espeak-ng, a language with or without a variant, and hibari, which is neural (pip install
hibari-tts).
"""

import argparse
from pathlib import Path
from typing import Union

import numpy as np
from tqdm import tqdm

from fairseq_prune.command_line import PlainParser, finish
from fairseq_prune.data.audio import SAMPLE_RATE, resample, write_audio
from fairseq_prune.data.manifest import Utterance, write_manifest
from fairseq_prune.files import complete_folder
from fairseq_prune.preparation.layouts.mustc import add_range
from fairseq_prune.preparation.layouts.slu_texts import LABELS, SPLITS, SUFFIX, Text, read_texts
from fairseq_prune.preparation.options import add_output, add_seed
from fairseq_prune.preparation.synthesis.espeak import Espeak, check_ranges
from fairseq_prune.preparation.synthesis.hibari import VOICE as HIBARI
from fairseq_prune.preparation.synthesis.hibari import Hibari

VOICES = ("en-us", "en-gb", "en-us+f1", "en-gb+f2", "en-us+m3", "en-gb-x-rp+m1")
TEST_VOICES = ("en-us+f4", "en-gb+m7", "en-gb-x-rp+f3")


def load_voices(voices: list[str], test_voices: list[str], copies: int) -> dict[str, Union[Espeak, Hibari]]:
    """The synthesiser of each voice.

    Raises:
        ImportError: a synthesiser is not installed.
        ValueError: a voice that espeak-ng has not, one in both lists, or more copies than voices.
    """
    names = dict.fromkeys([*voices, *test_voices])
    engines = {HIBARI: Hibari()} if HIBARI in names else {}
    if set(names) - {HIBARI}:
        espeak = Espeak()
        for voice in names:
            if voice != HIBARI:
                espeak.check_voice(voice)
                engines[voice] = espeak
    common = sorted(set(voices) & set(test_voices))
    if common:
        raise ValueError(f"--test-voices {common[0]}: also among --voices, which speak the training texts")
    if not 1 <= copies <= len(set(voices)):
        raise ValueError(f"--copies {copies}: expected 1 to {len(set(voices))}, the number of --voices")
    return engines


def speak(
    engine: Union[Espeak, Hibari], text: Text, voice: str, args: argparse.Namespace, rng: np.random.Generator
) -> np.ndarray:
    """Samples at 16 kHz ``(samples,)`` of a text, at a random rate and pitch."""
    rate, pitch = (int(rng.integers(low, high + 1)) for low, high in (args.rate, args.pitch))
    waveform = engine.synthesize(text.src_text, voice, rate, pitch)
    return resample(waveform, engine.sample_rate, SAMPLE_RATE)


def prepare(args: argparse.Namespace) -> None:
    """Check the options, then write the folder args.out; raises as the checks do."""
    check_ranges(args.rate, args.pitch)
    texts = {split: read_texts(args.texts / f"{split}{SUFFIX}") for split in SPLITS}
    engines = load_voices(args.voices, args.test_voices, args.copies)
    with complete_folder(args.out, args.overwrite) as folder:
        for place, split in enumerate(SPLITS):
            rng = np.random.default_rng((args.seed, place))
            voices = args.test_voices if split == "test" else args.voices
            copies = args.copies if split == "train" else 1
            (folder / "audio" / split).mkdir(parents=True)
            rows = []
            for text in tqdm(texts[split], desc=split, unit="text"):
                for voice in rng.permutation(voices)[:copies]:
                    name = f"{text.id}-{voice}"
                    audio = Path("audio") / split / f"{name}.flac"
                    waveform = speak(engines[voice], text, voice, args, rng)
                    write_audio(folder / audio, waveform, SAMPLE_RATE)
                    rows.append(
                        Utterance(
                            name, str(audio), 0, len(waveform), text.src_text, text.tgt_text, str(voice)
                        )
                    )
            write_manifest(folder / f"{split}.tsv", rows)
            hours = sum(row.n_frames for row in rows) / SAMPLE_RATE / 3600
            print(f"{split}: {len(rows):,} utterances, {hours:.2f} h, voices {' '.join(voices)}")
        if (args.texts / LABELS).is_file():
            (folder / LABELS).write_bytes((args.texts / LABELS).read_bytes())


def make_parser() -> PlainParser:
    parser = PlainParser(__doc__)
    add = parser.add_argument
    add("texts", type=Path, help="folder of prep_slurp.py --text-only, or of another preparation")
    add_output(parser, "data folder to write")
    add("--voices", nargs="+", default=list(VOICES), help=f"of training and dev ({' '.join(VOICES)})")
    add(
        "--test-voices",
        nargs="+",
        default=list(TEST_VOICES),
        help=f"of the test split ({' '.join(TEST_VOICES)})",
    )
    add(
        "--copies",
        type=int,
        default=2,
        metavar="N",
        help="voices that speak each training text (%(default)s)",
    )
    add_range(parser, "--rate", (140, 190), "words per minute, drawn for each utterance")
    add_range(parser, "--pitch", (35, 65), "pitch from 0 to 99, drawn for each utterance")
    add_seed(parser, "of voices, rates and pitches")
    return parser


def main(argv=None) -> int:
    return finish(prepare, make_parser().parse_args(argv))
