"""`fairseq_prune.load`: what a checkpoint says of each kind of audio."""

import numpy as np
import pytest
import soundfile
import torch
from slu_corpus import small_whisper
from test_translation import save

import fairseq_prune
from fairseq_prune.data.audio import resample
from fairseq_prune.inference.translation import Translator


@pytest.fixture(scope="module")
def checkpoint(prepared_data, tmp_path_factory):
    return save(tmp_path_factory.mktemp("model") / "checkpoint.pt", prepared_data, token_keep_ratio=0.8)


@pytest.fixture(scope="module")
def model(checkpoint):
    return fairseq_prune.load(checkpoint, beam=2, max_tokens=12)


def noise(samples, seed=1):
    return 0.1 * torch.randn(samples, generator=torch.Generator().manual_seed(seed))


def test_a_path_an_array_and_a_tensor_of_any_rate_give_the_same(model, tmp_path):
    waveform = noise(24_000).numpy()
    soundfile.write(tmp_path / "a.wav", waveform, 24_000, subtype="FLOAT")
    text = model.translate(tmp_path / "a.wav")
    assert text and isinstance(text, str)
    assert model.translate(waveform, rate=24_000) == text
    assert model.translate(torch.from_numpy(resample(waveform, 24_000, 16_000))) == text
    assert model.translate([str(tmp_path / "a.wav"), noise(9000)])[0] == text


def test_texts_are_those_of_the_pipeline(model, checkpoint):
    waveforms = [noise(16_000), noise(8000, seed=2)]
    pipeline = Translator(checkpoint, beam=2, max_tokens=12)
    assert model.translate(waveforms) == [text.strip() for text in pipeline.translate(waveforms)]
    assert model.transcribe(waveforms) == [text.strip() for text in pipeline.recognize(waveforms)]


def test_details_have_the_times_of_pieces(model):
    model = type(model)(model.pipeline, max_seconds=1.0)
    result = model.translate(noise(40_000), details=True)
    assert len(result.segments) > 2
    assert result.segments[0].start == 0 and result.segments[-1].end == 2.5
    assert all(a.end == b.start for a, b in zip(result.segments, result.segments[1:]))
    assert result.text == " ".join(segment.text.strip() for segment in result.segments if segment.text)


def test_options_of_the_checkpoint_can_be_changed(checkpoint):
    model = fairseq_prune.load(checkpoint, overrides={"token_keep_ratio": 1.0})
    assert set(model.pipeline.hubert.pruning.keep_ratios) == {1.0}


def test_what_a_checkpoint_cannot_do_is_said(model):
    with pytest.raises(ValueError, match="cannot understand commands"):
        model.understand(noise(8000))


def test_a_whisper_transcribes_and_says_what_it_cannot(tmp_path):
    torch.manual_seed(0)
    torch.save(small_whisper(), tmp_path / "whisper.pt")
    model = fairseq_prune.load(tmp_path / "whisper.pt", temperatures=(0.0,), max_tokens=8, timestamps=False)
    waveforms = [noise(16_000), noise(9000, seed=2)]
    expected = model.transcriber.transcribe(waveforms)
    assert model.transcribe(waveforms) == [transcript.text for transcript in expected]
    assert model.transcribe(waveforms[0], details=True).seconds == 1.0
    assert set(model.understand(waveforms[1])) >= {"intent", "slots", "text"}


@pytest.mark.parametrize("audio", [np.zeros((2, 100), np.float32), np.zeros(100, np.int16)])
def test_samples_of_another_form_are_refused(model, audio):
    with pytest.raises(ValueError, match=r"audio: found .* expected floating-point samples \(samples,\)"):
        model.translate(audio)


def test_a_checkpoint_of_another_task_is_refused(checkpoint, tmp_path):
    state = torch.load(checkpoint, weights_only=True)
    state["cfg"]["task"]["_name"] = "ssl_distillation"
    torch.save(state, tmp_path / "a.pt")
    with pytest.raises(
        ValueError, match="of task ssl_distillation, expected speech_translation, audio_finetuning"
    ):
        fairseq_prune.load(tmp_path / "a.pt")
    with pytest.raises(FileNotFoundError, match=r"b\.pt"):
        fairseq_prune.load(tmp_path / "b.pt")
