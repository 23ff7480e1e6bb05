"""What our fine-tuning with CTC adds to fairseq's, for several processes and for weights that are not trained."""

from torch import nn

from fairseq_prune.models import trainer_hooks  # noqa: F401 (asks for `frozen_parameters`)
from fairseq_prune.modules.taking_part import take_part


class CtcTraining:
    """Mixin for fairseq's models with a ``w2v_encoder``; it comes before fairseq's class."""

    def freeze_unused(self) -> None:
        """Stop the training of parameters that these options never give a gradient."""
        encoder = self.w2v_encoder
        pretrained = encoder.w2v_model
        if pretrained.feature_grad_mult <= 0:
            pretrained.feature_extractor.requires_grad_(False)
        if not (encoder.apply_mask and pretrained.mask_prob > 0):
            pretrained.mask_emb.requires_grad_(False)

    def frozen_parameters(self) -> list[nn.Parameter]:
        """Those that the update in progress does not train (freeze_finetune_updates)."""
        encoder = self.w2v_encoder
        frozen = encoder.num_updates < encoder.freeze_finetune_updates
        return list(encoder.w2v_model.parameters()) if frozen else []

    def forward(self, **kwargs):
        """As fairseq's; also what layer drop or freezing leaves out gets a gradient, one of zeros."""
        out = super().forward(**kwargs)
        if self.training:
            out["encoder_out"] = take_part(out["encoder_out"], self.w2v_encoder.w2v_model.parameters())
        return out
