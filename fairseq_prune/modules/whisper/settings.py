"""What describes a Whisper.

Nothing is derived from the size of the vocabulary: what a token means, the tokenizer says.
"""

from dataclasses import dataclass, field

from fairseq.dataclass import FairseqDataclass


@dataclass
class WhisperSettings(FairseqDataclass):
    """Everything that describes a Whisper; the defaults are the tiny ones."""

    embed_dim: int = field(default=384, metadata={"help": "width of encoder, decoder and embeddings"})
    ffn_embed_dim: int = field(default=1536, metadata={"help": "inner width of the feed-forward blocks"})
    attention_heads: int = field(default=6, metadata={"help": "attention heads of a layer"})
    head_dim: int = field(
        default=0, metadata={"help": "dimensions of a head; 0: width / heads, as long as no head was cut out"}
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


def layer_shape(settings: WhisperSettings) -> tuple:
    """Arguments of an encoder or decoder layer."""
    return (
        settings.embed_dim,
        settings.ffn_embed_dim,
        settings.attention_heads,
        settings.head_dim,
        settings.dropout,
        settings.attention_dropout,
        settings.activation_dropout,
    )
