"""Short files of noise and tones, and small HuBERT checkpoints, for what needs audio without text."""

import numpy as np
import soundfile
import torch
from fairseq.models.hubert import HubertConfig, HubertModel, HubertPretrainingConfig

RATE = 16000
SMALL_HUBERT = {
    "conv_feature_layers": "[(16,10,5)] + [(16,3,2)] * 4 + [(16,2,2)] * 2",
    "encoder_layers": 2,
    "encoder_embed_dim": 32,
    "encoder_ffn_embed_dim": 48,
    "encoder_attention_heads": 4,
    "conv_pos": 16,
    "conv_pos_groups": 4,
}


def write_tones(folder, samples, rate=RATE):
    """A WAV of each length (at its own rate), in two subfolders; their names."""
    random, names = np.random.default_rng(0), []
    for index, count in enumerate(samples):
        name = f"{'ab'[index % 2]}/{index:02}.wav"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        tone = 0.2 * np.sin(np.arange(count) * (0.02 + 0.01 * index)) + 0.02 * random.standard_normal(count)
        soundfile.write(folder / name, tone.astype(np.float32), rate, subtype="PCM_16")
        names.append(name)
    return names


def write_hubert(path, normalize=False, **sizes):
    """A checkpoint as fairseq's pretraining leaves it, of random weights."""
    torch.manual_seed(0)
    options = {**SMALL_HUBERT, **sizes}
    config = HubertConfig(label_rate=50.0, **options)
    model = HubertModel(config, HubertPretrainingConfig(), [None])
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    weights = {k: v for k, v in model.state_dict().items() if k != "label_embs_concat"}
    cfg = {
        "model": {"_name": "hubert", **options},
        "task": {"_name": "hubert_pretraining", "normalize": normalize},
    }
    torch.save({"cfg": cfg, "args": None, "model": weights}, path)
    return path
