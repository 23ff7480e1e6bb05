"""Speech translation: a token-pruned HuBERT encoder joined to a DeltaLM decoder."""

import json
import logging
from typing import Optional

import torch
from fairseq.data import Dictionary
from fairseq.models import FairseqEncoderDecoderModel, register_model
from fairseq.modules import LayerDropModuleList
from torch import Tensor, nn

from fairseq_prune.checkpoints.deltalm import load_deltalm
from fairseq_prune.checkpoints.hubert.reading import read_hubert
from fairseq_prune.checkpoints.loading import load_state_dict_strictly
from fairseq_prune.models import trainer_hooks  # noqa: F401 (calls `prepare_training`)
from fairseq_prune.models.hubert_deltalm_config import (
    HUBERT_FORMS,
    HubertDeltaLMConfig,
    HubertDeltaLMTinyConfig,
    adaptor_kernels,
    check_options,
    extractor_is_frozen,
)
from fairseq_prune.models.options import keep_in_checkpoint
from fairseq_prune.models.token_pruning import token_pruning
from fairseq_prune.modules.deltalm.model import DeltaLMDecoder, DeltaLMEncoder
from fairseq_prune.modules.deltalm.settings import DeltaLMSettings
from fairseq_prune.modules.hubert.architecture import build_encoder
from fairseq_prune.modules.hubert.convolution import ConvAdaptor
from fairseq_prune.modules.hubert.encoder import TokenPrunedHubert
from fairseq_prune.modules.speech_encoder import SpeechEncoder
from fairseq_prune.modules.taking_part import take_part

logger = logging.getLogger(__name__)


def build_hubert(cfg: HubertDeltaLMConfig) -> tuple[TokenPrunedHubert, str]:
    """The encoder, with the weights of ``hubert_path`` if there is one, and its architecture as JSON."""
    checkpoint = None
    if cfg.hubert_path:
        checkpoint = read_hubert(cfg.hubert_path)
        architecture = checkpoint.architecture
        if checkpoint.pruning and not cfg.token_keep_ratios and cfg.token_keep_ratio == 1.0:
            logger.info(f"{cfg.hubert_path} says which frames are dropped: {checkpoint.pruning}")
            keep_in_checkpoint(cfg, **checkpoint.pruning)
    elif cfg.hubert_config:
        architecture = json.loads(cfg.hubert_config)
    else:
        architecture = {
            **HUBERT_FORMS[str(cfg.hubert_form)],
            "conv_feature_layers": cfg.hubert_conv_layers,
            "encoder_layers": cfg.hubert_layers,
            "encoder_embed_dim": cfg.hubert_embed_dim,
            "encoder_ffn_embed_dim": cfg.hubert_ffn_embed_dim,
            "encoder_attention_heads": cfg.hubert_attention_heads,
            "conv_pos": cfg.hubert_conv_pos,
            "conv_pos_groups": cfg.hubert_conv_pos_groups,
        }
    hubert = build_encoder(
        architecture,
        token_pruning(cfg, architecture["encoder_layers"]),
        pad_invariant=not cfg.fairseq_padding,
        dropout=cfg.hubert_dropout,
        attention_dropout=cfg.hubert_attention_dropout,
        activation_dropout=cfg.hubert_activation_dropout,
        dropout_input=cfg.hubert_input_dropout,
        encoder_layerdrop=cfg.hubert_layerdrop,
        mask_prob=cfg.mask_prob,
        mask_length=cfg.mask_length,
        mask_channel_prob=cfg.mask_channel_prob,
        mask_channel_length=cfg.mask_channel_length,
        feature_grad_mult=0.0 if extractor_is_frozen(cfg) else 1.0,
    )
    hubert.checkpoint_activations = cfg.hubert_checkpoint_activations
    if checkpoint is not None:
        load_state_dict_strictly(hubert, checkpoint.state_dict, cfg.hubert_path)
    return hubert, json.dumps(architecture)


def deltalm_settings(cfg: HubertDeltaLMConfig) -> DeltaLMSettings:
    """The DeltaLM that the options ask for."""
    return DeltaLMSettings(
        embed_dim=cfg.deltalm_embed_dim,
        ffn_embed_dim=cfg.deltalm_ffn_embed_dim,
        attention_heads=cfg.deltalm_attention_heads,
        encoder_layers=cfg.deltalm_text_layers,
        decoder_layers=cfg.deltalm_decoder_layers,
        normalize_before=str(cfg.deltalm_norm) == "pre",
        activation_fn=str(cfg.deltalm_activation_fn),
        layerdrop=cfg.deltalm_layerdrop,
        no_layernorm_embedding=cfg.deltalm_no_layernorm_embedding,
        checkpoint_activations=cfg.deltalm_checkpoint_activations,
        share_embeddings="none" if str(cfg.deltalm_share_embeddings) == "none" else "decoder",
        dropout=cfg.dropout,
        attention_dropout=cfg.attention_dropout,
        activation_dropout=cfg.activation_dropout,
        max_source_positions=cfg.max_source_positions,
        max_target_positions=cfg.max_target_positions,
    )


def shares_all_embeddings(cfg: HubertDeltaLMConfig, source: Dictionary, target: Dictionary) -> bool:
    """Whether DeltaLM's encoder has the embedding table of the decoder.

    Raises:
        ValueError: it should, but the dictionaries differ.
    """
    share = str(cfg.deltalm_share_embeddings)
    if share == "all" and source != target:
        raise ValueError(
            f"--deltalm-share-embeddings all needs one dictionary, but transcripts ({len(source)} symbols) and "
            f"translations ({len(target)} symbols) have different ones"
        )
    return share in ("auto", "all") and source == target


DECODER_PARTS = {
    "cross": ("encoder_attn.", "encoder_attn_layer_norm."),
    "self": ("self_attn.", "self_attn_layer_norm."),
    "ffn": ("fc1.", "fc2.", "fc3.", "fc4."),
    "norm": ("layer_norm.", "layernorm_embedding."),
    "embed": ("embed_tokens.", "embed_positions.", "output_projection."),
}


def freeze_decoder(decoder: DeltaLMDecoder, except_parts: str) -> None:
    """Stop the training of all decoder parameters but those of the named parts.

    Raises:
        ValueError: an unknown part.
    """
    parts = [part.strip() for part in except_parts.split(",") if part.strip()]
    for part in parts:
        if part not in DECODER_PARTS:
            raise ValueError(
                f"--freeze-decoder-except: found {part!r}, expected some of {', '.join(DECODER_PARTS)}"
            )
    names = [name for part in parts for name in DECODER_PARTS[part]]
    for name, parameter in decoder.named_parameters():
        parameter.requires_grad = any(part in name for part in names)


@register_model("hubert_deltalm", dataclass=HubertDeltaLMConfig)
class HubertDeltaLM(FairseqEncoderDecoderModel):
    """A speech encoder and a DeltaLM decoder; optionally DeltaLM's text encoder beside them."""

    def __init__(
        self, encoder: SpeechEncoder, decoder: DeltaLMDecoder, text_encoder: Optional[DeltaLMEncoder] = None
    ):
        super().__init__(encoder, decoder)
        self.text_encoder = text_encoder
        self.drops_layers = any(isinstance(module, LayerDropModuleList) for module in self.modules())

    @classmethod
    def build_model(cls, cfg: HubertDeltaLMConfig, task):
        """Build from options and the dictionaries of the task ``speech_translation``."""
        check_options(cfg)
        kernels = adaptor_kernels(cfg)
        hubert, architecture = build_hubert(cfg)
        settings = deltalm_settings(cfg)
        decoder = DeltaLMDecoder.build(settings, task.target_dictionary)
        text_encoder = None
        if cfg.text_encoder or cfg.deltalm_encoder_layers:
            dictionary = task.transcript_dictionary if cfg.text_encoder else task.target_dictionary
            if dictionary is None:
                raise ValueError("--text-encoder: the data's config.yaml has no 'source' vocabulary")
            shared = (
                decoder.embed_tokens if shares_all_embeddings(cfg, dictionary, decoder.dictionary) else None
            )
            text_encoder = DeltaLMEncoder.build(settings, dictionary, embed_tokens=shared)
        first_text_layer = settings.encoder_layers - cfg.deltalm_encoder_layers
        if text_encoder is not None and not cfg.text_encoder:
            text_encoder.keep_layers(first_text_layer)
            first_text_layer = 0
        if cfg.deltalm_path:
            load_deltalm(cfg.deltalm_path, text_encoder, decoder, cfg.deltalm_dict)
            keep_in_checkpoint(cfg, deltalm_no_layernorm_embedding=decoder.layernorm_embedding is None)
        # fairseq's default --ddp-backend stops at a parameter that gets no gradient
        hubert.mask_emb.requires_grad_(cfg.mask_prob > 0)
        if extractor_is_frozen(cfg):
            hubert.feature_extractor.requires_grad_(False)
        if cfg.freeze_hubert_updates < 0:
            hubert.requires_grad_(False)
        if cfg.freeze_decoder_except is not None:
            freeze_decoder(decoder, cfg.freeze_decoder_except)
        adaptor = ConvAdaptor(
            hubert.encoder.embedding_dim,
            settings.embed_dim,
            cfg.adaptor_channels,
            kernels,
            cfg.adaptor_stride,
        )
        encoder = SpeechEncoder(
            hubert,
            adaptor,
            text_encoder if cfg.deltalm_encoder_layers else None,
            first_text_layer,
            str(cfg.memory_positions) == "sinusoidal",
            len(task.ctc_dictionary) if task.ctc_dictionary is not None else 0,
            cfg.freeze_hubert_updates,
        )
        keep_in_checkpoint(
            cfg, hubert_config=architecture, hubert_path=None, deltalm_path=None, deltalm_dict=None
        )
        return cls(encoder, decoder, text_encoder if cfg.text_encoder else None)

    def prepare_training(self, cfg, criterion) -> None:
        """Freeze what the criterion has no use for, which fairseq's default --ddp-backend would stop at.

        Called by fairseq's trainer.
        """
        if self.encoder.ctc_head is not None and not getattr(criterion, "ctc_weight", 0):
            self.encoder.ctc_head.requires_grad_(False)
        if self.text_encoder is not None and not getattr(criterion, "mt_loss_weight", 0):
            used = {id(parameter) for parameter in self.decoder.parameters()}
            if self.encoder.text_encoder is not None:  # the upper layers of the same one
                used |= {id(p) for p in self.encoder.text_layer_parameters()}
            for parameter in self.text_encoder.parameters():
                if id(parameter) not in used:
                    parameter.requires_grad_(False)

    def frozen_parameters(self) -> list[nn.Parameter]:
        """Those that the update in progress does not train."""
        return list(self.encoder.hubert.parameters()) if self.encoder.hubert_is_frozen() else []

    def forward(
        self,
        src_tokens: Tensor,
        src_lengths: Tensor,
        prev_output_tokens: Tensor,
        transcript: Optional[Tensor] = None,
        transcript_lengths: Optional[Tensor] = None,
    ):
        """Waveforms (batch, samples), valid samples (batch,), target input (batch, tokens) -> decoder output.

        Args:
            transcript, transcript_lengths: (batch, source tokens) and (batch,), to translate the text too. That has to
                be in the same call: DistributedDataParallel overlooks parameters that are used after it.

        Returns:
            logits (batch, tokens, vocabulary), and a dict with the encoder's output under "speech", and with a
            transcript what `forward_text` gives under "text".
        """
        encoder_out = self.encoder(src_tokens, src_lengths)
        features, extra = self.decoder(prev_output_tokens, encoder_out=encoder_out, features_only=True)
        if self.training and self.drops_layers:
            features = take_part(features, self.parameters())
        extra = {**extra, "speech": encoder_out}
        if transcript is not None:
            extra["text"] = self.forward_text(transcript, transcript_lengths, prev_output_tokens)
        return self.decoder.output_layer(features), extra

    def forward_text(self, transcript: Tensor, transcript_lengths: Tensor, prev_output_tokens: Tensor):
        """The same decoder on the transcript (batch, source tokens), for the translation loss.

        Raises:
            ValueError: the model was built without a text encoder, or a transcript is too long for it.
        """
        if self.text_encoder is None:
            raise ValueError("translation of text (--mt-loss-weight) needs a model with --text-encoder")
        longest, limit = transcript.shape[1], self.text_encoder.max_positions()
        if longest > limit:  # which on a GPU would end in a failed assertion of the device
            raise ValueError(
                f"a transcript has {longest} tokens, but the text encoder takes {limit} (--max-source-positions)"
            )
        encoder_out = self.text_encoder(transcript, transcript_lengths)
        return self.decoder(prev_output_tokens, encoder_out=encoder_out)

    def get_ctc_output(self, net_output, sample) -> tuple[Tensor, Tensor]:
        """For fairseq's CTC criterions: log-probabilities (frames, batch, classes), lengths (batch,) after pruning.

        Raises:
            ValueError: the task has no CTC text.
        """
        speech = net_output[1]["speech"]
        logits = self.encoder.ctc_logits(speech)
        return torch.log_softmax(logits.float(), dim=-1), speech["ctc_lengths"][0]

    def get_ctc_target(self, sample) -> tuple[Tensor, Tensor]:
        """(batch, tokens) and (batch,) lengths."""
        return sample["ctc_target"], sample["ctc_target_lengths"]


# models of their own, not architectures: those are unknown to fairseq-hydra-train
@register_model("hubert_deltalm_base", dataclass=HubertDeltaLMConfig)
class HubertDeltaLMBase(HubertDeltaLM):
    """HuBERT base and DeltaLM base: the defaults.

    No layers of DeltaLM's encoder lie between, as in the published method, which joins HuBERT to DeltaLM's
    decoder. HuBERT's twelve layers model context already, and more would eat what pruning saves. In billions of
    multiply-accumulates for 10 s of speech (499 frames, `pruning.counting`): HuBERT's twelve layers 47.0; keep
    ratio 0.9 from layer 4 on saves 13.2 of them, and leaves 197 frames. Six layers of DeltaLM's encoder after the
    adaptor's stride of 2 would take 11.2 without pruning (250 frames), 4.3 with it (99 frames).
    """


@register_model("hubert_deltalm_tiny", dataclass=HubertDeltaLMTinyConfig)
class HubertDeltaLMTiny(HubertDeltaLM):
    """2.1 million random weights with a vocabulary of 100, trainable on two cores in minutes."""
