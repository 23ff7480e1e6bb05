import numpy as np
import pytest
import torch
import transformers

from fairseq_prune.data.log_mel import MAX_SAMPLES, log_mel, mel_frames
from fairseq_prune.modules.whisper.context import with_silence


def noise(samples):
    """Which grows louder, so that much of it lies below the floor."""
    generator = np.random.default_rng(samples)
    return (generator.normal(size=samples) * np.linspace(0, 0.3, samples) ** 4).astype(np.float32)


@pytest.mark.parametrize("bins", [80, 128])
@pytest.mark.parametrize("samples", [1, 161, 37_123, 479_801, 479_803, MAX_SAMPLES])
def test_with_silence_after_the_clip_features_are_those_of_transformers(samples, bins):
    extractor = transformers.WhisperFeatureExtractor(feature_size=bins)
    expected = extractor(noise(samples), sampling_rate=16000, return_tensors="np").input_features[0].T
    found = log_mel(noise(samples), bins)
    found = with_silence(found[None], torch.tensor([len(found)]), 3000)[0]
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("samples", [1, 161, 16_000, 479_801, MAX_SAMPLES])
def test_a_clip_has_the_frames_that_are_told(samples):
    assert log_mel(noise(samples)).shape == (mel_frames(samples), 80)
    assert mel_frames(samples) <= 3000


def test_digital_silence_has_the_lowest_value():
    assert torch.equal(log_mel(np.zeros(1600, np.float32)), torch.full((mel_frames(1600), 80), -1.5))


def test_what_is_longer_than_the_context_is_refused():
    with pytest.raises(ValueError, match=r"found 30\.00 s of audio, expected at most 30 s"):
        log_mel(np.zeros(MAX_SAMPLES + 1, np.float32))
