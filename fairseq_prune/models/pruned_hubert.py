"""A compressed HuBERT as a model of fairseq."""

import json
from dataclasses import dataclass
from typing import Optional

from fairseq.dataclass import FairseqDataclass
from fairseq.models import register_model
from torch import Tensor

from fairseq_prune.checkpoints.hubert.own import REGULARISATION
from fairseq_prune.checkpoints.hubert.reading import read_hubert
from fairseq_prune.checkpoints.loading import load_state_dict_strictly
from fairseq_prune.models.options import keep_in_checkpoint, option
from fairseq_prune.modules.hubert.architecture import build_encoder
from fairseq_prune.modules.hubert.encoder import TokenPrunedHubert


@dataclass
class PrunedHubertConfig(FairseqDataclass):
    hubert_path: Optional[str] = option(
        None, "encoder to begin with: what scripts/compress_hubert.py writes, or any HuBERT or wav2vec 2.0"
    )
    hubert_config: Optional[str] = option(
        None, "architecture of the encoder as JSON; filled in from --hubert-path and kept in our checkpoints"
    )
    encoder_embed_dim: int = option(
        0, "width of the encoder's output; filled in, for fairseq's models that ask"
    )
    fairseq_padding: bool = option(
        False,
        "let padding take part in the extractor's statistics, as fairseq does: results depend on the batch",
    )
    dropout: float = option(REGULARISATION["dropout"], "dropout in the transformer")
    attention_dropout: float = option(REGULARISATION["attention_dropout"], "dropout of attention weights")
    activation_dropout: float = option(
        REGULARISATION["activation_dropout"], "dropout inside feed-forward blocks"
    )
    dropout_input: float = option(
        REGULARISATION["dropout_input"], "dropout of the features that enter the transformer"
    )
    encoder_layerdrop: float = option(
        REGULARISATION["encoder_layerdrop"], "probability of leaving out a layer in training"
    )
    feature_grad_mult: float = option(
        REGULARISATION["feature_grad_mult"], "factor of the extractor's gradients; 0: it is not trained"
    )
    checkpoint_activations: bool = option(
        False, "compute activations again in the backward pass, to save GPU memory"
    )
    mask_prob: float = option(REGULARISATION["mask_prob"], "share of frames masked in training, in spans")
    mask_length: int = option(REGULARISATION["mask_length"], "length of a masked span, in frames")
    mask_channel_prob: float = option(
        REGULARISATION["mask_channel_prob"], "share of feature channels masked in training, in spans"
    )
    mask_channel_length: int = option(
        REGULARISATION["mask_channel_length"], "length of a masked span, in channels"
    )


@register_model("pruned_hubert", dataclass=PrunedHubertConfig)
class PrunedHubert(TokenPrunedHubert):
    """A HuBERT whose layers differ in shape, which its own checkpoint describes.

    `extract_features` is that of fairseq's HubertModel, so that fairseq's models with an encoder of HuBERT's kind
    take it as one.
    """

    @classmethod
    def build_model(cls, cfg: PrunedHubertConfig, task=None):
        """Build from options.

        Raises:
            ValueError: neither a path nor an architecture, or such as do not fit.
        """
        checkpoint = read_hubert(cfg.hubert_path) if cfg.hubert_path else None
        if checkpoint is None and not cfg.hubert_config:
            raise ValueError("model pruned_hubert: found neither --hubert-path nor --hubert-config")
        architecture = checkpoint.architecture if checkpoint else json.loads(cfg.hubert_config)
        model = build_encoder(
            architecture,
            pad_invariant=not cfg.fairseq_padding,
            kind=cls,
            **{name: cfg[name] for name in REGULARISATION},
        )
        model.checkpoint_activations = cfg.checkpoint_activations
        if checkpoint is not None:
            load_state_dict_strictly(model, checkpoint.state_dict, cfg.hubert_path)
        keep_in_checkpoint(
            cfg,
            hubert_config=json.dumps(architecture),
            hubert_path=None,
            encoder_embed_dim=architecture["encoder_embed_dim"],
        )
        return model

    def extract_features(
        self,
        source: Tensor,
        padding_mask: Optional[Tensor] = None,
        mask: bool = False,
        output_layer: Optional[int] = None,
    ) -> tuple[Tensor, Optional[Tensor]]:
        """Features as fairseq's `HubertModel.extract_features` gives them.

        Args:
            source: (batch, samples) at 16 kHz. padding_mask: (batch, samples), True on padding at the end.
            mask: mask spans of frames and channels.
            output_layer: of a layer, counted from 1, before the last norm of pre-norm models and without masks;
                None: the last.

        Returns:
            (batch, frames, dim), and its padding mask (batch, frames) or None.
        """
        lengths = [source.shape[1]] * len(source)
        if padding_mask is not None:
            lengths = (~padding_mask).sum(dim=1).tolist()
        if output_layer is not None:
            states, frame_padding = self.layer_outputs(source, lengths)
            return states[output_layer], frame_padding
        frames = self(source, lengths, mask)
        return frames.x, frames.padding_mask
