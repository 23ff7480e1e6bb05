"""``python -m fairseq_prune VERB``, the same as the command ``fairseq-prune VERB``."""

import sys

from fairseq_prune.cli import main

sys.exit(main())
