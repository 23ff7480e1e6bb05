"""`fairseq_prune.load`: what a checkpoint says of each kind of audio."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from fairseq.tasks.audio_finetuning import AudioFinetuningConfig
from slu_corpus import small_whisper
from small_encoder import make_encoder
from test_translation import save

import fairseq_prune
from fairseq_prune.checkpoints.formats import formats_of
from fairseq_prune.checkpoints.hubert.own import save_pruned_hubert
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
    with pytest.raises(ValueError, match="no encoder of HuBERT's kind"):
        model.features(waveforms)


def states_of(encoder, waveform):
    with torch.no_grad(), encoder.all_kept():
        return torch.stack(encoder.layer_outputs(waveform[None], [len(waveform)])[0], dim=1)[0]


def test_features_are_the_states_of_the_layers(model, tmp_path):
    """Of a translator, in which no frame is dropped for them, and of an encoder in a file and in a folder."""
    waveforms = [noise(16_000), noise(9000)]
    found = model.features(waveforms)
    for features, waveform in zip(found, waveforms):
        torch.testing.assert_close(features, states_of(model.pipeline.hubert, waveform))
    assert model.features(waveforms[0].numpy(), layers=[2, 0]).shape == (2, 49, 32)
    assert set(model.pipeline.hubert.pruning.keep_ratios) == {0.8}
    encoder = make_encoder()
    save_pruned_hubert(encoder, tmp_path / "a.pt")
    expected = states_of(encoder, waveforms[0])
    loaded = fairseq_prune.load(tmp_path / "a.pt")
    torch.testing.assert_close(loaded.features(waveforms[0]), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="cannot translate"):
        loaded.translate(waveforms[0])
    with pytest.raises(ValueError, match=r"layers: found \[3\], expected numbers from 0 to 2"):
        loaded.features(waveforms[0], layers=[3])


def test_features_of_a_folder_of_transformers(tmp_path):
    pytest.importorskip("transformers", reason="in the test extra of the current stack")
    encoder = make_encoder()
    formats_of("pruned_hubert")["hf"].write(encoder, None, tmp_path / "hf", None)
    found = fairseq_prune.load(tmp_path / "hf").features(noise(8000))
    torch.testing.assert_close(found, states_of(encoder, noise(8000)), rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(
    not hasattr(AudioFinetuningConfig, "multi_corpus_keys"), reason="the file is of fairseq-fixed"
)
def test_features_of_a_recogniser_are_those_of_its_encoder():
    path = Path(__file__).parents[1] / "checkpoints" / "of_5d3c2e6" / "recognition.pt"
    model, waveform = fairseq_prune.load(path), noise(8000)
    with torch.no_grad():
        encoder, no_padding = (
            model.pipeline.model.w2v_encoder.w2v_model,
            torch.zeros(1, 8000, dtype=torch.bool),
        )
        model.pipeline.extractor.lengths = [8000]
        expected = encoder.extract_features(waveform[None], no_padding)["x"][0]
    torch.testing.assert_close(model.features(waveform)[-1], expected, rtol=1e-3, atol=1e-4)


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
