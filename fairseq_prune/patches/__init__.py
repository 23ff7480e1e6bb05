"""What fairseq does otherwise once this package is loaded; one thing a file.

Differences between versions of fairseq and torch are in compat.py. What is here is about all versions.
"""

from fairseq_prune.patches import (
    adam,
    beam_search,
    devices,
    generation,
    nan_detector,
    reading,
    resuming,
    saving,
    scoring,
)


def install() -> None:
    """Change fairseq; safe to call again."""
    saving.install()
    reading.install()
    resuming.install()
    scoring.install()
    nan_detector.install()
    generation.install()
    beam_search.install()
    devices.install()
    adam.install()
