"""Options of the speech translation models, in their sizes."""

from dataclasses import dataclass
from typing import Optional

from fairseq import utils
from fairseq.dataclass import ChoiceEnum

from fairseq_prune.models.options import option, with_default
from fairseq_prune.models.token_pruning import TokenPruningConfig

# the two forms that HuBERT was published in
HUBERT_FORMS = {
    "base": {"extractor_mode": "default", "layer_norm_first": False, "normalize": False},
    "large": {"extractor_mode": "layer_norm", "layer_norm_first": True, "normalize": True},
}


@dataclass
class HubertDeltaLMConfig(TokenPruningConfig):
    # ---- HuBERT
    hubert_path: Optional[str] = option(
        None,
        "HuBERT or wav2vec 2.0: fairseq checkpoint, Hugging Face folder (whose token_pruning holds where no"
        " --token-keep-ratio is given), or what scripts/compress_hubert.py wrote;"
        " without it, random weights of the sizes below",
    )
    hubert_config: Optional[str] = option(
        None, "architecture of the encoder as JSON; filled in from --hubert-path and kept in our checkpoints"
    )
    hubert_layers: int = option(12, "transformer layers (without --hubert-path, like the next ones)")
    hubert_embed_dim: int = option(768, "width of the transformer layers")
    hubert_ffn_embed_dim: int = option(3072, "inner width of the feed-forward blocks")
    hubert_attention_heads: int = option(12, "attention heads")
    hubert_conv_layers: str = option(
        "[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2",
        "convolutional extractor: (channels, kernel, stride) of each layer",
    )
    hubert_form: ChoiceEnum(list(HUBERT_FORMS)) = option(
        "base",
        "base: group norm in the extractor, post-norm layers; large: layer norm, pre-norm, normalised waveforms",
    )
    hubert_conv_pos: int = option(128, "kernel of the positional convolution, in frames")
    hubert_conv_pos_groups: int = option(16, "groups of the positional convolution")
    hubert_dropout: float = option(0.1, "dropout in HuBERT")
    hubert_attention_dropout: float = option(0.1, "dropout of attention weights in HuBERT")
    hubert_activation_dropout: float = option(0.0, "dropout inside HuBERT's feed-forward blocks")
    hubert_input_dropout: float = option(0.0, "dropout of the features that enter the transformer")
    hubert_layerdrop: float = option(
        0.0,
        "probability of leaving out a HuBERT layer in training, with its pruning",
    )
    hubert_checkpoint_activations: bool = option(
        False, "compute HuBERT's activations again in the backward pass, to save GPU memory"
    )
    mask_prob: float = option(0.0, "share of frames masked in training, in spans (SpecAugment on features)")
    mask_length: int = option(10, "length of a masked span, in frames")
    mask_channel_prob: float = option(0.0, "share of feature channels masked in training, in spans")
    mask_channel_length: int = option(64, "length of a masked span, in channels")
    freeze_feature_extractor: ChoiceEnum(["always", "never", "pretrained"]) = option(
        "always",
        "do not train the convolutional extractor ('pretrained' is what older checkpoints say for always)",
    )
    freeze_hubert_updates: int = option(
        0,
        "HuBERT is not trained before this update; -1: never",
    )
    fairseq_padding: bool = option(
        False,
        "let padding take part in the extractor's statistics, as fairseq does: results depend on the batch",
    )
    # ---- between encoder and decoder
    adaptor_kernels: str = option(
        "3",
        "odd kernel sizes of the strided convolutions after HuBERT, separated by commas; empty: a linear map",
    )
    adaptor_stride: int = option(2, "stride of each adaptor convolution")
    adaptor_channels: int = option(1024, "channels between adaptor convolutions")
    memory_positions: ChoiceEnum(["none", "sinusoidal"]) = option(
        "none", "tell the decoder's memory where in the utterance the frames that survived came from"
    )
    # ---- DeltaLM
    deltalm_path: Optional[str] = option(None, "DeltaLM checkpoint: published, or trained as model deltalm")
    deltalm_dict: Optional[str] = option(
        None,
        "dict.txt of --deltalm-path, when its vocabulary is not the task's: embeddings are matched by symbol",
    )
    deltalm_encoder_layers: int = option(
        0, "upper layers of DeltaLM's encoder between adaptor and decoder; 0: joined directly"
    )
    text_encoder: bool = option(False, "keep the whole DeltaLM encoder, as --mt-loss-weight needs")
    deltalm_text_layers: int = option(12, "layers of the whole DeltaLM encoder")
    deltalm_decoder_layers: int = option(6, "layers of the DeltaLM decoder")
    deltalm_embed_dim: int = option(768, "width of DeltaLM")
    deltalm_ffn_embed_dim: int = option(3072, "inner width of its feed-forward blocks")
    deltalm_attention_heads: int = option(12, "its attention heads")
    deltalm_norm: ChoiceEnum(["post", "pre"]) = option(
        "post", "layer norm after (as published) or before attention and feed-forward in DeltaLM"
    )
    deltalm_activation_fn: ChoiceEnum(utils.get_available_activation_fns()) = option(
        "gelu", "activation of its feed-forward blocks"
    )
    deltalm_layerdrop: float = option(
        0.0,
        "probability of leaving out a DeltaLM layer in training",
    )
    deltalm_no_layernorm_embedding: bool = option(
        False,
        "no layer norm after DeltaLM's embeddings, as the published large model has it; --deltalm-path says so itself",
    )
    deltalm_checkpoint_activations: bool = option(
        False, "recompute DeltaLM's activations in the backward pass, to save GPU memory"
    )
    deltalm_share_embeddings: ChoiceEnum(["auto", "none", "decoder", "all"]) = option(
        "auto",
        "which embedding tables are one: none; decoder (its input and output); all (the text encoder's too,"
        " needs one vocabulary for transcripts and translations); auto: all if possible, else decoder",
    )
    dropout: float = option(0.1, "dropout in DeltaLM")
    attention_dropout: float = option(0.0, "dropout of attention weights in DeltaLM")
    activation_dropout: float = option(0.0, "dropout inside DeltaLM's feed-forward blocks")
    max_source_positions: int = option(512, "longest transcript of --text-encoder, in tokens")
    max_target_positions: int = option(512, "longest target, in tokens")
    freeze_decoder_except: Optional[str] = option(
        None,
        "train only these parts of the decoder, separated by commas:"
        " cross (cross-attention), self (self-attention), ffn, norm, embed",
    )


@dataclass
class HubertDeltaLMTinyConfig(HubertDeltaLMConfig):
    hubert_layers: int = with_default(HubertDeltaLMConfig, "hubert_layers", 3)
    hubert_embed_dim: int = with_default(HubertDeltaLMConfig, "hubert_embed_dim", 144)
    hubert_ffn_embed_dim: int = with_default(HubertDeltaLMConfig, "hubert_ffn_embed_dim", 576)
    hubert_attention_heads: int = with_default(HubertDeltaLMConfig, "hubert_attention_heads", 4)
    # 0.29 billion multiply-accumulates for 10 s, where HuBERT's seven layers take 24.5; also 20 ms a frame
    hubert_conv_layers: str = with_default(
        HubertDeltaLMConfig, "hubert_conv_layers", "[(32,10,5), (64,8,4), (96,8,4), (144,8,4)]"
    )
    hubert_form: ChoiceEnum(list(HUBERT_FORMS)) = with_default(HubertDeltaLMConfig, "hubert_form", "large")
    # random weights have to be trained
    freeze_feature_extractor: ChoiceEnum(["always", "never", "pretrained"]) = with_default(
        HubertDeltaLMConfig, "freeze_feature_extractor", "never"
    )
    hubert_conv_pos: int = with_default(HubertDeltaLMConfig, "hubert_conv_pos", 32)
    hubert_attention_dropout: float = with_default(HubertDeltaLMConfig, "hubert_attention_dropout", 0.0)
    adaptor_kernels: str = with_default(HubertDeltaLMConfig, "adaptor_kernels", "")
    memory_positions: ChoiceEnum(["none", "sinusoidal"]) = with_default(
        HubertDeltaLMConfig, "memory_positions", "sinusoidal"
    )
    deltalm_text_layers: int = with_default(HubertDeltaLMConfig, "deltalm_text_layers", 2)
    deltalm_decoder_layers: int = with_default(HubertDeltaLMConfig, "deltalm_decoder_layers", 2)
    deltalm_embed_dim: int = with_default(HubertDeltaLMConfig, "deltalm_embed_dim", 144)
    deltalm_ffn_embed_dim: int = with_default(HubertDeltaLMConfig, "deltalm_ffn_embed_dim", 576)
    deltalm_attention_heads: int = with_default(HubertDeltaLMConfig, "deltalm_attention_heads", 4)
    deltalm_norm: ChoiceEnum(["post", "pre"]) = with_default(HubertDeltaLMConfig, "deltalm_norm", "pre")


def check_options(cfg: HubertDeltaLMConfig) -> None:
    """Refuse what no part of the model would refuse by the name of its option.

    Raises:
        ValueError: an option outside its range, or one that does not go with another.
    """
    for name, least in (
        ("adaptor_stride", 1),
        ("adaptor_channels", 1),
        ("freeze_hubert_updates", -1),
        ("deltalm_text_layers", 1 if cfg.text_encoder else 0),
        ("max_source_positions", 1),
        ("max_target_positions", 1),
    ):
        if cfg[name] < least:
            with_text = " with --text-encoder" if name == "deltalm_text_layers" and cfg.text_encoder else ""
            raise ValueError(
                f"--{name.replace('_', '-')}: found {cfg[name]}, expected {least} or more{with_text}"
            )
    if not 0 <= cfg.deltalm_encoder_layers <= cfg.deltalm_text_layers:
        raise ValueError(
            f"--deltalm-encoder-layers: found {cfg.deltalm_encoder_layers},"
            f" expected 0 to {cfg.deltalm_text_layers}, the layers of the whole encoder (--deltalm-text-layers)"
        )


def adaptor_kernels(cfg: HubertDeltaLMConfig) -> list[int]:
    """The kernel sizes that ``adaptor_kernels`` lists.

    Raises:
        ValueError: not odd whole numbers.
    """
    kernels = [kernel.strip() for kernel in cfg.adaptor_kernels.split(",") if kernel.strip()]
    if not all(kernel.isdecimal() and int(kernel) % 2 for kernel in kernels):
        raise ValueError(
            f"--adaptor-kernels: found {cfg.adaptor_kernels!r}, expected odd sizes separated by commas"
        )
    return [int(kernel) for kernel in kernels]


def extractor_is_frozen(cfg: HubertDeltaLMConfig) -> bool:
    """Whether the convolutional extractor is never trained."""
    return str(cfg.freeze_feature_extractor) != "never"
