"""fairseq_prune: a fairseq ``--user-dir`` that makes speech models small and fast."""

from fairseq_prune import compat, errors

compat.install()
errors.install()

from fairseq_prune import criterions, models, optim, tasks  # noqa: E402

__all__ = ["criterions", "models", "optim", "tasks"]
