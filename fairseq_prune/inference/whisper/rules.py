"""What Whisper's decoder may write next: suppressed tokens, and timestamps that make sense.

The rules of timestamps are those of openai/whisper: a text begins with one, of at most a second; they come in pairs,
the end of a segment and the beginning of the next; they never run back; and where all of them together are likelier
than any text, one of them is written.
"""

from collections.abc import Sequence
from typing import Optional

import torch
from torch import Tensor

from fairseq_prune.text.byte_level_bpe import NO_TIMESTAMPS, START, TIMESTAMPS, UNKNOWN, ByteLevelBPE

NO_SPEECH = ("<|nospeech|>", "<|nocaptions|>")  # names of one token: newer, older
TIMESTAMP_SECONDS = 0.02
LATEST_START = 1.0  # seconds: the first timestamp


def no_speech_token(tokenizer: ByteLevelBPE) -> int:
    """The id of the token that says that nobody speaks; -1 where a tokenizer has lost it."""
    return next((tokenizer.special[name] for name in NO_SPEECH if name in tokenizer.special), -1)


def has_timestamps(tokenizer: ByteLevelBPE) -> bool:
    """Whether it has all timestamps, one after the other, as the rules need them."""
    ids = [tokenizer.special.get(name, -1) for name in TIMESTAMPS]
    return ids[0] >= 0 and ids == list(range(ids[0], ids[0] + len(ids)))


def languages_of(tokenizer: ByteLevelBPE) -> dict[str, int]:
    """Ids by language, such as "en"."""
    return {name: tokenizer.special[f"<|{name}|>"] for name in tokenizer.languages}


def forced_prefix(
    tokenizer: ByteLevelBPE,
    language: Optional[str] = None,
    task: str = "transcribe",
    timestamps: bool = True,
    prompt: Sequence[int] = (),
) -> list[int]:
    """Ids that the decoder's input begins with: text before, start, language, task, and whether without timestamps.

    Args:
        language: None for English-only models.
        prompt: tokens of the text before.

    Raises:
        ValueError: the tokenizer has no such language or task.
    """
    forced = tokenizer.prefix(language, task)
    if timestamps:
        forced.remove(tokenizer.special[NO_TIMESTAMPS])
    before = [tokenizer.special[UNKNOWN], *prompt] if prompt else []  # <|startofprev|>
    return [*before, *forced]


def place_of_start(tokenizer: ByteLevelBPE, prefix: Sequence[int]) -> int:
    """Where <|startoftranscript|> is in a prefix; what is predicted there says whether anybody speaks."""
    return len(prefix) - 1 - list(reversed(prefix)).index(tokenizer.special[START])


class TokenRules:
    """Changes logits so that the next token keeps the rules.

    Args:
        tokenizer: of the model.
        never: ids that no place of a text may have.
        never_first: ids that the first place may not have.
        timestamps: whether the text has them.
    """

    def __init__(
        self,
        tokenizer: ByteLevelBPE,
        never: Sequence[int] = (),
        never_first: Sequence[int] = (),
        timestamps: bool = False,
    ):
        self.timestamps = timestamps
        special = tokenizer.special
        self.texts = min(special.values())  # ids below are text
        if timestamps:
            self.first = special[TIMESTAMPS[0]]
            self.after = self.first + len(TIMESTAMPS)
            never = [*never, special[NO_TIMESTAMPS]]
        self.always = torch.zeros(len(tokenizer))
        self.always[list(never)] = -torch.inf
        self.at_first = self.always.clone()
        self.at_first[list(never_first)] = -torch.inf
        if timestamps:
            latest = self.first + round(LATEST_START / TIMESTAMP_SECONDS)
            self.at_first[: self.first] = -torch.inf
            self.at_first[latest + 1 :] = -torch.inf

    def to(self, device) -> "TokenRules":
        """These, on a device."""
        self.always, self.at_first = self.always.to(device), self.at_first.to(device)
        return self

    def apply(self, logits: Tensor, text: Tensor) -> Tensor:
        """Logits, or log probabilities, with those of forbidden tokens at minus infinity; changed in place.

        Args:
            logits: (rows, vocabulary).
            text: (rows, tokens) so far, without the prefix.
        """
        if text.size(1) == 0:
            return logits.add_(self.at_first)
        logits.add_(self.always)
        return self._keep_time(logits, text) if self.timestamps else logits

    def _keep_time(self, logits: Tensor, text: Tensor) -> Tensor:
        is_time = (text >= self.first) & (text < self.after)
        last = is_time[:, -1]
        before = is_time[:, -2] if text.size(1) > 1 else torch.ones_like(last)
        times = logits[:, self.first : self.after]
        times.masked_fill_((last & before)[:, None], -torch.inf)  # after a pair comes text
        alone = last & ~before
        logits[:, : self.texts].masked_fill_(alone[:, None], -torch.inf)  # it waits for its twin, or the end
        latest = text.masked_fill(~is_time, self.first).amax(1)
        least = latest - self.first + ~alone  # the twin may be equal, a segment has a length
        passed = torch.arange(times.size(1), device=text.device) < least[:, None]
        times.masked_fill_(passed, -torch.inf)
        likeliest = logits[:, : self.first].amax(1)
        if self.after < logits.size(1):
            likeliest = torch.maximum(likeliest, logits[:, self.after :].amax(1))
        timely = (times.logsumexp(1) > likeliest)[:, None]
        logits[:, : self.first].masked_fill_(timely, -torch.inf)
        logits[:, self.after :].masked_fill_(timely, -torch.inf)
        return logits
