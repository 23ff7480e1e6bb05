"""Whisper as a fairseq model, in the published sizes."""

from dataclasses import dataclass
from typing import Any, Optional

from fairseq.models import FairseqEncoderDecoderModel, register_model
from torch import Tensor

from fairseq_prune.checkpoints.loading import load_state_dict_strictly
from fairseq_prune.checkpoints.whisper.own import read_whisper
from fairseq_prune.models import trainer_hooks  # noqa: F401 (calls `prepare_training`)
from fairseq_prune.models.magnitude_pruning import MagnitudePruned, MagnitudePruningConfig
from fairseq_prune.models.options import keep_in_checkpoint, option, with_default
from fairseq_prune.models.token_pruning import TokenPruningConfig, token_pruning
from fairseq_prune.modules.whisper.decoder import WhisperDecoder
from fairseq_prune.modules.whisper.encoder import WhisperEncoder
from fairseq_prune.modules.whisper.int8_training import round_as_int8_
from fairseq_prune.modules.whisper.settings import WhisperSettings


@dataclass
class WhisperConfig(MagnitudePruningConfig, TokenPruningConfig, WhisperSettings):
    whisper_path: Optional[str] = option(
        None,
        "start from this checkpoint of a model whisper (scripts/import_whisper.py writes one), which then says the "
        "sizes; read when training starts, never when a checkpoint is loaded",
    )
    int8_aware: bool = option(
        False,
        "train, and validate, with weights and activations rounded as the ONNX export of 8 bits rounds them; what is "
        "saved is not rounded, and is used as any checkpoint",
    )


@dataclass
class WhisperBaseConfig(WhisperConfig):
    embed_dim: int = with_default(WhisperConfig, "embed_dim", 512)
    ffn_embed_dim: int = with_default(WhisperConfig, "ffn_embed_dim", 2048)
    attention_heads: int = with_default(WhisperConfig, "attention_heads", 8)
    encoder_layers: int = with_default(WhisperConfig, "encoder_layers", 6)
    decoder_layers: int = with_default(WhisperConfig, "decoder_layers", 6)


@dataclass
class WhisperSmallConfig(WhisperConfig):
    embed_dim: int = with_default(WhisperConfig, "embed_dim", 768)
    ffn_embed_dim: int = with_default(WhisperConfig, "ffn_embed_dim", 3072)
    attention_heads: int = with_default(WhisperConfig, "attention_heads", 12)
    encoder_layers: int = with_default(WhisperConfig, "encoder_layers", 12)
    decoder_layers: int = with_default(WhisperConfig, "decoder_layers", 12)


@register_model("whisper", dataclass=WhisperConfig)
class Whisper(MagnitudePruned, FairseqEncoderDecoderModel):
    """Log-mel encoder and text decoder of Whisper (Radford et al. 2022, arXiv 2212.04356).

    ``forward(src_tokens, src_lengths, prev_output_tokens)`` takes log-mel features (batch, mel frames, mel bins), valid
    frames (batch,) and tokens (batch, tokens), and returns what `WhisperDecoder` does.
    """

    @classmethod
    def build_model(cls, cfg: WhisperConfig, task):
        """Build from options and the task's dictionary.

        Raises:
            ValueError: ``whisper_path`` is no checkpoint of a Whisper, or has another dictionary than the task; or an
                option of token pruning or of the context is out of its range.
        """
        checkpoint = None
        if cfg.whisper_path:
            checkpoint = read_whisper(cfg.whisper_path)
            checkpoint.require_symbols(task.target_dictionary.symbols)
            keep_in_checkpoint(cfg, whisper_path=None, **checkpoint.sizes)
        encoder = WhisperEncoder(cfg, token_pruning(cfg, cfg.encoder_layers))
        model = cls(encoder, WhisperDecoder(cfg, task.target_dictionary))
        if checkpoint is not None:
            load_state_dict_strictly(model, checkpoint.state_dict, checkpoint.path)
        if cfg.prune_sparsity:
            model.attach_pruner(cfg)
        return model

    def prepare_training(self, cfg, criterion) -> None:
        """Round as 8 bits, where that is asked for; called by fairseq's trainer, never where a checkpoint is used."""
        if cfg.model.int8_aware:
            round_as_int8_(self)

    def forward(
        self, src_tokens, src_lengths, prev_output_tokens, return_all_hiddens=False, **kwargs
    ) -> tuple[Tensor, dict[str, Any]]:
        """As of `WhisperDecoder`; with ``return_all_hiddens``, also what the encoder returns, under "encoder"."""
        encoded = self.encoder(src_tokens, src_lengths, return_all_hiddens=return_all_hiddens, **kwargs)
        logits, extra = self.decoder(prev_output_tokens, encoded, **kwargs)
        return logits, {**extra, "encoder": encoded} if return_all_hiddens else extra

    def layer_sizes(self) -> dict[str, list[int]]:
        """Heads of each attention and units of each feed-forward block, by component (`pruning.components`)."""
        encoder, decoder = self.encoder.layers, self.decoder.layers
        return {
            "encoder.self_attn": [layer.self_attn.num_heads for layer in encoder],
            "encoder.fc": [layer.units for layer in encoder],
            "decoder.self_attn": [layer.self_attn.num_heads for layer in decoder],
            "decoder.encoder_attn": [layer.encoder_attn.num_heads for layer in decoder],
            "decoder.fc": [layer.units for layer in decoder],
        }


# Sizes are models of their own, as in models/deltalm.py. English-only and multilingual ones differ in nothing but
# the vocabulary, which is the tokenizer's.
@register_model("whisper_tiny", dataclass=WhisperConfig)
@register_model("whisper_tiny_en", dataclass=WhisperConfig)
class WhisperTiny(Whisper):
    """4 + 4 layers, width 384; 38 million parameters with the published vocabulary."""


@register_model("whisper_base", dataclass=WhisperBaseConfig)
@register_model("whisper_base_en", dataclass=WhisperBaseConfig)
class WhisperBase(Whisper):
    """6 + 6 layers, width 512; 73 million parameters with the published vocabulary."""


@register_model("whisper_small", dataclass=WhisperSmallConfig)
@register_model("whisper_small_en", dataclass=WhisperSmallConfig)
class WhisperSmall(Whisper):
    """12 + 12 layers, width 768; 242 million parameters with the published vocabulary."""
