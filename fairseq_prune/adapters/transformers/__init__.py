"""Pruning of speech models of the library transformers, without fairseq.

    from fairseq_prune.adapters.transformers import prune_tokens
    prune_tokens(model, keep_ratio=0.7, start_layer=4)  # in place; restore_tokens(model) undoes it

All functions change a model in place and note it in ``model.config``; `load` reads what `save_pretrained` then writes.
"""

from fairseq_prune.adapters.transformers.loading import load
from fairseq_prune.adapters.transformers.sparsity import ParpCallback, sparsify, zero_share
from fairseq_prune.adapters.transformers.tokens import (
    KeptFrames,
    kept_frames,
    prune_tokens,
    prune_tokens_again,
    restore_tokens,
)
from fairseq_prune.adapters.transformers.vocabulary import cut_vocabulary
from fairseq_prune.adapters.transformers.widths import cut_heads, cut_layers, cut_units
from fairseq_prune.pruning.parp import PruningPlan

__all__ = [
    "KeptFrames",
    "ParpCallback",
    "PruningPlan",
    "cut_heads",
    "cut_layers",
    "cut_units",
    "cut_vocabulary",
    "kept_frames",
    "load",
    "prune_tokens",
    "prune_tokens_again",
    "restore_tokens",
    "sparsify",
    "zero_share",
]
