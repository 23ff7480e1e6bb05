"""What is said in windows of at most the encoder's length: batches, fallbacks, and the times of tokens."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Optional

import numpy as np
import torch
from torch import Tensor

from fairseq_prune.data.audio import SAMPLE_RATE
from fairseq_prune.data.log_mel import log_mel
from fairseq_prune.data.slu_dataset import collate_features
from fairseq_prune.inference.base import is_silent
from fairseq_prune.inference.whisper.context import full_context, hears_less
from fairseq_prune.inference.whisper.generating import Generated, Writer
from fairseq_prune.inference.whisper.loading import WhisperPipeline
from fairseq_prune.inference.whisper.options import TranscriptionOptions
from fairseq_prune.inference.whisper.rules import (
    TokenRules,
    forced_prefix,
    has_timestamps,
    languages_of,
    no_speech_token,
    place_of_start,
)
from fairseq_prune.modules.whisper.alignment import (
    all_heads,
    choose_heads,
    cross_attention,
    follow_speech,
    frames_of_clip,
    token_starts,
)
from fairseq_prune.text.byte_level_bpe import START

TOKENS_A_SECOND = 12  # nobody speaks faster; what a short context makes longer is a loop
TOKENS_TO_SPARE = 24
SEARCHED_WINDOWS = 8  # windows with text after which the alignment heads are settled


@dataclass
class Window:
    """A stretch of a recording.

    start: its first sample. waveform: (samples,). language: None where it is to be found out. prompt: tokens of the
    text before.
    """

    start: int
    waveform: Tensor
    language: Optional[str] = None
    prompt: Sequence[int] = ()

    @property
    def seconds(self) -> float:
        """Of audio."""
        return len(self.waveform) / SAMPLE_RATE


@dataclass
class Heard:
    """What a window holds; the fields are those of `text.subtitles.Segment`.

    starts: (text tokens + 1,) seconds in the window at which the tokens that are no timestamps begin, and the end.
    probabilities: (text tokens,), of these tokens. Both are empty unless they were asked for.
    """

    tokens: list[int] = field(default_factory=list)
    text: str = ""
    language: Optional[str] = None
    temperature: float = 0.0
    avg_logprob: float = 0.0
    compression_ratio: float = 0.0
    no_speech_prob: float = 0.0
    silent: bool = False
    starts: Sequence[float] = ()
    probabilities: Sequence[float] = ()


def compression_ratio(text: str) -> float:
    """How many times smaller zlib makes a text."""
    data = text.encode("utf-8")
    return len(data) / len(zlib.compress(data)) if data else 0.0


class Listener:
    """Makes `Heard` of windows.

    A text fails where it repeats itself, is unlikely or has no end. If the encoder heard less than its full length, all
    of it is tried next; then the temperature rises. The last text that was tried is taken.

    Args:
        pipeline: the model, its tokenizer and what they know.
        options: of the transcription.
    """

    def __init__(self, pipeline: WhisperPipeline, options: TranscriptionOptions):
        self.model, self.tokenizer, self.options = pipeline.model, pipeline.tokenizer, options
        self.multilingual, self.mel_bins = pipeline.multilingual, pipeline.mel_bins
        self.device = next(self.model.parameters()).device
        self.timestamps = options.timestamps and has_timestamps(self.tokenizer)
        rules = TokenRules(self.tokenizer, pipeline.never, pipeline.never_first, self.timestamps)
        end = self.tokenizer.dictionary.eos()
        self.writer = Writer(self.model, rules.to(self.device), end, no_speech_token(self.tokenizer))
        self.languages = languages_of(self.tokenizer) if self.multilingual else {}
        self.heads = options.alignment_heads or pipeline.alignment_heads
        self.searched: list[np.ndarray] = []
        prompt = options.initial_prompt.strip()
        self.initial_prompt = self.tokenizer.encode(f" {prompt}") if prompt else []
        self.longest = self.model.encoder.max_positions() * SAMPLE_RATE // 100  # samples of a window

    @property
    def first_timestamp(self) -> int:
        """The id of 0.00, or -1 where the model writes no timestamps."""
        return self.writer.rules.first if self.timestamps else -1

    @property
    def text_tokens(self) -> int:
        """Ids below this are text."""
        return self.writer.rules.texts

    # -- windows

    @torch.inference_mode()
    def hear(self, windows: Sequence[Window]) -> list[Heard]:
        """What is said in each window; digital silence is not decoded."""
        heard = [Heard(language=window.language, silent=True) for window in windows]
        waiting = [i for i, window in enumerate(windows) if not is_silent(window.waveform)]
        attempts: list[tuple[float, bool]] = [(self.options.temperatures[0], False)]
        if hears_less(self.model):
            attempts.append((self.options.temperatures[0], True))
        attempts += [(temperature, True) for temperature in self.options.temperatures[1:]]
        for temperature, whole in attempts:
            if not waiting:
                break
            failed: list[int] = []
            # samples are drawn for one window at a time, so that they do not depend on those beside it
            for batch in [waiting] if temperature == 0 else [[i] for i in waiting]:
                found = self._attempt([windows[i] for i in batch], temperature, whole)
                for i, one in zip(batch, found):
                    heard[i] = one
                    failed += [i] if one.failed else []
            waiting = failed
        return heard

    def _attempt(self, windows: Sequence[Window], temperature: float, whole: bool) -> list["_Tried"]:
        most = self.model.encoder.max_positions()
        features = [log_mel(window.waveform, self.mel_bins)[:most] for window in windows]
        batch = {name: part.to(self.device) for name, part in collate_features(features).items()}
        short = hears_less(self.model) and not whole
        with full_context(self.model, whole):
            encoder_out = self.model.encoder(**batch)
        languages = self._languages(windows, encoder_out)
        prefixes = [self._prefix(window, language) for window, language in zip(windows, languages)]
        limit = min(self.options.max_tokens, self.model.decoder.max_positions() - max(map(len, prefixes)))
        spoken = limit
        if short:
            longest = max(window.seconds for window in windows)
            spoken = min(limit, TOKENS_TO_SPARE + int(TOKENS_A_SECOND * longest))
        found = self._write(encoder_out, prefixes, spoken, temperature)
        tried = [self._judge(one, language, temperature, short) for one, language in zip(found, languages)]
        if self.options.word_timestamps:
            done = [
                i
                for i, one in enumerate(tried)
                if not one.failed or temperature == self.options.temperatures[-1]
            ]
            self._align(encoder_out, windows, prefixes, tried, done)
        return tried

    def _write(self, encoder_out, prefixes, limit: int, temperature: float) -> list[Generated]:
        """Texts, from rows with prefixes of equal length together; beams want them equal."""
        options, found = self.options, [Generated()] * len(prefixes)
        beams = options.beam > 1 and temperature == 0
        groups: dict[Any, list[int]] = {}
        for i, prefix in enumerate(prefixes):
            groups.setdefault(tuple(prefix) if beams else len(prefix), []).append(i)
        for rows in groups.values():
            part = encoder_out if len(groups) == 1 else select_rows(encoder_out, rows)
            prefix = torch.tensor([prefixes[i] for i in rows], device=self.device)
            start = place_of_start(self.tokenizer, prefixes[rows[0]])
            if beams:
                texts = self.writer.search(part, prefix, start, limit, options.beam)
            else:
                samples = options.best_of if temperature > 0 else 1
                generator = torch.Generator(self.device).manual_seed(options.seed)
                texts = self.writer.write(part, prefix, start, limit, temperature, samples, generator)
            for i, text in zip(rows, texts):
                found[i] = text
        return found

    def _judge(self, one: Generated, language, temperature: float, short: bool) -> "_Tried":
        options, text = self.options, self.tokenizer.decode(one.tokens)
        tried = _Tried(
            tokens=one.tokens,
            text=text,
            language=language,
            temperature=temperature,
            avg_logprob=one.avg_log_prob,
            compression_ratio=compression_ratio(text),
            no_speech_prob=one.no_speech_prob,
        )
        unlikely = tried.avg_logprob < options.logprob_threshold
        tried.silent = tried.no_speech_prob > options.no_speech_threshold and unlikely
        loops = tried.compression_ratio > options.compression_ratio_threshold or (short and not one.ended)
        tried.failed = (loops or unlikely) and not tried.silent
        return tried

    # -- what stands before the text

    def _languages(self, windows: Sequence[Window], encoder_out) -> list[Optional[str]]:
        if not self.multilingual:
            return [None] * len(windows)
        known = [window.language for window in windows]
        if None not in known:
            return known
        start = self.tokenizer.special[START]
        found = self.writer.languages(encoder_out, start, self.languages)
        return [given or likeliest for given, likeliest in zip(known, found)]

    def _prefix(self, window: Window, language: Optional[str]) -> list[int]:
        most = self.model.decoder.max_positions() // 2 - 1
        prompt = list(window.prompt)[-most:]
        return forced_prefix(self.tokenizer, language, self.options.task, self.timestamps, prompt)

    # -- times of tokens

    def _align(self, encoder_out, windows, prefixes, tried: list["_Tried"], rows: Sequence[int]) -> None:
        """Give those rows their `starts` and `probabilities`."""
        texts = {i: [token for token in tried[i].tokens if token < self.text_tokens] for i in rows}
        rows = [i for i in rows if texts[i]]
        if not rows:
            return
        forced = [self.tokenizer.prefix(tried[i].language, self.options.task) for i in rows]
        end = self.writer.end
        inputs = [[*prefix, *texts[i], end] for prefix, i in zip(forced, rows)]
        width = max(map(len, inputs))
        tokens = torch.tensor([row + [end] * (width - len(row)) for row in inputs], device=self.device)
        part = select_rows(encoder_out, rows)
        seen, times = frames_of_clip(part, [windows[i].seconds for i in rows])
        searching = not self.heads
        heads = list(self.heads or all_heads(self.model.decoder))
        weights, features = cross_attention(self.model.decoder, tokens, part, heads, seen)
        for row, i in enumerate(rows):
            length, before = len(inputs[row]), len(forced[row]) - 1
            kept = weights[row, :, :length][..., seen[row]]
            chosen = range(len(heads))
            if searching:
                self.searched.append(follow_speech(kept, before))
                best = choose_heads(heads, np.mean(self.searched, axis=0))
                chosen = [heads.index(head) for head in best]
                if len(self.searched) == SEARCHED_WINDOWS:
                    self.heads = tuple(best)
            starts = token_starts(kept[list(chosen)], before)
            tried[i].starts = times[row][seen[row]].cpu().numpy()[starts].tolist()
            logits = self.model.decoder.output_layer(features[row, before : length - 2])[
                :, : self.text_tokens
            ]
            wanted = torch.tensor(texts[i], device=self.device)[:, None]
            tried[i].probabilities = logits.float().softmax(-1).gather(1, wanted)[:, 0].tolist()


@dataclass
class _Tried(Heard):
    """With the verdict."""

    failed: bool = False


def select_rows(encoder_out: dict[str, list[Any]], rows: Sequence[int]) -> dict[str, list[Any]]:
    """The given entries of what was encoded."""
    order = torch.tensor(list(rows), device=encoder_out["encoder_out"][0].device)
    return {
        name: [part.index_select(0, order) if isinstance(part, Tensor) else part for part in parts]
        for name, parts in encoder_out.items()
    }
