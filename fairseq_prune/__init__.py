"""fairseq_prune: a fairseq ``--user-dir`` that makes speech models small and fast."""

import logging

# fairseq asks for tensorboardX, which nothing here needs, while it is imported
logging.getLogger("fairseq.tasks.text_to_speech").addFilter(
    lambda record: "tensorboardX" not in str(record.msg)
)

from fairseq_prune import compat, errors  # noqa: E402

compat.install()
errors.install()

from fairseq_prune import criterions, models, optim, tasks  # noqa: E402

__all__ = ["criterions", "models", "optim", "tasks"]
