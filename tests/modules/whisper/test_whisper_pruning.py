"""Whisper's encoder that drops frames, and hears a clip with some silence after it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_whisper import SIZES, clips, huggingface_whisper, our_names, small_whisper

from fairseq_prune.data.log_mel import log_mel
from fairseq_prune.modules import onednn
from fairseq_prune.modules.frames import TokenPruning
from fairseq_prune.modules.whisper.context import Hearing, silence_of, with_silence
from fairseq_prune.pruning.criteria import CRITERIA

LIMIT = 2 * SIZES["max_source_positions"]
WEIGHTS = our_names(huggingface_whisper())
CONTEXTS = ["30s", "clip", "clip+0.3"]
lengths_of_clips = st.lists(st.integers(4, LIMIT), min_size=1, max_size=4)


def pruned(context="30s", ratios=(0.7, 0.6), criterion="received", **options):
    model = small_whisper(WEIGHTS, audio_context=context, **options)
    model.encoder.pruning = TokenPruning(list(ratios), criterion)
    return model


def encoded_alone(encoder, features, lengths):
    return [
        encoder(features[row : row + 1, :length], lengths[row : row + 1])
        for row, length in enumerate(lengths.tolist())
    ]


@pytest.mark.parametrize("criterion", CRITERIA)
@torch.no_grad()
@settings(max_examples=10, deadline=None)
@given(
    frames=lengths_of_clips,
    context=st.sampled_from(CONTEXTS),
    stride=st.sampled_from([1, 3, 4]),
    apart=st.booleans(),
)
def test_a_clip_in_a_batch_is_as_alone(criterion, frames, context, stride, apart):
    options = {"silence_stride": stride, "token_keep_silence": apart}
    encoder = pruned(context, criterion=criterion, **options).encoder
    features, lengths = clips(*frames)
    together = encoder(features + 3 * (features == 0), lengths)  # whatever the padding holds
    padding = together["encoder_padding_mask"]
    for row, alone in enumerate(encoded_alone(encoder, features, lengths)):
        kept = alone["positions"][0].size(1)
        assert torch.equal(together["positions"][0][row, :kept], alone["positions"][0][0])
        found = together["encoder_out"][0][row]
        torch.testing.assert_close(found[:kept], alone["encoder_out"][0][0], rtol=1e-3, atol=2e-4)
        assert kept == len(found) or padding[0][row].tolist() == [
            place >= kept for place in range(len(found))
        ]


@pytest.mark.parametrize("context", CONTEXTS)
@torch.no_grad()
def test_logits_of_a_pruned_clip_are_the_same_alone_and_in_a_batch(context):
    model = pruned(context, silence_stride=4)
    features, lengths = clips(80, 33, 52)
    target = torch.arange(21).view(3, 7)
    together, _ = model(features, lengths, target)
    for row, length in enumerate(lengths.tolist()):
        alone, _ = model(features[row : row + 1, :length], lengths[row : row + 1], target[row : row + 1])
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_counts_follow_an_utterances_own_valid_length():
    encoder = pruned("clip", (1.0, 0.5)).encoder
    found = encoder(*clips(80, 33))
    assert (~found["encoder_padding_mask"][0]).sum(1).tolist() == [20, 9]
    assert [encoder.frame_counts(frames) for frames in (80, 33)] == [[40, 40, 20], [17, 17, 9]]
    encoder.audio_context = "clip+0.2"  # which counts as valid: 10 frames more
    assert [encoder.frame_counts(frames) for frames in (80, 33)] == [[50, 50, 25], [27, 27, 14]]
    encoder.keeps_silence = True
    assert [encoder.frame_counts(frames) for frames in (80, 33)] == [[50, 50, 30], [27, 27, 19]]
    encoder.silence_stride = 4
    assert [encoder.frame_counts(frames) for frames in (80, 33)] == [[43, 43, 23], [20, 20, 12]]


@pytest.mark.parametrize("criterion", CRITERIA)
@torch.no_grad()
def test_silence_kept_apart_is_never_dropped(criterion):
    encoder = pruned("clip+0.2", (0.6, 0.6), criterion, token_keep_silence=True).encoder
    for row, frames in zip(encoder(*clips(70, 41))["positions"][0].tolist(), (70, 41)):
        clip = (frames + 1) // 2
        assert set(range(clip, (frames + 20 + 1) // 2)) <= set(row)


@torch.no_grad()
def test_silence_after_the_clip_is_what_the_features_of_zeros_are():
    """For any clip: its features with silence are those of the waveform with zeros after it."""
    for samples in (160, 8000, 16001, 15999):
        waveform = 0.1 * torch.randn(samples, generator=torch.Generator().manual_seed(samples))
        features = log_mel(waveform)
        silence = silence_of("clip+0.5")
        expected = log_mel(torch.cat([waveform, torch.zeros(8000)]))
        found = with_silence(features[None], torch.tensor([len(features)]), len(features) + silence)[0]
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_context_with_silence_hears_a_clip_that_ends_in_it():
    features, lengths = clips(50, 31)
    heard = with_silence(features[1:, :31], lengths[1:], 61)
    expected = small_whisper(WEIGHTS, audio_context="clip").encoder(heard, torch.tensor([61]))
    found = small_whisper(WEIGHTS, audio_context="clip+0.30").encoder(features, lengths)
    torch.testing.assert_close(
        found["encoder_out"][0][1, :31], expected["encoder_out"][0][0], rtol=1e-4, atol=1e-5
    )


def test_silence_ends_where_the_encoder_does():
    assert Hearing.of([100, 2990], silence_of("clip+4"), 3000).mel == [500, 3000]
    assert Hearing.of([100, 2990], silence_of("30s"), 3000, stride=8).lengths == [50 + 182, 1495 + 1]


@torch.no_grad()
def test_thinned_silence_stands_at_its_own_places_and_for_all_of_it():
    encoder = small_whisper(WEIGHTS, silence_stride=4).encoder
    found = encoder(*clips(41, 90))
    assert found["positions"][0][0, :24].tolist() == [*range(21), 23, 27, 31]
    assert found["sizes"][0].masked_fill(found["encoder_padding_mask"][0], 0).sum(1).tolist() == [60, 60]


@torch.no_grad()
def test_silence_is_thinned_only_where_there_is_any():
    full = clips(LIMIT)
    assert torch.equal(
        small_whisper(WEIGHTS, silence_stride=4).encoder(*full)["encoder_out"][0],
        small_whisper(WEIGHTS).encoder(*full)["encoder_out"][0],
    )


@pytest.mark.parametrize("criterion", CRITERIA)
def test_gradients_reach_the_convolutions_through_what_is_kept(criterion):
    model = pruned("clip+0.3", criterion=criterion, silence_stride=3).train()
    model(*clips(50, 31), torch.arange(14).view(2, 7))[0].square().mean().backward()
    without = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []


def test_scored_layers_train_and_evaluate_alike():
    encoder = pruned(silence_stride=3).encoder
    with torch.no_grad():
        fused = encoder(*clips(50, 31))
    with_gradients = encoder(*clips(50, 31))
    assert torch.equal(fused["positions"][0], with_gradients["positions"][0])
    torch.testing.assert_close(
        fused["encoder_out"][0], with_gradients["encoder_out"][0], rtol=1e-3, atol=1e-4
    )


def test_the_warm_up_follows_fairseqs_number_of_updates():
    model = pruned("clip", (1.0, 0.5))
    model.encoder.pruning.warmup_updates = 100
    model.set_num_updates(50)
    assert model.encoder.frame_counts(80) == [40, 40, 30]
    model.set_num_updates(100)
    assert model.encoder.frame_counts(80) == [40, 40, 20]


@torch.no_grad()
def test_trace_tells_what_survives_each_layer():
    trace = pruned("clip").encoder(*clips(80), trace=True)["trace"]
    assert [kept.size(1) for kept in trace] == [28, 17]
    assert set(trace[1][0].tolist()) <= set(trace[0][0].tolist())


@pytest.mark.parametrize("criterion", ["received", "uniform"])
@pytest.mark.parametrize("context, stride", [("30s", 1), ("30s", 4), ("clip+0.3", 1), ("clip", 1)])
@torch.no_grad()
def test_macs_are_those_of_the_products_that_run(criterion, context, stride):
    """Counted by torch's own counter, which knows convolutions and matrix products."""
    attention = pytest.importorskip("torch.nn.attention")
    counting = pytest.importorskip("torch.utils.flop_counter")
    encoder = pruned(context, criterion=criterion, silence_stride=stride).encoder
    counter = counting.FlopCounterMode(display=False)
    with counter, onednn.torchs_own(), attention.sdpa_kernel(attention.SDPBackend.MATH):
        encoder(*clips(75))
    assert encoder.macs(75)["total"] == counter.get_total_flops() / 2


@pytest.mark.parametrize(
    "context", ["29s", "", "clip+", "clip-1", "clip+-1", "clip+31", "clip+nan", "clip+1e3", "clip+0.005"]
)
def test_another_context_is_refused_in_one_line(context):
    with pytest.raises(
        ValueError, match=r"^--audio-context: found '.*', expected 30s, clip, or clip\+SECONDS"
    ):
        small_whisper(audio_context=context)


def test_a_stride_below_one_is_refused():
    with pytest.raises(ValueError, match="--silence-stride: found 0, expected 1 or more"):
        small_whisper(silence_stride=0)
