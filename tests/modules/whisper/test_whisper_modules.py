import pytest
import torch
from small_whisper import SIZES, clips, huggingface_whisper, our_names, small_tokenizer, small_whisper

from fairseq_prune.modules.whisper.context import with_silence
from fairseq_prune.modules.whisper.encoder import sinusoids

FRAMES = 2 * SIZES["max_source_positions"]


@pytest.fixture(scope="module")
def pair():
    """transformers' model, and ours with its weights."""
    theirs = huggingface_whisper()
    return theirs, small_whisper(our_names(theirs))


@pytest.fixture
def ours(pair):
    yield pair[1]
    pair[1].encoder.audio_context = "30s"


def tokens(rows=2, length=7):
    torch.manual_seed(2)
    return torch.randint(0, 250, (rows, length))


@torch.no_grad()
def logits_of(theirs, features, target):
    return theirs(input_features=features.transpose(1, 2), decoder_input_ids=target).logits


@torch.no_grad()
@pytest.mark.parametrize("bins", [80, 128])
def test_logits_are_those_of_transformers(bins):
    theirs = huggingface_whisper(mel_bins=bins)
    features, lengths = clips(FRAMES, FRAMES, bins=bins)
    found, _ = small_whisper(our_names(theirs), mel_bins=bins)(features, lengths, tokens())
    torch.testing.assert_close(found, logits_of(theirs, features, tokens()), rtol=0, atol=1e-4)


@torch.no_grad()
def test_in_30_s_a_short_clip_is_followed_by_silence(pair, ours):
    """Which is what transformers computes of the features with silence after them."""
    features, lengths = clips(50, 31)
    padded = with_silence(features, lengths, FRAMES)
    expected = logits_of(pair[0], padded, tokens())
    torch.testing.assert_close(ours(features, lengths, tokens())[0], expected, rtol=0, atol=1e-4)


@torch.no_grad()
def test_in_its_own_length_a_full_clip_is_as_published(pair, ours):
    ours.encoder.audio_context = "clip"
    features, lengths = clips(FRAMES, FRAMES)
    expected = logits_of(pair[0], features, tokens())
    torch.testing.assert_close(ours(features, lengths, tokens())[0], expected, rtol=0, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("context", ["30s", "clip"])
def test_a_clip_in_a_batch_is_as_alone(ours, context):
    ours.encoder.audio_context = context
    lengths = [80, 33, 52]
    features, valid = clips(*lengths)
    together, _ = ours(features + 3 * (features == 0), valid, tokens(3))  # whatever the padding holds
    for row, length in enumerate(lengths):
        alone, _ = ours(features[row : row + 1, :length], valid[row : row + 1], tokens(3)[row : row + 1])
        # products of other sizes are summed in another order, which differs by processor
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_clip_of_its_own_length_takes_positions_for_its_length(ours):
    ours.encoder.audio_context = "clip"
    found = ours.encoder(*clips(51, 20))
    assert found["encoder_out"][0].shape == (2, 26, SIZES["embed_dim"])
    assert (~found["encoder_padding_mask"][0]).sum(1).tolist() == [26, 10]
    assert ours.encoder(*clips(50, 50))["encoder_padding_mask"] == []


@torch.no_grad()
@pytest.mark.parametrize("steps", [[1] * 7, [4, 1, 2], [7]])
def test_cached_steps_give_what_the_whole_sequence_gives(ours, steps):
    encoded = ours.encoder(*clips(50, 31))
    whole, _ = ours.decoder(tokens(), encoded)
    state, parts, seen = {}, [], 0
    for step in steps:
        seen += step
        parts.append(ours.decoder(tokens()[:, :seen], encoded, incremental_state=state)[0])
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("context", ["30s", "clip"])
def test_beams_share_what_the_encoder_gave_through_every_reordering(ours, context):
    """As fairseq's generator does: rows for beams, beams change places, a sentence is finished and leaves."""
    ours.encoder.audio_context = context
    encoded = ours.encoder(*clips(50, 31, 44))
    beams = torch.tensor([0, 0, 1, 1, 2, 2])
    encoded, target, state = ours.encoder.reorder_encoder_out(encoded, beams), tokens(6), {}
    for length, order in ((2, [1, 0, 2, 2, 5, 4]), (3, [1, 1, 5, 4]), (4, [0, 1, 3, 2])):
        ours.decoder(target[:, :length], encoded, incremental_state=state)
        order = torch.tensor(order)
        ours.decoder.reorder_incremental_state_scripting(state, order)
        encoded, target = ours.encoder.reorder_encoder_out(encoded, order), target[order]
    found, _ = ours.decoder(target[:, :5], encoded, incremental_state=state)
    assert len(state["cache"].memory[0].keys) == 2  # sentences, not beams
    full, _ = ours.decoder(target[:, :5], encoded)
    torch.testing.assert_close(found, full[:, -1:], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_no_step_of_decoding_looks_at_the_device(ours, monkeypatch):
    """A comparison of tensors would wait for it."""
    encoded = ours.encoder.reorder_encoder_out(ours.encoder(*clips(50, 31)), torch.tensor([0, 0, 1, 1]))
    target, state = tokens(4), {}
    ours.decoder(target[:, :2], encoded, incremental_state=state)
    monkeypatch.setattr(torch, "equal", None)
    for length, order in ((3, [1, 0, 2, 2]), (4, [2, 3])):
        ours.decoder.reorder_incremental_state_scripting(state, torch.tensor(order))
        target = target[torch.tensor(order)]
        ours.decoder(target[:, :length], encoded, incremental_state=state)


@torch.no_grad()
def test_half_precision_gives_nearly_the_same(half_dtype):
    model = small_whisper(our_names(huggingface_whisper()))
    expected, _ = model(*clips(50, 31), tokens())
    found, _ = model.to(half_dtype)(*clips(50, 31), tokens())
    assert found.dtype == half_dtype
    bound = 0.08 if torch.__version__.startswith("2.0.") else 0.05  # torch 2.0 with AVX2 alone: 0.055
    assert (found.float() - expected).abs().max() < bound * expected.abs().max()


def test_positions_of_the_encoder_are_fixed_and_those_published():
    model = small_whisper()
    expected = huggingface_whisper().model.encoder.embed_positions.weight
    torch.testing.assert_close(model.encoder.embed_positions.weight, expected)
    torch.testing.assert_close(sinusoids(60, 32), expected)
    assert not model.encoder.embed_positions.weight.requires_grad


def test_all_other_parameters_learn():
    model = small_whisper().train()
    model(*clips(50, 31), tokens())[0].square().mean().backward()
    without = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []


def test_inner_states_are_the_embedded_tokens_and_each_layers_output(ours):
    _, extra = ours(*clips(50, 31), tokens())
    assert [tuple(state.shape) for state in extra["inner_states"]] == [(2, 7, 32)] * 4


def test_a_clip_beyond_the_positions_is_refused(ours):
    with pytest.raises(ValueError, match=r"1\.22 s, expected at most the 1\.20 s"):
        ours.encoder(*clips(FRAMES + 2))


def test_tokens_beyond_the_positions_are_refused(ours):
    with pytest.raises(ValueError, match="found 41 tokens, the decoder has positions for 40"):
        ours(*clips(50), torch.zeros(1, 41, dtype=torch.long))


def test_a_width_that_heads_cannot_share_is_refused():
    with pytest.raises(ValueError, match=r"--embed-dim must be a multiple .* found 32 and 5"):
        small_whisper(attention_heads=5, tokenizer=small_tokenizer())
