"""What describes a Whisper.

Nothing is derived from the size of the vocabulary: what a token means, the tokenizer says.
"""

import json
from dataclasses import dataclass, field
from typing import Optional

from fairseq.dataclass import FairseqDataclass

from fairseq_prune.pruning.components import COMPONENTS


@dataclass
class WhisperSettings(FairseqDataclass):
    """Everything that describes a Whisper; the defaults are the tiny ones."""

    embed_dim: int = field(default=384, metadata={"help": "width of encoder, decoder and embeddings"})
    ffn_embed_dim: int = field(default=1536, metadata={"help": "inner width of the feed-forward blocks"})
    attention_heads: int = field(default=6, metadata={"help": "attention heads of a layer"})
    head_dim: int = field(
        default=0, metadata={"help": "dimensions of a head; 0: width / heads, as long as no head was cut out"}
    )
    layer_sizes: Optional[str] = field(
        default=None,
        metadata={
            "help": "heads of each attention and units of each feed-forward block, where gates left them uneven: JSON, "
            'lists by component such as {"encoder.self_attn": [6, 4], ...}; scripts/compress_whisper.py fills it in'
        },
    )
    encoder_layers: int = field(default=4, metadata={"help": "encoder layers"})
    decoder_layers: int = field(default=4, metadata={"help": "decoder layers"})
    mel_bins: int = field(default=80, metadata={"help": "mel bins of the input (128 in Whisper large-v3)"})
    max_source_positions: int = field(
        default=1500, metadata={"help": "encoder positions, of 20 ms each: 1500 are 30 s"}
    )
    max_target_positions: int = field(default=448, metadata={"help": "decoder positions, prefix included"})
    audio_context: str = field(
        default="30s",
        metadata={
            "help": "what the encoder hears. 30s: every clip filled up with silence to 30 s, as published; clip: only "
            "the clip, for models that were trained so; clip+SECONDS, such as clip+4: so much silence after the clip. "
            "Short contexts are several times as fast"
        },
    )
    silence_stride: int = field(
        default=1,
        metadata={
            "help": "of the silence after the clip, take one frame in so many, which then counts as that many: with "
            "30s and 8, nearly the published error rate for a third of the work; 1: all of it"
        },
    )
    token_keep_silence: bool = field(
        default=False,
        metadata={
            "help": "token pruning leaves the silence after the clip alone: only the clip's own frames are counted, "
            "and dropped or merged"
        },
    )
    dropout: float = field(default=0.0, metadata={"help": "dropout probability"})
    attention_dropout: float = field(default=0.0, metadata={"help": "dropout of attention weights"})
    activation_dropout: float = field(default=0.0, metadata={"help": "dropout in the feed-forward blocks"})


def sizes_by_component(settings) -> dict[str, list[int]]:
    """Heads of each attention and units of each feed-forward block, by component (`pruning.components`).

    Args:
        settings: `WhisperSettings`, or anything with its attributes.

    Raises:
        ValueError: ``layer_sizes`` are none of such a model.
    """
    layers = {"encoder": settings.encoder_layers, "decoder": settings.decoder_layers}
    dense = {
        component: [settings.ffn_embed_dim if component.endswith("fc") else settings.attention_heads]
        * layers[component.partition(".")[0]]
        for component in COMPONENTS
    }
    if not settings.layer_sizes:
        return dense
    try:
        found = json.loads(settings.layer_sizes)
    except ValueError:
        found = None
    expected = ", ".join(f"{component} ({len(sizes)} layers)" for component, sizes in dense.items())
    if not isinstance(found, dict) or set(found) != set(dense):
        raise ValueError(f"--layer-sizes: found {settings.layer_sizes!r}, expected lists of {expected}")
    for component, sizes in found.items():
        right = isinstance(sizes, list) and all(type(size) is int and size >= 0 for size in sizes)
        if not right or len(sizes) != len(dense[component]):
            raise ValueError(f"--layer-sizes: found {sizes!r} for {component}, expected lists of {expected}")
    if not settings.head_dim:
        raise ValueError("--layer-sizes: found no --head-dim, which heads of different number need")
    return {component: found[component] for component in dense}


def layer_shapes(settings: WhisperSettings, side: str) -> list[dict]:
    """Arguments of each layer of the encoder or decoder."""
    sizes = sizes_by_component(settings)
    shapes = [
        dict(
            dim=settings.embed_dim,
            ffn_dim=units,
            heads=heads,
            head_dim=settings.head_dim,
            dropout=settings.dropout,
            attention_dropout=settings.attention_dropout,
            activation_dropout=settings.activation_dropout,
        )
        for heads, units in zip(sizes[f"{side}.self_attn"], sizes[f"{side}.fc"])
    ]
    if side == "decoder":
        for shape, heads in zip(shapes, sizes["decoder.encoder_attn"]):
            shape["cross_heads"] = heads
    return shapes
