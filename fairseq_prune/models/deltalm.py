"""DeltaLM as a fairseq model for text, in the published sizes and a tiny one."""

from dataclasses import dataclass
from typing import Optional

from fairseq.models import FairseqEncoderDecoderModel, register_model

from fairseq_prune.checkpoints.deltalm import load_deltalm
from fairseq_prune.models.options import keep_in_checkpoint, option, with_default
from fairseq_prune.modules.deltalm.model import DeltaLMDecoder, DeltaLMEncoder
from fairseq_prune.modules.deltalm.settings import DeltaLMSettings


@dataclass
class DeltaLMConfig(DeltaLMSettings):
    deltalm_path: Optional[str] = option(
        None,
        "start from these weights: a published DeltaLM checkpoint, or one of a model deltalm; "
        "read when training starts, never when a checkpoint of ours is loaded",
    )
    deltalm_dict: Optional[str] = option(
        None,
        "dict.txt of --deltalm-path, when its vocabulary is not the task's: embeddings are matched by symbol",
    )


@dataclass
class DeltaLMLargeConfig(DeltaLMConfig):
    embed_dim: int = with_default(DeltaLMConfig, "embed_dim", 1024)
    ffn_embed_dim: int = with_default(DeltaLMConfig, "ffn_embed_dim", 4096)
    attention_heads: int = with_default(DeltaLMConfig, "attention_heads", 16)
    encoder_layers: int = with_default(DeltaLMConfig, "encoder_layers", 24)
    decoder_layers: int = with_default(DeltaLMConfig, "decoder_layers", 12)


@dataclass
class DeltaLMTinyConfig(DeltaLMConfig):
    embed_dim: int = with_default(DeltaLMConfig, "embed_dim", 128)
    ffn_embed_dim: int = with_default(DeltaLMConfig, "ffn_embed_dim", 512)
    attention_heads: int = with_default(DeltaLMConfig, "attention_heads", 4)
    encoder_layers: int = with_default(DeltaLMConfig, "encoder_layers", 2)
    decoder_layers: int = with_default(DeltaLMConfig, "decoder_layers", 2)


@register_model("deltalm", dataclass=DeltaLMConfig)
class DeltaLM(FairseqEncoderDecoderModel):
    """Encoder and interleaved decoder of DeltaLM (Ma et al. 2021, arXiv 2106.13736), text to text."""

    @classmethod
    def build_model(cls, cfg, task):
        """Build from options and the task's dictionaries; raises ValueError if they do not fit together."""
        source, target = task.source_dictionary, task.target_dictionary
        if cfg.share_embeddings == "all" and source != target:
            raise ValueError(
                f"--share-embeddings all needs one dictionary, but source ({len(source)} symbols) and "
                f"target ({len(target)} symbols) have different ones"
            )
        decoder = DeltaLMDecoder.build(cfg, target)
        shared = decoder.embed_tokens if cfg.share_embeddings == "all" else None
        encoder = DeltaLMEncoder.build(cfg, source, embed_tokens=shared)
        if cfg.deltalm_path:
            load_deltalm(cfg.deltalm_path, encoder, decoder, cfg.deltalm_dict)
            normless = decoder.layernorm_embedding is None
            keep_in_checkpoint(cfg, deltalm_path=None, deltalm_dict=None, no_layernorm_embedding=normless)
        return cls(encoder, decoder)


# Sizes are models of their own, since fairseq's register_model_architecture serves the command line only:
# fairseq-hydra-train would fill in the defaults of the base size before it asks for the architecture.
@register_model("deltalm_base", dataclass=DeltaLMConfig)
class DeltaLMBase(DeltaLM):
    """12 encoder and 6 decoder layers, width 768: deltalm-base.pt."""


@register_model("deltalm_large", dataclass=DeltaLMLargeConfig)
class DeltaLMLarge(DeltaLM):
    """24 encoder and 12 decoder layers, width 1024: deltalm-large.pt."""


@register_model("deltalm_tiny", dataclass=DeltaLMTinyConfig)
class DeltaLMTiny(DeltaLM):
    """2 encoder and 2 decoder layers, width 128: for tests and demonstrations."""
