import pytest
import torch

from fairseq_prune.pruning.counting import extractor_macs, transformer_layer_macs


def test_extractor_by_hand():
    # 100 samples: (100 - 10) // 5 + 1 = 19 frames of 4 channels, then (19 - 3) // 2 + 1 = 9 of 6
    assert extractor_macs(100, [(4, 10, 5), (6, 3, 2)]) == 19 * 4 * 10 + 9 * 4 * 6 * 3


def test_layer_by_hand():
    macs = transformer_layer_macs(frames=10, kept=6, dim=8, ffn_dim=16, heads=2, scored=True)
    assert macs == {"attention": 4 * 10 * 64 + 2 * 100 * 8 + 2 * 100, "feed_forward": 2 * 6 * 8 * 16}


@pytest.mark.parametrize("ratio", [1.0, 0.7])
@pytest.mark.parametrize("criterion", ["received", "uniform"])
def test_hubert_equals_torchs_own_count(ratio, criterion):
    flop_counter = pytest.importorskip("torch.utils.flop_counter", reason="torch 2.0 has no flop counter")
    from fairseq.models.hubert import HubertConfig

    from fairseq_prune.modules.hubert.encoder import TokenPrunedHubert, TokenPruning
    from fairseq_prune.modules.onednn import torchs_own

    cfg = HubertConfig(
        label_rate=50,
        encoder_layers=3,
        encoder_embed_dim=32,
        encoder_ffn_embed_dim=64,
        encoder_attention_heads=4,
        conv_feature_layers="[(16,10,5)] + [(16,3,2)] * 4 + [(16,2,2)] * 2",
        conv_pos=16,
        conv_pos_groups=4,
    )
    hubert = TokenPrunedHubert(cfg, TokenPruning([1.0, ratio, ratio], criterion)).eval()
    # the counter knows the plain attention, not the fused one for the CPU
    backend = torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)
    with torch.no_grad(), torchs_own(), backend, flop_counter.FlopCounterMode(display=False) as counter:
        hubert(torch.randn(1, 32000), [32000])
    assert hubert.macs(32000)["total"] == counter.get_total_flops() // 2
