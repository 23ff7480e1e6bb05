"""wav2vec 2.0 with a CTC output, fine-tuned sparsely."""

from dataclasses import dataclass
from pathlib import Path

from fairseq.models import register_model
from fairseq.models.wav2vec.wav2vec2_asr import Wav2Vec2CtcConfig, Wav2VecCtc
from omegaconf import OmegaConf, open_dict

from fairseq_prune.models.ctc_training import CtcTraining
from fairseq_prune.models.magnitude_pruning import MagnitudePruned, MagnitudePruningConfig


@dataclass
class Wav2VecCtcParpConfig(MagnitudePruningConfig, Wav2Vec2CtcConfig):
    pass


@register_model("wav2vec_ctc_parp", dataclass=Wav2VecCtcParpConfig)
class Wav2VecCtcParp(CtcTraining, MagnitudePruned, Wav2VecCtc):
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
        keep_pretrained_options(cfg)
        model.freeze_unused()
        model.attach_pruner(cfg)
        return model


def check_pretrained(cfg) -> None:
    """Raise FileNotFoundError if the model shall begin from ``w2v_path``, and there is no such file."""
    if cfg.w2v_args is None and not Path(cfg.w2v_path).is_file():
        raise FileNotFoundError(f"{cfg.w2v_path}: no such pretrained checkpoint (--w2v-path)")


def keep_pretrained_options(cfg) -> None:
    """Our checkpoints have the options of the pretrained model, and need no ``w2v_path`` to be loaded."""
    parent = cfg._get_parent()  # of the node "model" that a checkpoint keeps, and `cfg` is a copy of
    if parent is not None and parent.model.get("w2v_args") is None:
        with open_dict(parent.model):
            parent.model.w2v_args = OmegaConf.to_container(cfg.w2v_args, enum_to_str=True)
