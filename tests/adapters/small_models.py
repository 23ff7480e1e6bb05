"""Models of transformers with random weights, of a size for tests."""

import torch
import transformers

WIDTHS = dict(hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=24)
CONVOLUTIONS = dict(
    conv_dim=[8, 8],
    conv_kernel=[10, 4],
    conv_stride=[5, 4],
    num_conv_pos_embeddings=8,
    num_conv_pos_embedding_groups=2,
)
LARGE = dict(feat_extract_norm="layer", do_stable_layer_norm=True, conv_bias=True)
QUIET = dict(
    hidden_dropout=0.0,
    activation_dropout=0.0,
    attention_dropout=0.0,
    feat_proj_dropout=0.0,
    final_dropout=0.0,
    layerdrop=0.0,
    apply_spec_augment=False,
    mask_time_prob=0.0,
)
KINDS = {"hubert": "Hubert", "wav2vec2": "Wav2Vec2", "wavlm": "WavLM"}
WHISPER = dict(
    d_model=16,
    encoder_layers=4,
    decoder_layers=2,
    encoder_attention_heads=2,
    decoder_attention_heads=2,
    encoder_ffn_dim=24,
    decoder_ffn_dim=24,
    num_mel_bins=8,
    max_source_positions=60,
    max_target_positions=24,
    vocab_size=40,
    pad_token_id=2,
    bos_token_id=2,
    eos_token_id=2,
    decoder_start_token_id=1,
    suppress_tokens=[],
    begin_suppress_tokens=[],
)


def waveform_model(kind, head="Model", seed=0, **options):
    """Such as `HubertModel`, or with head="ForCTC" `HubertForCTC`; deterministic unless options say otherwise."""
    torch.manual_seed(seed)
    options = {**WIDTHS, **CONVOLUTIONS, **QUIET, "vocab_size": 6, **options}
    if kind == "wavlm":
        options = {"num_buckets": 8, "max_bucket_distance": 20, **options}
    config = getattr(transformers, f"{KINDS[kind]}Config")(**options)
    return enlarge(getattr(transformers, KINDS[kind] + head)(config).eval())


def whisper_model(head="ForConditionalGeneration", seed=0, **options):
    """Such as `WhisperForConditionalGeneration`."""
    torch.manual_seed(seed)
    config = transformers.WhisperConfig(**{**WHISPER, **options})
    return enlarge(getattr(transformers, f"Whisper{head}")(config).eval())


@torch.no_grad()
def enlarge(model):
    """Random weights as published are so small that attention is uniform."""
    for name, parameter in model.named_parameters():
        if "proj" in name and parameter.dim() == 2:
            parameter.mul_(12)
    return model


def waveforms(*samples, seed=1):
    """Noise (batch, longest), zero padded, and its mask."""
    generator = torch.Generator().manual_seed(seed)
    values, mask = torch.zeros(len(samples), max(samples)), torch.zeros(len(samples), max(samples)).long()
    for row, length in enumerate(samples):
        values[row, :length] = torch.randn(length, generator=generator)
        mask[row, :length] = 1
    return values, mask
