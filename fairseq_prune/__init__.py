"""fairseq_prune makes speech models small and fast: as fairseq's ``--user-dir``, in transformers, and alone.

``fairseq_prune.pruning`` and ``fairseq_prune.adapters`` need no fairseq. Models, tasks, criterions and optimizers
register with fairseq when fairseq is in use: as a ``--user-dir``, where fairseq was imported before this package, or
by ``import fairseq_prune.tasks`` (or ``models``, ``criterions``, ``optim``).
"""

from fairseq_prune import registration

registration.begin()


def load(checkpoint, device: str = "cpu", half: bool = False, overrides: "dict | None" = None, **options):
    """A checkpoint, ready to ``translate``, ``transcribe`` or ``understand`` audio, or to give ``features`` of it.

    It needs fairseq. See `fairseq_prune.inference.loading.load`.
    """
    from fairseq_prune.inference.loading import load as load_model

    return load_model(checkpoint, device, half, overrides, **options)


__all__ = ["load"]
