"""The demo corpus: sentences of a small English-German grammar, spoken by espeak-ng, as MuST-C lays them out.

No sentence occurs twice. Unless --test-voices says otherwise, the test split is spoken by the voices of the
training split: it tests unseen sentences, not unseen speakers. Runs in one process, since espeak-ng needs
about 4 ms for an utterance.
"""

import argparse
from typing import Optional

import numpy as np

from fairseq_prune.command_line import PlainParser, finish
from fairseq_prune.data.audio import SAMPLE_RATE, resample
from fairseq_prune.files import complete_folder
from fairseq_prune.preparation.layouts import mustc as layout
from fairseq_prune.preparation.options import whole_number
from fairseq_prune.preparation.synthesis.demo_grammar import Sentence, draw_sentences
from fairseq_prune.preparation.synthesis.espeak import Espeak, check_ranges

VOICES = ("en-us", "en-gb", "en-gb-scotland", "en-us+f1", "en-gb+f2", "en-us+m3")
OPTION = {"train": "train", "dev": "dev", "tst-COMMON": "test"}  # split: what its options begin with
DRAWING_ORDER = ("tst-COMMON", "dev", "train")  # so that the test split does not change with the others


class EspeakSpeaker:
    """Speaks sentences at 16 kHz, each at a random rate and pitch."""

    def __init__(
        self, espeak: Espeak, rates: tuple[int, int], pitches: tuple[int, int], rng: np.random.Generator
    ) -> None:
        self.espeak, self.rates, self.pitches, self.rng = espeak, rates, pitches, rng

    def __call__(self, sentence: Sentence, voice: str) -> layout.Utterance:
        rate, pitch = (int(self.rng.integers(low, high + 1)) for low, high in (self.rates, self.pitches))
        waveform = self.espeak.synthesize(sentence.english, voice, rate, pitch)
        audio = resample(waveform, self.espeak.sample_rate, SAMPLE_RATE)
        return layout.Utterance(audio, sentence.english, sentence.german)


def choose_voices(
    voices: list[str], test_voices: Optional[list[str]], espeak: Espeak
) -> dict[str, list[str]]:
    """The voices of each split; test voices are kept out of the others.

    Raises `ValueError` for a voice that espeak-ng has not, and when no voice remains for training.
    """
    for voice in [*voices, *(test_voices or [])]:
        espeak.check_voice(voice)
    seen = [voice for voice in voices if voice not in (test_voices or [])]
    if not seen:
        raise ValueError(f"--test-voices {' '.join(test_voices or [])}: no other voice of --voices remains")
    return {"train": seen, "dev": seen, "tst-COMMON": test_voices or seen}


def prepare(args: argparse.Namespace) -> None:
    """Checks the options, then writes the corpus below args.out; raises as the checks do."""
    numbers = {split: getattr(args, f"{OPTION[split]}_utterances") for split in DRAWING_ORDER}
    talk_pause = layout.seconds_range("--talk-pause", args.talk_pause)
    rates, pitches = check_ranges(args.rate, args.pitch)
    espeak = Espeak()
    voices = choose_voices(args.voices, args.test_voices, espeak)
    rngs = {split: np.random.default_rng([args.seed, place]) for place, split in enumerate(DRAWING_ORDER)}
    sentences: dict[str, list[Sentence]] = {}
    for split in DRAWING_ORDER:
        avoid = [sentence for earlier in sentences.values() for sentence in earlier]
        sentences[split] = draw_sentences(numbers[split], avoid, rngs[split])

    sizes = {}
    with complete_folder(args.out / layout.PAIR, args.overwrite) as corpus:
        for split in layout.SPLITS:
            speak = EspeakSpeaker(espeak, rates, pitches, rngs[split])
            talks = layout.make_talks(sentences[split], voices[split], args.utterances_per_talk, speak, split)
            sizes[split] = layout.write_split(
                corpus / "data", split, talks, SAMPLE_RATE, talk_pause, rngs[split]
            )
    words = {
        side: {
            split: len({word for sentence in chosen for word in getattr(sentence, side).split()})
            for split, chosen in sentences.items()
        }
        for side in ("english", "german")
    }
    layout.print_report(
        sizes,
        {
            "English words": words["english"],
            "German words": words["german"],
            "voices": {split: " ".join(voices[split]) for split in sizes},
        },
    )
    train = set(sentences["train"])
    common = {split: len(train & set(sentences[split])) for split in ("dev", "tst-COMMON")}
    print("sentences that are also in train:", ", ".join(f"{split} {n}" for split, n in common.items()))


def make_parser() -> PlainParser:
    parser = PlainParser(__doc__)
    layout.add_layout_arguments(parser)
    for split, utterances in (("train", 3000), ("dev", 200), ("tst-COMMON", 300)):
        parser.add_argument(
            f"--{OPTION[split]}-utterances",
            type=whole_number(1),
            default=utterances,
            metavar="N",
            help=f"sentences in {split} (%(default)s)",
        )
    parser.add_argument(
        "--voices",
        nargs="+",
        default=list(VOICES),
        metavar="VOICE",
        help=f"espeak-ng voices, each with a variant if wished ({' '.join(VOICES)})",
    )
    parser.add_argument(
        "--test-voices",
        nargs="+",
        metavar="VOICE",
        help="voices of tst-COMMON, kept out of train and dev (the same voices as in training)",
    )
    layout.add_range(parser, "--rate", (150, 190), "words per minute, drawn for each utterance")
    layout.add_range(parser, "--pitch", (35, 65), "pitch from 0 to 99, drawn for each utterance")
    return parser


def main(argv=None) -> int:
    return finish(prepare, make_parser().parse_args(argv))
