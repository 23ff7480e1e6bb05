"""A speech translation model of a few thousand weights, and something to translate."""

from types import SimpleNamespace

import torch
from fairseq import models
from fairseq.data import Dictionary
from omegaconf import OmegaConf

from fairseq_prune.models.hubert_deltalm_config import HubertDeltaLMTinyConfig

SAMPLES = 8000
SMALL = dict(
    hubert_layers=2,
    hubert_embed_dim=32,
    hubert_ffn_embed_dim=48,
    hubert_conv_layers="[(16,10,5)] + [(16,3,2)] * 4 + [(16,2,2)] * 2",
    hubert_conv_pos_groups=4,
    deltalm_embed_dim=32,
    deltalm_ffn_embed_dim=48,
)


def dictionary(size, letter):
    words = Dictionary()
    for i in range(size):
        words.add_symbol(f"{letter}{i}")
    return words


def make_task(ctc=False, same_text=False):
    return SimpleNamespace(
        target_dictionary=dictionary(20, "t"),
        transcript_dictionary=dictionary(20, "t") if same_text else dictionary(12, "s"),
        ctc_dictionary=dictionary(6, "c") if ctc else None,
    )


def make_config(**options):
    return OmegaConf.create(
        {"model": OmegaConf.structured(HubertDeltaLMTinyConfig(**{**SMALL, **options}))}
    ).model


def make_model(ctc=False, same_text=False, **options):
    torch.manual_seed(0)
    cfg = make_config(**options)
    cfg._name = "hubert_deltalm_tiny"
    return models.build_model(cfg, make_task(ctc, same_text)).eval()


def speech(*lengths):
    torch.manual_seed(1)
    source = torch.zeros(len(lengths), max(lengths))
    for i, n in enumerate(lengths):
        source[i, :n] = torch.randn(n)
    return {"src_tokens": source, "src_lengths": torch.tensor(lengths)}
