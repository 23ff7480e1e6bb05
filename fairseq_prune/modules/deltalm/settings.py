"""The sizes and options that describe a DeltaLM, and what fairseq's transformer makes of them."""

from dataclasses import dataclass, field

from fairseq import utils
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.models.transformer import TransformerConfig
from fairseq.models.transformer.transformer_config import DecoderConfig, EncDecBaseConfig, QuantNoiseConfig


@dataclass
class DeltaLMSettings(FairseqDataclass):
    """Everything that describes a DeltaLM; the defaults are DeltaLM-base."""

    embed_dim: int = field(default=768, metadata={"help": "width of encoder, decoder and embeddings"})
    ffn_embed_dim: int = field(default=3072, metadata={"help": "inner width of the feed-forward blocks"})
    attention_heads: int = field(default=12, metadata={"help": "attention heads of a layer"})
    encoder_layers: int = field(default=12, metadata={"help": "encoder layers"})
    decoder_layers: int = field(
        default=6, metadata={"help": "decoder layers, each with self- and cross-attention and two ffn"}
    )
    max_source_positions: int = field(default=512, metadata={"help": "longest source, in tokens"})
    max_target_positions: int = field(default=512, metadata={"help": "longest target, in tokens"})
    dropout: float = field(default=0.1, metadata={"help": "dropout probability"})
    attention_dropout: float = field(default=0.0, metadata={"help": "dropout of attention weights"})
    activation_dropout: float = field(default=0.0, metadata={"help": "dropout in the feed-forward blocks"})
    layerdrop: float = field(default=0.0, metadata={"help": "probability of skipping a layer in training"})
    activation_fn: ChoiceEnum(utils.get_available_activation_fns()) = field(
        default="gelu", metadata={"help": "activation of the feed-forward blocks"}
    )
    normalize_before: bool = field(
        default=False, metadata={"help": "pre-norm layers (the published checkpoints are post-norm)"}
    )
    share_embeddings: ChoiceEnum(["none", "decoder", "all"]) = field(
        default="decoder",
        metadata={
            "help": "which embedding tables are one: none; decoder (input and output of the decoder); "
            "all (the encoder's too, needs one dictionary for both languages)"
        },
    )
    no_layernorm_embedding: bool = field(
        default=False,
        metadata={
            "help": "no layer norm after the embeddings, as the published large model has it; --deltalm-path says so "
            "itself"
        },
    )
    checkpoint_activations: bool = field(
        default=False, metadata={"help": "recompute activations in the backward pass, to save GPU memory"}
    )


def transformer_config(settings):
    """fairseq's TransformerConfig for the settings.

    Args:
        settings: anything with the attributes of `DeltaLMSettings`: the dataclass, a DictConfig, a Namespace.

    Raises:
        ValueError: a size or probability is out of range; the message names the option.
    """
    for name in ("embed_dim", "ffn_embed_dim", "attention_heads", "decoder_layers"):
        if getattr(settings, name) < 1:
            raise ValueError(f"{name} must be at least 1, found {getattr(settings, name)}")
    if settings.encoder_layers < 0:
        raise ValueError(f"encoder_layers must not be negative, found {settings.encoder_layers}")
    if settings.embed_dim % settings.attention_heads:
        raise ValueError(
            f"embed_dim must be a multiple of attention_heads, found {settings.embed_dim} and "
            f"{settings.attention_heads}"
        )
    for name in ("dropout", "attention_dropout", "activation_dropout", "layerdrop"):
        if not 0 <= getattr(settings, name) < 1:
            raise ValueError(f"{name} must lie in [0, 1), found {getattr(settings, name)}")
    side = {
        "embed_dim": settings.embed_dim,
        "ffn_embed_dim": settings.ffn_embed_dim,
        "attention_heads": settings.attention_heads,
        "normalize_before": settings.normalize_before,
        "learned_pos": True,
        "layerdrop": settings.layerdrop,
    }
    return TransformerConfig(
        encoder=EncDecBaseConfig(layers=settings.encoder_layers, **side),
        decoder=DecoderConfig(layers=settings.decoder_layers, **side),
        quant_noise=QuantNoiseConfig(),
        activation_fn=str(settings.activation_fn),
        dropout=settings.dropout,
        attention_dropout=settings.attention_dropout,
        activation_dropout=settings.activation_dropout,
        max_source_positions=settings.max_source_positions,
        max_target_positions=settings.max_target_positions,
        share_decoder_input_output_embed=settings.share_embeddings != "none",
        share_all_embeddings=settings.share_embeddings == "all",
        layernorm_embedding=not settings.no_layernorm_embedding,
        no_scale_embedding=True,
        checkpoint_activations=settings.checkpoint_activations,
    )
