import numpy as np
import pytest
from speaking import FIRST, SECONDS, noise, pipeline

from fairseq_prune.data.pauses import cut_at_pauses
from fairseq_prune.inference.whisper.long_form import batched, sequential
from fairseq_prune.inference.whisper.options import TranscriptionOptions
from fairseq_prune.inference.whisper.recordings import ArrayRecording, as_recording
from fairseq_prune.inference.whisper.windows import Heard, Listener

LENIENT = dict(compression_ratio_threshold=1e9, logprob_threshold=-1e9, max_tokens=20)


def listener(**options):
    return Listener(pipeline(), TranscriptionOptions(**{"language": "en", **LENIENT, **options}))


def transcripts(steps):
    steps = list(steps)
    found = {step.number: step.transcript for step in steps if step.transcript is not None}
    return [found[number] for number in sorted(found)], sum(step.seconds for step in steps)


def recordings(*seconds):
    return [ArrayRecording(noise(length, seed)) for seed, length in enumerate(seconds)]


class Scripted:
    """A listener that hears a given text in each window, and notes the windows."""

    def __init__(self, *texts, **options):
        self.real, self.texts, self.windows = listener(**options), list(texts), []
        self.options, self.tokenizer = self.real.options, self.real.tokenizer
        self.initial_prompt, self.multilingual = self.real.initial_prompt, True
        self.first_timestamp, self.text_tokens = FIRST, self.real.text_tokens
        self.longest = 30 * 16000

    def hear(self, windows):
        self.windows += windows
        return [Heard(self.texts.pop(0), language="en") for _ in windows]


def stamped(start, text, end):
    return [FIRST + round(start * 50), *text, FIRST + round(end * 50)]


A, B, C, D = [65, 66], [67], [68, 69], [70]
LONG = ArrayRecording(noise(70))


def test_windows_follow_the_timestamps():
    scripted = Scripted(
        [*stamped(0, A, 10), *stamped(12, B, 20), *stamped(20, C, 29)[:2]],  # the rest was cut off at 20 s
        stamped(1, C, 30),
        stamped(0, D, 9),
    )
    [transcript], seconds = transcripts(sequential(scripted, [LONG]))
    assert [window.start / 16000 for window in scripted.windows] == [0, 20, 50]
    assert [len(window.waveform) / 16000 for window in scripted.windows] == [30, 30, 20]
    assert [(part.id, part.seek, part.start, part.end) for part in transcript.segments] == [
        (0, 0, 0, 10),
        (1, 0, 12, 20),
        (2, 2000, 20, 50),
        (3, 5000, 50, 59),
    ]
    assert seconds == pytest.approx(70)


@pytest.mark.parametrize("condition", [True, False])
def test_the_text_before_is_a_condition_on_request(condition):
    first, second, third = stamped(0, A, 30), stamped(0, B, 30), stamped(0, C, 10)
    scripted = Scripted(
        first, second, third, condition_on_previous_text=condition, initial_prompt="play the song"
    )
    transcripts(sequential(scripted, [LONG]))
    given = scripted.real.tokenizer.encode(" play the song")
    expected = [given, [*given, *first], [*given, *first, *second]] if condition else [given, [], []]
    assert [list(window.prompt) for window in scripted.windows] == expected


def test_silence_moves_on_by_a_window():
    scripted = Scripted(stamped(0, A, 30), [], [])
    scripted.hear = lambda windows: [scripted.windows.extend(windows) or Heard(silent=True) for _ in windows]
    [transcript], _ = transcripts(sequential(scripted, [LONG]))
    assert transcript.segments == [] and transcript.text == ""
    assert [window.start / 16000 for window in scripted.windows] == [0, 30, 60]


def test_recordings_beside_each_other_are_as_alone():
    given = recordings(3.1, 0.4, 2.2, 0.005, 1.3)
    together, seconds = transcripts(sequential(listener(batch_size=3), given))
    assert seconds == pytest.approx(sum(one.seconds for one in given))
    for recording, transcript in zip(given, together):
        [alone], _ = transcripts(sequential(listener(), [recording]))
        assert [(part.seek, part.start, part.end, part.tokens) for part in alone.segments] == [
            (part.seek, part.start, part.end, part.tokens) for part in transcript.segments
        ]


def test_pieces_are_those_of_their_recordings_in_order():
    given = recordings(5.3, 0.4, 2.9, 1.2, 7.7)
    together, seconds = transcripts(batched(listener(batch_size=2), given))
    assert seconds == pytest.approx(sum(one.seconds for one in given))
    for recording, transcript in zip(given, together):
        [alone], _ = transcripts(batched(listener(batch_size=1), [recording]))
        assert [(part.seek, part.tokens) for part in alone.segments] == [
            (part.seek, part.tokens) for part in transcript.segments
        ]
        assert [part.id for part in transcript.segments] == list(range(len(transcript.segments)))
        seeks = [part.seek for part in transcript.segments]
        cuts = [start // 160 for start, _ in cut_at_pauses(recording.waveform, SECONDS)]
        assert seeks == sorted(seeks) and set(seeks) <= set(cuts)


@pytest.mark.parametrize("read", [sequential, batched])
def test_one_language_is_found_for_a_recording(read):
    given = recordings(2.5, 2.6, 1.9)
    found, _ = transcripts(read(listener(language=None, batch_size=2), given))
    for recording, transcript in zip(given, found):
        assert transcript.language in ("en", "de")
        [alone], _ = transcripts(read(listener(language=transcript.language), [recording]))
        assert alone.text == transcript.text


@pytest.mark.parametrize("read", [sequential, batched])
def test_no_more_than_a_block_of_a_recording_is_read_at_a_time(read):
    longest = []

    class Watched(ArrayRecording):
        def read(self, start, samples):
            longest.append(samples)
            return super().read(start, samples)

    transcripts(read(listener(), [Watched(noise(20))]))
    assert max(longest) <= 1.25 * SECONDS * 16000


def test_words_make_up_their_segments():
    one = listener(word_timestamps=True, alignment_heads=((0, 0), (1, 1)))
    found, _ = transcripts(sequential(one, recordings(2.5, 1.1)))
    segments = [segment for transcript in found for segment in transcript.segments]
    assert segments
    for segment in segments:
        assert "".join(word.word for word in segment.words) == segment.text
        assert (segment.start, segment.end) == (segment.words[0].start, segment.words[-1].end)


def test_a_recording_is_a_path_an_array_or_one_itself(tmp_path):
    import soundfile

    soundfile.write(tmp_path / "a.wav", noise(0.5), 16000, subtype="FLOAT")
    file = as_recording(tmp_path / "a.wav")
    array = as_recording(noise(0.5))
    assert as_recording(array) is array
    assert file.samples == array.samples and file.seconds == 0.5
    assert np.array_equal(file.read(100, 50), array.read(100, 50))
    with pytest.raises(ValueError, match=r"the waveform: expected samples \(n,\), found shape \(2, 3\)"):
        as_recording(np.zeros((2, 3)))
