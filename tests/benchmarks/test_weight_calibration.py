"""Scores and losses of a Whisper on speech, against what follows from the definitions."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "inference" / "whisper"))

from speaking import END, noise, pipeline

from fairseq_prune.benchmarks.weight_calibration import (
    Clip,
    draw_windows,
    losses,
    masked,
    mean_loss,
    own_texts,
    prunable,
    speech_scores,
)
from fairseq_prune.inference.whisper.recordings import ArrayRecording
from fairseq_prune.inference.whisper.windows import Window
from fairseq_prune.modules.whisper.layers import WhisperAttention


@pytest.fixture(scope="module")
def whisper():
    whisper = pipeline(end=10)
    whisper.require = lambda language, task: None
    return whisper


@pytest.fixture(scope="module")
def clips(whisper):
    windows = [Window(0, torch.from_numpy(noise(seconds, i))) for i, seconds in enumerate((0.9, 0.5, 1.1))]
    return own_texts(whisper, windows, "en", batch_size=2)


def test_the_text_is_what_the_model_finds_likeliest(whisper, clips):
    for clip in clips:
        assert clip.tokens[-1] == END and len(clip.tokens) > clip.prefix + 1
        features, length = clip.features[None], torch.tensor([len(clip.features)])
        tokens = torch.tensor([clip.tokens])
        with torch.no_grad():
            logits, _ = whisper.model(features, length, tokens[:, :-1])
        text = slice(clip.prefix, len(clip.tokens) - 1)
        assert torch.equal(logits[0, clip.prefix - 1 : -1].argmax(1), tokens[0, text])


def test_the_loss_is_the_log_probability_of_text_and_end(whisper, clips):
    total, count = 0.0, 0
    for clip, loss in zip(clips, losses(whisper.model, clips)):
        with torch.no_grad():
            logits, _ = whisper.model(
                clip.features[None], torch.tensor([len(clip.features)]), torch.tensor([clip.tokens[:-1]])
            )
        log_probs = logits[0].log_softmax(-1)
        places = range(clip.prefix - 1, len(clip.tokens) - 1)
        expected = -sum(float(log_probs[place, clip.tokens[place + 1]]) for place in places)
        assert float(loss) == pytest.approx(expected, rel=1e-4)
        total, count = total + expected, count + len(places)
    assert mean_loss(whisper.model, clips) == pytest.approx(total / count, rel=1e-4)


def test_norms_are_of_all_positions_that_the_layers_see(whisper, clips):
    """Also of the cross-attention, whose keys see frames and whose queries see tokens."""
    model, seen = whisper.model, {}
    scores = speech_scores("wanda", model, clips)
    attention = model.decoder.layers[1].encoder_attn
    assert isinstance(attention, WhisperAttention)
    handles = [
        layer.register_forward_pre_hook(lambda _, x, name=name: seen.setdefault(name, []).append(x[0][0]))
        for name, layer in (("k_proj", attention.k_proj), ("q_proj", attention.q_proj))
    ]
    with torch.no_grad():
        for _ in losses(model, clips):
            pass
    for handle in handles:
        handle.remove()
    for name, inputs in seen.items():
        x = torch.cat(inputs).double().numpy()
        norm = np.sqrt((x**2).sum(0) / len(x))
        expected = np.abs(getattr(attention, name).weight.detach().numpy()) * norm
        found = scores[f"decoder.layers.1.encoder_attn.{name}.weight"].numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert len(torch.cat(seen["q_proj"])) == sum(len(clip.tokens) - 1 for clip in clips)


@pytest.mark.parametrize("name", ["taylor", "fisher"])
def test_gradients_are_those_of_each_clip(whisper, clips, name):
    scores = speech_scores(name, whisper.model, clips)
    key = "encoder.layers.0.fc1.weight"
    weight = prunable(whisper.model)[key]
    expected = torch.zeros_like(weight)
    for loss in losses(whisper.model, clips):
        [gradient] = torch.autograd.grad(loss, [weight])
        change = (weight * gradient).detach()
        expected += change.abs() if name == "taylor" else change**2
    torch.testing.assert_close(scores[key], expected)
    assert set(scores) == set(prunable(whisper.model))


def test_masks_are_in_force_within_the_block_alone(whisper, clips):
    dense = mean_loss(whisper.model, clips)
    before = {name: weight.clone() for name, weight in prunable(whisper.model).items()}
    masks = {name: torch.rand(weight.shape) > 0.5 for name, weight in before.items()}
    with pytest.raises(KeyError), masked(whisper.model, masks):
        assert mean_loss(whisper.model, clips) != dense
        weight = prunable(whisper.model)["decoder.layers.0.fc2.weight"]
        assert torch.equal(weight != 0, masks["decoder.layers.0.fc2.weight"])
        raise KeyError
    assert all(torch.equal(weight, before[name]) for name, weight in prunable(whisper.model).items())


def test_windows_are_drawn_once_and_follow_the_seed():
    recordings = [
        ArrayRecording(np.arange(1, 1 + n, dtype=np.float32) + 1e5 * i) for i, n in enumerate((50, 7, 30))
    ]
    first, second = draw_windows(recordings, 20, [30 / 16000, 40 / 16000], seed=1)
    starts = [float(window.waveform[0]) for window in (*first, *second)]
    assert len(set(starts)) == len(starts)
    assert sum(len(window.waveform) for window in first) >= 30
    assert all(len(window.waveform) <= 20 for window in (*first, *second))
    again, _ = draw_windows(recordings, 20, [30 / 16000, 40 / 16000], seed=1)
    assert [float(w.waveform[0]) for w in again] == [float(w.waveform[0]) for w in first]
    with pytest.raises(ValueError, match="audio: found 0 s in all, expected more than 60 s"):
        draw_windows(recordings, 20, [60.0, 1.0], seed=1)


def test_silence_is_no_clip(whisper):
    silence = Window(0, torch.zeros(8000))
    speech = Window(0, torch.from_numpy(noise(0.8)))
    assert [type(clip) for clip in own_texts(whisper, [silence, speech], "en")] == [Clip]
    with pytest.raises(ValueError, match=r"small\.pt hears no speech in any of it"):
        own_texts(whisper, [silence], "en")
