"""How to transcribe with a Whisper; the defaults are those of openai/whisper."""

from dataclasses import dataclass
from typing import Optional

TASKS = ("transcribe", "translate")
LONG_FORMS = ("sequential", "batched", "off")


@dataclass(frozen=True)
class TranscriptionOptions:
    """
    language: of the speech; None: the likeliest, by the first window of each recording.
    task: "transcribe", or "translate" to English.
    beam: beam size; 1: greedy.
    temperatures: tried one after the other as long as a text fails; a sampled text is the best of ``best_of``.
    compression_ratio_threshold: a text that zlib makes smaller than this many times repeats itself: it fails.
    logprob_threshold: a text whose mean log probability of a token is lower fails.
    no_speech_threshold: a window is silent where the probability of no speech is higher, and the text fails by its
        log probability.
    initial_prompt: text that goes before the speech: names, spelling.
    timestamps: whether the model writes them.
    word_timestamps: find the times of words.
    alignment_heads: (decoder layer, head) whose attention tells these times; None: those of the file, or else the
        best on the first windows.
    long_form: recordings of more than 30 s: "sequential", windows that follow the timestamps; "batched", cut at pauses,
        many windows at a time; "off", none.
    condition_on_previous_text: sequential windows see the text before.
    batch_size: windows at a time.
    max_seconds: longest piece of long_form "batched".
    max_tokens: longest text of a window.
    seed: of sampling.
    """

    language: Optional[str] = None
    task: str = "transcribe"
    beam: int = 1
    temperatures: tuple[float, ...] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    best_of: int = 5
    compression_ratio_threshold: float = 2.4
    logprob_threshold: float = -1.0
    no_speech_threshold: float = 0.6
    initial_prompt: str = ""
    timestamps: bool = True
    word_timestamps: bool = False
    alignment_heads: Optional[tuple[tuple[int, int], ...]] = None
    long_form: str = "sequential"
    condition_on_previous_text: bool = False
    batch_size: int = 8
    max_seconds: float = 30.0
    max_tokens: int = 224
    seed: int = 1

    def __post_init__(self):
        for name, value, allowed in (("task", self.task, TASKS), ("long form", self.long_form, LONG_FORMS)):
            if value not in allowed:
                raise ValueError(f"{name} {value!r}: expected one of {', '.join(allowed)}")
        if not self.temperatures or any(value < 0 for value in self.temperatures):
            raise ValueError(f"temperatures {self.temperatures}: expected one or more, each of at least 0")
        for name in ("beam", "best_of", "batch_size", "max_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: found {getattr(self, name)}, expected 1 or more")
