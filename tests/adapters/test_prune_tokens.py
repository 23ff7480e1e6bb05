"""Token pruning in transformers: the frames and outputs of our own encoders, and the library's ways of use."""

import copy
import pickle

import pytest
import torch

pytest.importorskip("transformers", minversion="5.24")

from small_models import KINDS, LARGE, waveform_model, waveforms, whisper_model

from fairseq_prune.adapters.transformers import (
    kept_frames,
    load,
    prune_tokens,
    prune_tokens_again,
    restore_tokens,
)
from fairseq_prune.checkpoints.hubert.reading import read_hubert
from fairseq_prune.checkpoints.loading import load_state_dict_strictly
from fairseq_prune.modules.frames import TokenPruning
from fairseq_prune.modules.hubert.architecture import build_encoder
from fairseq_prune.modules.whisper.encoder import WhisperEncoder
from fairseq_prune.modules.whisper.settings import WhisperSettings
from fairseq_prune.pruning.criteria import CRITERIA

RATIOS = [1.0, 0.7, 0.6, 1.0]
KIND = pytest.mark.parametrize("kind", KINDS)
FORM = pytest.mark.parametrize("form", [{}, LARGE], ids=["base", "large"])
SAMPLES = (1600, 1000)


def fairseq_encoder(model, folder, criterion):
    """Our encoder of the same weights, with the same pruning."""
    model.save_pretrained(folder)
    checkpoint = read_hubert(folder)
    pruning = TokenPruning(RATIOS, criterion)
    encoder = build_encoder({**checkpoint.config, "normalize": False}, pruning).eval()
    load_state_dict_strictly(encoder, checkpoint.state_dict, folder)
    return encoder


@KIND
@FORM
@pytest.mark.parametrize("criterion", CRITERIA)
@torch.no_grad()
def test_outputs_are_those_of_the_encoder_in_fairseq(kind, form, criterion, tmp_path):
    model = waveform_model(kind, **form)
    encoder = fairseq_encoder(model, tmp_path, criterion)
    lengths = SAMPLES if form else SAMPLES[:1] * 2  # published group norms see the padding
    values, mask = waveforms(*lengths)
    prune_tokens(model, keep_ratios=RATIOS, criterion=criterion)
    found = model(values, attention_mask=mask).last_hidden_state
    expected = encoder(values, lengths)
    kept = kept_frames(model)
    assert kept.lengths == list(expected.lengths) and kept.lengths[0] < found.shape[1] + 1
    assert torch.equal(kept.positions, expected.positions)
    for row, length in enumerate(kept.lengths):
        torch.testing.assert_close(found[row, :length], expected.x[row, :length], rtol=0, atol=1e-4)


@pytest.mark.parametrize("criterion", CRITERIA)
@torch.no_grad()
def test_outputs_of_whisper_are_those_of_the_encoder_in_fairseq(criterion):
    model = whisper_model()
    settings = WhisperSettings(
        embed_dim=16,
        ffn_embed_dim=24,
        attention_heads=2,
        encoder_layers=4,
        mel_bins=8,
        max_source_positions=60,
        audio_context="30s",
    )
    encoder = WhisperEncoder(settings, TokenPruning(RATIOS, criterion)).eval()
    encoder.load_state_dict(model.model.encoder.state_dict())
    features = torch.randn(2, 120, 8, generator=torch.Generator().manual_seed(0))
    expected = encoder(features, torch.tensor([120, 120]))
    prune_tokens(model, keep_ratios=RATIOS, criterion=criterion)
    found = model.model.encoder(features.transpose(1, 2)).last_hidden_state
    assert torch.equal(kept_frames(model).positions, expected["positions"][0])
    torch.testing.assert_close(found, expected["encoder_out"][0], rtol=0, atol=1e-4)


@KIND
@torch.no_grad()
def test_an_utterance_gives_the_same_alone_and_in_a_batch(kind):
    model = prune_tokens(waveform_model(kind, **LARGE), keep_ratio=0.6, start_layer=2)
    values, mask = waveforms(*SAMPLES)
    together = model(values, attention_mask=mask).last_hidden_state
    length = kept_frames(model).lengths[1]
    alone = model(values[1:, : SAMPLES[1]]).last_hidden_state
    assert alone.shape[1] == length < together.shape[1]
    torch.testing.assert_close(together[1, :length], alone[0], rtol=0, atol=1e-5)


@KIND
@FORM
@torch.no_grad()
def test_keeping_all_changes_nothing_and_restoring_undoes_it(kind, form):
    model = waveform_model(kind, **form)
    classes, settings = [type(module) for module in model.modules()], model.config.to_dict()
    values, mask = waveforms(*SAMPLES)
    before = model(values, attention_mask=mask).last_hidden_state
    prune_tokens(model, keep_ratio=1.0, start_layer=1)
    assert torch.equal(model(values, attention_mask=mask).last_hidden_state, before)
    prune_tokens(model, keep_ratio=0.5, start_layer=1)
    assert model(values, attention_mask=mask).last_hidden_state.shape[1] < before.shape[1]
    restore_tokens(model)
    assert torch.equal(model(values, attention_mask=mask).last_hidden_state, before)
    assert [type(module) for module in model.modules()] == classes
    assert model.config.to_dict() == settings


@KIND
@torch.no_grad()
def test_a_saved_model_drops_frames_again(kind, tmp_path):
    model = prune_tokens(waveform_model(kind, "ForCTC"), keep_ratio=0.6, start_layer=2, criterion="norm")
    values, mask = waveforms(*SAMPLES)
    expected = model(values, attention_mask=mask).logits
    model.save_pretrained(tmp_path)
    assert torch.equal(load(tmp_path)(values, attention_mask=mask).logits, expected)
    found = type(model).from_pretrained(tmp_path).eval()
    assert found(values, attention_mask=mask).logits.shape[1] > expected.shape[1]
    assert torch.equal(prune_tokens_again(found)(values, attention_mask=mask).logits, expected)


@torch.no_grad()
def test_a_copy_is_a_model_of_its_own():
    model = prune_tokens(waveform_model("hubert", "ForCTC"), keep_ratio=0.6, start_layer=2)
    values, mask = waveforms(*SAMPLES)
    expected = model(values, attention_mask=mask).logits
    other = copy.deepcopy(model)
    restore_tokens(model)
    assert torch.equal(other(values, attention_mask=mask).logits, expected)


@torch.no_grad()
def test_another_process_can_have_the_model():
    model = prune_tokens(whisper_model().model.encoder, keep_ratio=0.5, start_layer=2)
    features = torch.randn(1, 8, 120, generator=torch.Generator().manual_seed(0))
    expected = model(features).last_hidden_state
    assert torch.equal(pickle.loads(pickle.dumps(model))(features).last_hidden_state, expected)


@KIND
def test_the_loss_of_ctc_is_that_of_each_utterance_alone(kind):
    model = waveform_model(kind, "ForCTC", ctc_loss_reduction="sum", **LARGE)
    prune_tokens(model, keep_ratio=0.7, start_layer=3)
    values, mask = waveforms(*SAMPLES)
    labels = torch.tensor([[1, 2], [3, 4]])
    together = model(values, attention_mask=mask, labels=labels).loss
    alone = [
        model(values[row : row + 1, :samples], labels=labels[row : row + 1]).loss
        for row, samples in enumerate(SAMPLES)
    ]
    torch.testing.assert_close(together, sum(alone), rtol=1e-5, atol=0)
    assert model._get_feat_extract_output_lengths(mask.sum(1)).tolist() == [40, 25]
    assert int(model._get_feat_extract_output_lengths(SAMPLES[0])) == 40


@pytest.mark.parametrize("layerdrop", [0.0, 0.5])
def test_gradients_do_not_depend_on_checkpointing(layerdrop):
    model = waveform_model("hubert", "ForCTC", layerdrop=layerdrop).train()
    prune_tokens(model, keep_ratio=0.7, start_layer=2)
    values, mask = waveforms(*SAMPLES)
    gradients = []
    for enable in (model.gradient_checkpointing_disable, model.gradient_checkpointing_enable):
        enable()
        model.zero_grad()
        torch.manual_seed(4)
        model(values, attention_mask=mask, labels=torch.tensor([[1, 2], [3, 4]])).loss.backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    assert any(float(gradient.abs().max()) for gradient in gradients[0])
    for plain, checkpointed in zip(*gradients):
        torch.testing.assert_close(plain, checkpointed)


@torch.no_grad()
def test_a_whisper_generates_from_the_frames_that_are_left():
    model = whisper_model()
    features = torch.randn(2, 8, 120, generator=torch.Generator().manual_seed(0))
    dense = model.generate(features, max_new_tokens=8, num_beams=2)
    prune_tokens(model, keep_ratio=0.5, start_layer=2)
    found = model.generate(features, max_new_tokens=8, num_beams=2)
    assert kept_frames(model).lengths == [8, 8]
    alone = model.generate(features[1:], max_new_tokens=8, num_beams=2)
    assert torch.equal(found[1:, : alone.shape[1]], alone)
    with pytest.raises(ValueError, match="restore_tokens"):
        model._extract_token_timestamps(found, [[0, 0]])
    restore_tokens(model)
    assert torch.equal(model.generate(features, max_new_tokens=8, num_beams=2), dense)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@torch.no_grad()
def test_every_implementation_of_attention_sees_the_padding_that_is_left(implementation):
    model = waveform_model("hubert", **LARGE)
    model.set_attn_implementation(implementation)
    prune_tokens(model, keep_ratio=0.6, start_layer=2)
    values, mask = waveforms(*SAMPLES)
    found = model(values, attention_mask=mask).last_hidden_state
    reference = prune_tokens(waveform_model("hubert", **LARGE), keep_ratio=0.6, start_layer=2)
    torch.testing.assert_close(
        found, reference(values, attention_mask=mask).last_hidden_state, rtol=0, atol=1e-5
    )


@pytest.mark.parametrize(
    "options, message",
    [
        ({"keep_ratio": 0.0}, "keep ratio: found 0.0"),
        ({"start_layer": 5}, "found 5, expected 1 to 4"),
        ({"criterion": "best"}, "found 'best'"),
        ({"keep_ratios": [0.5]}, "found 1, expected 4"),
    ],
)
def test_bad_options_leave_the_model_as_it_was(options, message):
    model = waveform_model("hubert")
    before = model.config.to_dict()
    with pytest.raises(ValueError, match=message):
        prune_tokens(model, **options)
    assert model.config.to_dict() == before and not hasattr(model.encoder.layers[0], "pruner")


def test_a_model_without_such_layers_is_refused():
    with pytest.raises(ValueError, match="Linear: expected one with an encoder of hubert"):
        prune_tokens(torch.nn.Linear(1, 1))


def test_a_transformers_that_is_too_old_is_refused(monkeypatch):
    model = waveform_model("hubert")
    monkeypatch.setattr("transformers.__version__", "5.12.1")
    with pytest.raises(ValueError, match=r"^transformers: found 5\.12\.1, expected 5\.24 or later$"):
        prune_tokens(model)
