"""HuBERT with a CTC output, fine-tuned sparsely."""

from dataclasses import dataclass

from fairseq.models import register_model
from fairseq.models.hubert.hubert_asr import HubertCtc, HubertCtcConfig

from fairseq_prune.checkpoints.loading import load_checkpoint_file
from fairseq_prune.models.ctc_training import CtcTraining
from fairseq_prune.models.magnitude_pruning import MagnitudePruned, MagnitudePruningConfig
from fairseq_prune.models.wav2vec_ctc_parp import check_pretrained, keep_pretrained_options


@dataclass
class HubertCtcParpConfig(MagnitudePruningConfig, HubertCtcConfig):
    pass


@register_model("hubert_ctc_parp", dataclass=HubertCtcParpConfig)
class HubertCtcParp(CtcTraining, MagnitudePruned, HubertCtc):
    """fairseq's ``hubert_ctc`` with magnitude pruning: PARP and its baselines (arXiv 2106.05933)."""

    @classmethod
    def build_model(cls, cfg: HubertCtcParpConfig, task):
        """Build as ``hubert_ctc``: from ``w2v_path``, or from the configuration that a checkpoint of ours keeps.

        Raises:
            FileNotFoundError: there is no such pretrained checkpoint.
            ValueError: as `MagnitudePruned.attach_pruner`.
        """
        check_pretrained(cfg)
        if cfg.w2v_args is None and "dictionaries" not in task.state_dict():
            # those of the pretraining, by which HuBERT has its size; in our checkpoints it finds them with the task
            pretraining = load_checkpoint_file(cfg.w2v_path, mmap=True).get("task_state") or {}
            if "dictionaries" in pretraining:
                task.load_state_dict({"dictionaries": pretraining["dictionaries"]})
        model = super().build_model(cfg, task)
        keep_pretrained_options(cfg)
        model.freeze_unused()
        model.attach_pruner(cfg)
        return model
