import numpy as np
import pytest
import torch
from speaking import END, SECONDS, TOKENIZER, noise, pipeline

from fairseq_prune.inference.whisper.options import TranscriptionOptions
from fairseq_prune.inference.whisper.windows import Listener, Window, compression_ratio
from fairseq_prune.modules.frames import TokenPruning

LENIENT = dict(compression_ratio_threshold=1e9, logprob_threshold=-1e9)  # no text fails


def listener(model=None, **options):
    given = {"language": "en", "max_tokens": 20, **LENIENT, **options}
    return Listener(model or pipeline(), TranscriptionOptions(**given))


def windows(*seconds, language="en"):
    return [Window(0, torch.from_numpy(noise(length, seed)), language) for seed, length in enumerate(seconds)]


def test_text_and_figures_of_a_window():
    [heard] = listener().hear(windows(1.0))
    assert heard.text == TOKENIZER.decode(heard.tokens) and heard.language == "en"
    assert heard.avg_logprob < 0 and 0 < heard.no_speech_prob < 1 and heard.temperature == 0
    assert heard.compression_ratio == compression_ratio(heard.text)


def test_a_window_does_not_depend_on_those_beside_it():
    four = windows(1.2, 0.5, 0.9, 0.3)
    together = listener().hear(four)
    for window, heard in zip(four, together):
        [alone] = listener().hear([window])
        assert alone.tokens == heard.tokens


def test_digital_silence_is_not_decoded():
    silence, speech = listener().hear([Window(0, torch.zeros(8000), "en"), *windows(0.8)])
    assert silence.silent and silence.tokens == [] and not speech.silent


@pytest.mark.parametrize(
    "fails", [{"compression_ratio_threshold": -1.0}, {"logprob_threshold": 1e9, "no_speech_threshold": 1.1}]
)
def test_a_text_that_fails_is_sampled_at_rising_temperatures_and_the_last_is_taken(fails):
    options = {**fails, "temperatures": (0.0, 0.4, 0.8), "best_of": 2}
    first, second = listener(**options).hear(windows(1.0, 0.7))
    assert first.temperature == second.temperature == 0.8
    [alone] = listener(**options).hear(windows(1.0))
    assert alone.tokens == first.tokens  # samples do not depend on the other window


def test_silence_is_no_failure():
    heard = listener(logprob_threshold=1e9, no_speech_threshold=-1.0).hear(windows(1.0))[0]
    assert heard.silent and heard.temperature == 0


def test_a_short_context_that_fails_is_heard_again_in_full():
    short, given = pipeline("clip"), windows(0.6)
    [whole] = listener().hear(given)
    one = listener(short, temperatures=(0.0,), logprob_threshold=0.0, no_speech_threshold=1.1)
    [alone] = one._attempt(given, 0.0, whole=False)
    assert alone.failed and alone.tokens != whole.tokens
    [guarded] = one.hear(given)
    assert guarded.temperature == 0 and guarded.tokens == whole.tokens
    assert str(short.model.encoder.audio_context) == "clip"


def test_a_short_context_that_does_not_end_is_heard_again_in_full(monkeypatch):
    short = pipeline("clip", end=0)  # its texts have no end
    monkeypatch.setattr("fairseq_prune.inference.whisper.windows.TOKENS_TO_SPARE", 2)
    monkeypatch.setattr("fairseq_prune.inference.whisper.windows.TOKENS_A_SECOND", 5)
    limits = []
    one = listener(short)
    write = one.writer.write
    one.writer.write = lambda *words: limits.append(words[3]) or write(*words)
    one.hear(windows(1.0))
    assert limits == [7, 20]


def test_the_language_is_found_where_it_is_not_given():
    found = listener(language=None).hear(windows(1.0, 0.4, 0.8, language=None))
    assert {heard.language for heard in found} <= {"en", "de"}
    given = listener().hear(windows(1.0, 0.4, 0.8))
    for one, other in zip(found, given):
        if one.language == "en":
            assert one.tokens == other.tokens
    english = listener(pipeline(multilingual=False), language=None).hear(windows(1.0, language=None))
    assert english[0].language is None


def test_a_prompt_changes_the_text_and_long_ones_keep_their_end():
    prompt = TOKENIZER.encode(" wake me up at nine")
    waveform = windows(1.0)[0].waveform
    plain, prompted, long, end = listener().hear(
        [
            Window(0, waveform, "en", given)
            for given in ((), prompt, [5] * 40 + prompt * 4, (prompt * 4)[-19:])
        ]
    )
    assert plain.tokens != prompted.tokens
    assert long.tokens == end.tokens


@pytest.mark.parametrize("heads", [((0, 1), (2, 2)), None])
def test_times_of_tokens_rise_within_the_window(heads):
    waiting = windows(1.1, 0.6)
    found = listener(alignment_heads=heads, word_timestamps=True).hear(waiting)
    assert any(heard.starts for heard in found)
    for heard, window in zip(found, waiting):
        text = [token for token in heard.tokens if token < END]
        assert len(heard.starts) == len(text) + (1 if text else 0) and len(heard.probabilities) == len(text)
        if text:
            assert heard.starts[0] == 0 and heard.starts[-1] <= window.seconds
            assert (np.diff(heard.starts) >= 0).all() and all(0 < p <= 1 for p in heard.probabilities)


def test_alignment_heads_are_settled_after_some_windows(monkeypatch):
    monkeypatch.setattr("fairseq_prune.inference.whisper.windows.SEARCHED_WINDOWS", 2)
    one = listener(word_timestamps=True)
    one.hear(windows(1.1))
    assert one.heads is None
    one.hear(windows(0.9, 1.0, 0.8))
    assert one.heads and len(one.heads) <= 8
    settled = one.heads
    one.hear(windows(1.1))
    assert one.heads == settled


def test_a_beam_hears_as_well_as_greedy():
    greedy = listener(max_tokens=8).hear(windows(1.0, 0.5))
    beam = listener(beam=4, max_tokens=8).hear(windows(1.0, 0.5))
    assert sum(one.avg_logprob for one in beam) >= sum(one.avg_logprob for one in greedy)


def test_windows_are_as_long_as_the_encoder():
    assert listener().longest == SECONDS * 16000


@pytest.mark.parametrize(
    "options, message",
    [
        ({"task": "sing"}, "task 'sing': expected one of transcribe, translate"),
        ({"long_form": "all"}, "long form 'all': expected one of sequential, batched, off"),
        ({"temperatures": ()}, "temperatures .*: expected one or more"),
        ({"beam": 0}, "beam: found 0, expected 1 or more"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TranscriptionOptions(**options)


def test_a_pruned_encoder_is_heard_again_dense_and_its_frames_keep_their_times():
    pruned, given = pipeline("clip+0.3", end=20), windows(1.1, 0.5, 0.8)
    encoder = pruned.model.encoder
    encoder.pruning, encoder.silence_stride = TokenPruning([0.5, 1.0]), 2
    options = dict(word_timestamps=True, alignment_heads=((0, 0), (2, 1)))
    for window, heard in zip(given, listener(pruned, **options).hear(given)):
        [alone] = listener(pruned, **options).hear([window])
        assert alone.tokens == heard.tokens and alone.starts == heard.starts
        assert heard.starts[-1] <= window.seconds
    one = listener(pruned, temperatures=(0.0,), logprob_threshold=0.0, no_speech_threshold=1.1)
    whole = listener(pipeline(end=20)).hear(given)
    assert [heard.tokens for heard in one.hear(given)] == [heard.tokens for heard in whole]
    assert encoder.pruning.keep_ratios == [0.5, 1.0] and encoder.audio_context == "clip+0.3"
