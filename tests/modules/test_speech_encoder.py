"""What the speech encoder hands to the decoder and to the CTC loss."""

import pytest
import torch
from fairseq.models.hubert import HubertConfig
from fairseq.modules import SinusoidalPositionalEmbedding

from fairseq_prune.modules.hubert.convolution import ConvAdaptor
from fairseq_prune.modules.hubert.encoder import TokenPrunedHubert
from fairseq_prune.modules.speech_encoder import SpeechEncoder


def make_encoder(conv_layers="[(16,10,5)] + [(16,3,2)] * 4 + [(16,2,2)] * 2", ctc_classes=0, positions=True):
    torch.manual_seed(0)
    cfg = HubertConfig(
        label_rate=50,
        encoder_layers=1,
        encoder_embed_dim=32,
        encoder_ffn_embed_dim=32,
        encoder_attention_heads=4,
        conv_feature_layers=conv_layers,
        conv_pos=16,
        conv_pos_groups=4,
        mask_prob=0.0,
    )
    adaptor = ConvAdaptor(32, 24, 0, [])
    encoder = SpeechEncoder(
        TokenPrunedHubert(cfg), adaptor, memory_positions=positions, ctc_classes=ctc_classes
    )
    return encoder.eval()


def test_positions_reach_as_far_as_the_frames_of_any_stride():
    with_positions = make_encoder("[(8,4,4)]")
    without = make_encoder("[(8,4,4)]", positions=False)
    batch = {"src_tokens": torch.randn(1, 8000), "src_lengths": torch.tensor([8000])}
    added = with_positions(**batch)["encoder_out"][0] - without(**batch)["encoder_out"][0]
    expected = SinusoidalPositionalEmbedding.get_embedding(2000, 24)
    torch.testing.assert_close(added[:, 0], expected, rtol=1e-4, atol=1e-4)


def test_what_is_too_short_for_a_frame_becomes_one_with_a_position():
    out = make_encoder()(torch.randn(1, 300), torch.tensor([300]))["encoder_out"][0]
    assert out.shape == (1, 1, 24) and out.isfinite().all()


def test_ctc_logits_are_the_same_in_training_and_on_demand():
    encoder = make_encoder(ctc_classes=7)
    batch = {"src_tokens": torch.randn(2, 8000), "src_lengths": torch.tensor([8000, 6000])}
    lazy = encoder(**batch)
    encoder.training = True  # of the encoder alone: no dropout
    trained = encoder(**batch)
    assert "ctc_logits" not in lazy and encoder.ctc_logits(lazy).shape == (24, 2, 7)
    torch.testing.assert_close(encoder.ctc_logits(lazy), encoder.ctc_logits(trained))


def test_beam_search_does_not_carry_what_only_ctc_needs():
    encoder = make_encoder(ctc_classes=7)
    out = encoder(torch.randn(2, 8000), torch.tensor([8000, 6000]))
    reordered = encoder.reorder_encoder_out(out, torch.tensor([1, 1, 0]))
    assert not any(name.startswith("ctc") for name in reordered)
    assert torch.equal(reordered["encoder_out"][0], out["encoder_out"][0][:, [1, 1, 0]])
    assert torch.equal(reordered["encoder_padding_mask"][0], out["encoder_padding_mask"][0][[1, 1, 0]])


def test_ctc_logits_without_a_head_are_refused():
    encoder = make_encoder()
    with pytest.raises(ValueError, match="needs --ctc-text"):
        encoder.ctc_logits(encoder(torch.randn(1, 8000), torch.tensor([8000])))
