"""A small dphubert, its criterion and a batch."""

import torch
from fairseq import models
from omegaconf import OmegaConf

from fairseq_prune.criterions.distill_prune import DistillPruneCriterion
from fairseq_prune.models.dphubert import DPHubertConfig


def build(teacher_path, **options):
    root = OmegaConf.create(
        {
            "model": OmegaConf.structured(
                DPHubertConfig(
                    **{
                        "teacher_path": teacher_path and str(teacher_path),
                        "distill_layers": "0|1,2",
                        **options,
                    }
                )
            )
        }
    )
    root.model._name = "dphubert"
    torch.manual_seed(0)
    return models.build_model(root.model, None), root.model


def criterion(**options):
    fields = dict(
        l1_weight=1.0,
        cosine_weight=1.0,
        mse_weight=0.0,
        cosine_form="raw",
        target_sparsity=0.5,
        sparsity_of="parameters",
        sparsity_warmup_updates=10,
    )
    return DistillPruneCriterion(None, **{**fields, **options})


def sample(lengths=(6400, 4000)):
    torch.manual_seed(1)
    source = torch.zeros(len(lengths), max(lengths))
    for row, n in zip(source, lengths):
        row[:n] = torch.randn(n)
    return {"net_input": {"source": source, "lengths": list(lengths)}, "nsentences": len(lengths)}
