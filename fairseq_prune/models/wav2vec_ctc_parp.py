"""wav2vec 2.0 with a CTC output, fine-tuned sparsely."""

from dataclasses import dataclass
from pathlib import Path

from fairseq.models import register_model
from fairseq.models.wav2vec.wav2vec2_asr import Wav2Vec2CtcConfig, Wav2VecCtc

from fairseq_prune.models.deltalm import keep_in_checkpoint
from fairseq_prune.models.magnitude_pruning import MagnitudePruned, MagnitudePruningConfig


@dataclass
class Wav2VecCtcParpConfig(MagnitudePruningConfig, Wav2Vec2CtcConfig):
    pass


@register_model("wav2vec_ctc_parp", dataclass=Wav2VecCtcParpConfig)
class Wav2VecCtcParp(MagnitudePruned, Wav2VecCtc):
    """fairseq's ``wav2vec_ctc`` with magnitude pruning: PARP and its baselines (arXiv 2106.05933)."""

    @classmethod
    def build_model(cls, cfg: Wav2VecCtcParpConfig, task):
        """Build as ``wav2vec_ctc``: from ``w2v_path``, or from the configuration that a checkpoint of ours keeps.

        Raises:
            FileNotFoundError: there is no such pretrained checkpoint.
            ValueError: as `MagnitudePruned.attach_pruner`.
        """
        check_pretrained(cfg)
        model = super().build_model(cfg, task)
        keep_in_checkpoint(cfg, w2v_args=cfg.w2v_args)
        model.attach_pruner(cfg)
        return model


def check_pretrained(cfg) -> None:
    """Raise FileNotFoundError if the model shall begin from ``w2v_path``, and there is no such file."""
    if cfg.w2v_args is None and not Path(cfg.w2v_path).is_file():
        raise FileNotFoundError(f"{cfg.w2v_path}: no such pretrained checkpoint (--w2v-path)")
