"""WavLM as a model of fairseq, which has none."""

from fairseq.models import register_model

from fairseq_prune.models.pruned_hubert import PrunedHubert, PrunedHubertConfig


@register_model("wavlm", dataclass=PrunedHubertConfig)
class WavLM(PrunedHubert):
    """HuBERT with gated relative positions (arXiv 2110.13900); ``--hubert-path``: a folder of Hugging Face."""

    @classmethod
    def build_model(cls, cfg: PrunedHubertConfig, task=None):
        """Build from options.

        Raises:
            ValueError: as `PrunedHubert.build_model`, or the encoder is no WavLM.
        """
        model = super().build_model(cfg, task)
        if model.relative_position is None:
            raise ValueError("model wavlm: the encoder has no relative positions, expected a WavLM")
        return model
