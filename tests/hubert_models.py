"""Small encoders with token pruning, alone and in batches, and fairseq's own with their weights."""

import torch
from fairseq.models.hubert import HubertConfig, HubertModel
from fairseq.tasks.hubert_pretraining import HubertPretrainingConfig

from fairseq_prune.modules.hubert.encoder import TokenPrunedHubert, TokenPruning

SIZES = dict(
    label_rate=50,
    encoder_layers=4,
    encoder_embed_dim=64,
    encoder_ffn_embed_dim=96,
    encoder_attention_heads=4,
    conv_feature_layers="[(32,10,5)] + [(32,3,2)] * 4 + [(32,2,2)] * 2",
    conv_pos=16,
    conv_pos_groups=4,
)
FORMS = {"base": {}, "large": dict(extractor_mode="layer_norm", layer_norm_first=True, conv_bias=True)}
TASK = HubertPretrainingConfig(data="", sample_rate=16000)
SAMPLES = 16000


def make_hubert(form="base", criterion="received", ratios=(1.0, 0.9, 0.7, 0.6), **kwargs):
    torch.manual_seed(1)
    pruning = TokenPruning(list(ratios), criterion)
    hubert = TokenPrunedHubert(HubertConfig(**SIZES, **FORMS[form]), pruning, **kwargs).eval()
    for parameter in hubert.parameters():  # biases and norms that are not 0 and 1, as in a trained model
        parameter.data += 0.05 * torch.randn_like(parameter)
    return hubert


def in_a_batch(waveform, others=(20000, 12000)):
    """(batch, samples), lengths: ``waveform`` (samples,) zero padded, between other utterances."""
    lengths = [others[0], len(waveform), *others[1:]]
    batch = torch.zeros(len(lengths), max(lengths))
    for i, n in enumerate(lengths):
        batch[i, :n] = waveform if i == 1 else torch.randn(n)
    return batch, lengths


def reference_of(hubert, form="base"):
    """fairseq's own model with the weights of ``hubert``."""
    reference = HubertModel(HubertConfig(**SIZES, **FORMS[form]), TASK, [None]).eval()
    reference.load_state_dict(hubert.state_dict(), strict=False)
    return reference
