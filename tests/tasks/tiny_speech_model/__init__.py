"""A user-dir with a model of a few thousand parameters, so that tests of the task need no real one."""

from dataclasses import dataclass, field

import torch
from fairseq.dataclass import FairseqDataclass
from fairseq.models import FairseqEncoder, FairseqEncoderDecoderModel, register_model
from fairseq.models.transformer import TransformerConfig, TransformerDecoderBase

import fairseq_prune  # noqa: F401

FRAME = 400  # samples


@dataclass
class TinySpeechConfig(FairseqDataclass):
    dim: int = field(default=16, metadata={"help": "width"})


class TinyEncoder(FairseqEncoder):
    def __init__(self, dim):
        super().__init__(None)
        self.linear = torch.nn.Linear(FRAME, dim)

    def forward(self, src_tokens, src_lengths):
        frames = torch.relu(self.linear(src_tokens.unfold(1, FRAME, FRAME)))
        lengths = (src_lengths // FRAME).clamp(min=1)
        padding = torch.arange(frames.size(1), device=lengths.device)[None] >= lengths[:, None]
        return {"encoder_out": [frames.transpose(0, 1)], "encoder_padding_mask": [padding]}

    def reorder_encoder_out(self, encoder_out, new_order):
        return {
            "encoder_out": [encoder_out["encoder_out"][0].index_select(1, new_order)],
            "encoder_padding_mask": [encoder_out["encoder_padding_mask"][0].index_select(0, new_order)],
        }

    def max_positions(self):
        return 10**9


@register_model("tiny_speech", dataclass=TinySpeechConfig)
class TinySpeech(FairseqEncoderDecoderModel):
    @classmethod
    def build_model(cls, cfg, task):
        config = TransformerConfig()
        config.decoder.embed_dim = config.decoder.input_dim = config.decoder.output_dim = cfg.dim
        config.decoder.ffn_embed_dim = config.encoder.embed_dim = cfg.dim
        config.decoder.attention_heads, config.decoder.layers = 2, 1
        config.max_target_positions = 200
        dictionary = task.target_dictionary
        embedding = torch.nn.Embedding(len(dictionary), cfg.dim, dictionary.pad())
        return cls(TinyEncoder(cfg.dim), TransformerDecoderBase(config, dictionary, embedding))
