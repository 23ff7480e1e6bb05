"""Small DeltaLMs, and files in the published layout."""

import torch
from fairseq.data import Dictionary

from fairseq_prune.modules.deltalm.model import DeltaLMDecoder, DeltaLMEncoder
from fairseq_prune.modules.deltalm.settings import DeltaLMSettings

SIZES = {
    "embed_dim": 8,
    "ffn_embed_dim": 12,
    "attention_heads": 2,
    "encoder_layers": 3,
    "decoder_layers": 2,
    "max_source_positions": 20,
    "max_target_positions": 20,
}
PIECES = [f"piece{index}" for index in range(40)]


def dictionary(pieces=PIECES):
    symbols = Dictionary()
    for piece in pieces:
        symbols.add_symbol(piece)
    return symbols


def build(symbols=None, share=False, **changes):
    symbols = symbols or dictionary()
    settings = DeltaLMSettings(**{**SIZES, **changes})
    decoder = DeltaLMDecoder.build(settings, symbols)
    encoder = DeltaLMEncoder.build(settings, symbols, decoder.embed_tokens if share else None)
    return encoder.eval(), decoder.eval()


def published_weights(
    rows, dim=8, ffn=12, encoder_layers=3, decoder_layers=2, positions=20, make=torch.randn
):
    """Random weights under the names that deltalm-base.pt has (392 tensors there)."""
    weights = {}

    def module(name, *shape):
        weights[f"{name}.weight"] = make(*shape)
        weights[f"{name}.bias"] = make(shape[0])

    def attention(name):
        for projection in ("q_proj", "k_proj", "v_proj", "out_proj"):
            module(f"{name}.{projection}", dim, dim)

    def feed_forward(name):
        module(f"{name}.fc1", ffn, dim)
        module(f"{name}.fc2", dim, ffn)

    table = make(rows, dim)
    for side in ("tgt_embedding", "src_embedding"):
        weights[f"{side}.embed_tokens.weight"] = table
        weights[f"{side}.embed_positions.weight"] = make(positions + 2, dim)
        module(f"{side}.emb_layer_norm", dim)
    for index in range(encoder_layers):
        layer = f"encoder.layers.{index}"
        attention(f"{layer}.self_attn")
        feed_forward(f"{layer}.ffn")
        module(f"{layer}.self_attn_layer_norm", dim)
        module(f"{layer}.final_layer_norm", dim)
    for index in range(decoder_layers):
        layer = f"decoder.layers.{index}"
        attention(f"{layer}.self_attn")
        attention(f"{layer}.encoder_attn")
        feed_forward(f"{layer}.ffn_1")
        feed_forward(f"{layer}.ffn_2")
        for norm in ("self_attn", "encoder_attn", "final", "ffn"):
            module(f"{layer}.{norm}_layer_norm", dim)
    return weights
