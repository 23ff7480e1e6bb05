"""The token-pruned encoder against fairseq, torchaudio, and itself in other batches.

Over 300 lines: one encoder is held against three libraries.
"""

import pytest
import torch
from fairseq.models.hubert import HubertConfig, HubertModel
from hubert_models import FORMS, SAMPLES, SIZES, TASK, in_a_batch, make_hubert, reference_of

from fairseq_prune.checkpoints.hubert.reading import read_hubert
from fairseq_prune.checkpoints.loading import load_state_dict_strictly
from fairseq_prune.modules.hubert.architecture import hubert_config
from fairseq_prune.modules.hubert.encoder import TokenPrunedHubert, TokenPruning
from fairseq_prune.pruning.criteria import CRITERIA


@pytest.mark.parametrize("form", FORMS)
def test_unpadded_output_equals_fairseqs(form):
    hubert = make_hubert(form, ratios=[1.0] * 4)
    waveform = torch.randn(2, SAMPLES)
    expected, _ = reference_of(hubert, form).extract_features(waveform)
    torch.testing.assert_close(hubert(waveform, [SAMPLES] * 2).x, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_unpadded_output_equals_torchaudios(form):
    torchaudio = pytest.importorskip("torchaudio")
    hubert = make_hubert(form, ratios=[1.0] * 4)
    reference = torchaudio.models.wav2vec2.utils.import_fairseq_model(reference_of(hubert, form)).eval()
    waveform = torch.randn(2, SAMPLES)
    expected, _ = reference(waveform)
    torch.testing.assert_close(hubert(waveform, [SAMPLES] * 2).x, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_unpadded_output_equals_transformers(form, tmp_path):
    transformers = pytest.importorskip("transformers")
    names = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
    cfg = transformers.HubertConfig(
        conv_dim=[32] * 7,
        conv_kernel=[10, 3, 3, 3, 3, 2, 2],
        conv_stride=[5, 2, 2, 2, 2, 2, 2],
        num_hidden_layers=2,
        hidden_size=64,
        intermediate_size=96,
        num_attention_heads=4,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
        **(names if form == "large" else {}),
    )
    torch.manual_seed(1)
    reference = transformers.HubertModel(cfg).eval()
    for parameter in reference.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    reference.save_pretrained(tmp_path)
    checkpoint = read_hubert(tmp_path)
    hubert = TokenPrunedHubert(hubert_config(checkpoint.config)).eval()
    load_state_dict_strictly(hubert, checkpoint.state_dict, str(tmp_path))
    waveform = torch.randn(2, SAMPLES)
    expected = reference(waveform).last_hidden_state
    torch.testing.assert_close(hubert(waveform, [SAMPLES] * 2).x, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("form", FORMS)
def test_output_and_kept_frames_are_the_same_alone_and_in_a_batch(form, criterion):
    hubert = make_hubert(form, criterion, normalize=form == "large")
    waveform = torch.randn(SAMPLES)
    alone = hubert(waveform.unsqueeze(0), [SAMPLES])
    batch = hubert(*in_a_batch(waveform))
    kept = alone.lengths[0]
    assert batch.lengths[1] == kept
    assert torch.equal(batch.positions[1, :kept], alone.positions[0])
    torch.testing.assert_close(batch.x[1, :kept], alone.x[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("longest", [20000, 20011, 19999])
def test_fairseqs_padding_is_an_option_and_gives_all_that_fairseq_gives(form, longest):
    hubert = make_hubert(form, ratios=[1.0] * 4, pad_invariant=False)
    waveform = torch.randn(SAMPLES)
    batch, lengths = in_a_batch(waveform, (longest, 12000))
    padding = torch.arange(longest) >= torch.tensor(lengths)[:, None]
    expected, frame_padding = reference_of(hubert, form).extract_features(batch, padding_mask=padding)
    found = hubert(batch, lengths)
    assert torch.equal(found.padding_mask, frame_padding)
    torch.testing.assert_close(found.x, expected, rtol=1e-4, atol=1e-4)


def test_fairseqs_padding_changes_the_answer():
    hubert = make_hubert(ratios=[1.0] * 4, pad_invariant=False)
    waveform = torch.randn(SAMPLES)
    alone, padded = hubert(waveform.unsqueeze(0), [SAMPLES]), hubert(*in_a_batch(waveform))
    assert (padded.x[1, :49] - alone.x[0]).abs().max() > 0.01


@pytest.mark.parametrize("form", FORMS)
def test_dropping_before_the_feed_forward_block_gives_what_dropping_after_the_layer_gives(form):
    pruned = make_hubert(form, ratios=[1.0, 1.0, 1.0, 0.5])
    dense = make_hubert(form, ratios=[1.0] * 4)
    waveform = torch.randn(1, SAMPLES)
    few, all_frames = pruned(waveform, [SAMPLES]), dense(waveform, [SAMPLES])
    torch.testing.assert_close(few.x, all_frames.x[:, few.positions[0]], rtol=1e-4, atol=1e-4)


def test_merged_frames_weigh_as_much_as_the_frames_they_stand_for():
    hubert = make_hubert(criterion="merge")
    frames = hubert(torch.randn(1, SAMPLES), [SAMPLES])
    assert frames.sizes.sum().item() == 49  # 16,000 samples are 49 frames


def test_trace_tells_what_survives_each_layer():
    frames = make_hubert()(torch.randn(1, SAMPLES), [SAMPLES], trace=True)
    assert [kept.shape[1] for kept in frames.trace] == [49, 45, 32, 20]
    for before, after in zip(frames.trace, frames.trace[1:]):
        assert set(after[0].tolist()) <= set(before[0].tolist())


def test_gradients_reach_the_extractor_through_kept_frames():
    hubert = make_hubert().train()
    batch, lengths = in_a_batch(torch.randn(SAMPLES))
    hubert(batch, lengths).x.square().sum().backward()
    assert all(p.grad is not None for name, p in hubert.named_parameters() if name != "mask_emb")


def test_scored_layers_train_and_evaluate_alike():
    hubert = make_hubert()
    waveform = torch.randn(1, SAMPLES)
    with torch.no_grad():
        fused = hubert(waveform, [SAMPLES])
    with_gradients = hubert(waveform, [SAMPLES])
    assert torch.equal(fused.positions, with_gradients.positions)
    torch.testing.assert_close(fused.x, with_gradients.x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_half_precision_runs_and_stays_near(half_dtype, criterion):
    hubert = make_hubert(criterion=criterion)
    batch, lengths = in_a_batch(torch.randn(SAMPLES))
    full = hubert(batch, lengths)
    half = hubert.to(half_dtype)(batch, lengths)
    assert half.lengths == full.lengths and half.x.dtype == half_dtype and half.x.isfinite().all()
    if criterion == "uniform":  # the choice cannot differ by rounding
        assert (half.x.float() - full.x).norm() / full.x.norm() < 0.05


def test_autocast_stays_near():
    hubert = make_hubert(ratios=[1.0] * 4)
    batch, lengths = in_a_batch(torch.randn(SAMPLES))
    full = hubert(batch, lengths).x
    with torch.autocast("cpu", torch.bfloat16):
        mixed = hubert(batch, lengths).x
    assert (mixed.float() - full).norm() / full.norm() < 0.05


def test_warm_up_starts_with_all_frames():
    hubert = make_hubert()
    hubert.pruning.warmup_updates = 100
    waveform = torch.randn(1, SAMPLES)
    lengths = []
    for update in (0, 50, 100):
        hubert.set_num_updates(update)
        lengths.append(hubert(waveform, [SAMPLES]).lengths[0])
    assert lengths == [49, 32, 20]


def test_an_utterance_keeps_at_least_the_minimum():
    hubert = make_hubert(ratios=[0.1] * 4)
    hubert.pruning.minimum = 5
    assert hubert(torch.randn(1, SAMPLES), [SAMPLES]).lengths == [5]


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("samples", [0, 1, 300])
def test_an_utterance_too_short_for_a_frame_becomes_one(samples, normalize):
    hubert = make_hubert(normalize=normalize)
    waveform = torch.randn(samples)
    alone, batch = hubert(waveform.unsqueeze(0), [samples]), hubert(*in_a_batch(waveform))
    assert alone.lengths == [1] and batch.lengths[1] == 1 and alone.x.isfinite().all()
    torch.testing.assert_close(batch.x[1, :1], alone.x[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_keeping_every_frame_is_fairseqs_encoder_whatever_the_criterion(criterion):
    hubert = make_hubert(criterion=criterion, ratios=[1.0] * 4)
    waveform = torch.randn(2, SAMPLES)
    expected, _ = reference_of(hubert).extract_features(waveform)
    found = hubert(waveform, [SAMPLES] * 2)
    assert found.sizes is None and torch.equal(found.positions[0], torch.arange(49))
    torch.testing.assert_close(found.x, expected, rtol=1e-4, atol=1e-4)


def test_random_frames_are_others_at_every_update_and_always_the_same_in_evaluation():
    hubert = make_hubert(criterion="random")
    waveform = torch.randn(1, SAMPLES)

    def kept(update, training):
        hubert.train(training).set_num_updates(update)
        return hubert(waveform, [SAMPLES]).positions[0].tolist()

    assert kept(1, True) == kept(1, True) != kept(2, True)
    assert kept(1, False) == kept(2, False)


def test_without_a_known_update_the_warm_up_is_over():
    hubert = make_hubert()
    hubert.pruning.warmup_updates = 100
    assert hubert(torch.randn(1, SAMPLES), [SAMPLES]).lengths == [20]


def with_batch_norm():
    hubert = make_hubert(ratios=[1.0] * 4)
    macs = hubert.macs(SAMPLES)
    norm = torch.nn.BatchNorm1d(64)
    norm.bias.data.fill_(1.0)
    hubert.encoder.pos_conv.insert(0, norm)
    return hubert.eval(), macs


def test_macs_are_counted_after_a_batch_norm():
    hubert, macs = with_batch_norm()
    assert hubert.macs(SAMPLES) == macs


def test_padding_stays_zero_after_a_batch_norm():
    hubert, _ = with_batch_norm()
    waveform = torch.randn(SAMPLES)
    alone, batch = hubert(waveform.unsqueeze(0), [SAMPLES]), hubert(*in_a_batch(waveform))
    torch.testing.assert_close(batch.x[1, :49], alone.x[0], rtol=1e-4, atol=1e-4)


def masked_hubert(**options):
    options = {"mask_prob": 0.65, "mask_length": 10, "mask_channel_prob": 0.1, **options}
    return TokenPrunedHubert(HubertConfig(**SIZES, dropout_input=0.0, dropout_features=0.0, **options))


@pytest.mark.parametrize("frames", [1, 2, 11, 12])
def test_short_utterances_can_be_masked_beside_a_long_one(frames):
    hubert = masked_hubert().train()
    samples = 400 + 320 * (frames - 1)
    out = hubert(*in_a_batch(torch.randn(samples)), mask=True)
    assert out.lengths[1] == frames and out.x.isfinite().all()


def test_masking_is_by_frames_and_channels_and_leaves_padding():
    hubert = masked_hubert(mask_channel_length=8)
    hubert.mask_emb.data.fill_(7.0)
    torch.manual_seed(0)
    x = hubert._mask(torch.ones(2, 40, 64), [40, 12])
    assert set(x.unique().tolist()) == {0.0, 1.0, 7.0}
    assert not (x[1, 12:] == 7).any() and (x[1, :12] == 1).any() and (x[0] == 7).any()
    zero_channels = (x == 0).all(1)
    assert torch.equal(zero_channels, (x == 0).any(1)) and zero_channels.any()


@pytest.mark.parametrize(
    "options", [{}, {"mask_prob": 0.0, "mask_channel_prob": 0.0, "encoder_layerdrop": 0.5}]
)
def test_masking_and_layer_drop_repeat_with_torchs_seed(options):
    hubert = masked_hubert(dropout=0.0, attention_dropout=0.0, activation_dropout=0.0, **options).train()
    batch, lengths = in_a_batch(torch.randn(SAMPLES))

    def run(seed):
        torch.manual_seed(seed)
        return hubert(batch, lengths, mask=True).x

    assert torch.equal(run(1), run(1))
    assert any(not torch.equal(run(1), run(seed)) for seed in range(2, 6))


def test_layers_that_are_left_out_drop_no_frames():
    hubert = make_hubert().train()
    hubert.encoder.layerdrop = 1.0
    assert hubert(torch.randn(1, SAMPLES), [SAMPLES]).lengths == [49]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(keep_ratios=[1.0], criterion="loudest"), "found 'loudest'"),
        (dict(keep_ratios=[1.0], minimum=0), "found 0, expected 1 or more"),
        (dict(keep_ratios=[0.4], criterion="merge"), "at most halve .* 0.4"),
    ],
)
def test_pruning_that_cannot_be_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        TokenPruning(**arguments)


@pytest.mark.slow
def test_base_of_the_real_size_equals_fairseq_and_torchaudio():
    import torchaudio

    cfg = HubertConfig(label_rate=50)
    torch.manual_seed(0)
    hubert = TokenPrunedHubert(cfg).eval()
    original = HubertModel(cfg, TASK, [None]).eval()
    original.load_state_dict(hubert.state_dict(), strict=False)
    waveform = torch.randn(1, 4 * SAMPLES)
    with torch.no_grad():
        ours = hubert(waveform, [4 * SAMPLES]).x
        expected, _ = original.extract_features(waveform)
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)
        reference = torchaudio.models.wav2vec2.utils.import_fairseq_model(original).eval()
        torch.testing.assert_close(ours, reference(waveform)[0], rtol=1e-4, atol=1e-4)
