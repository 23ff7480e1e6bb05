"""BLEU and chrF of a validation set, from statistics that are summed over batches and workers."""

import numpy as np
from fairseq.logging import metrics
from sacrebleu.metrics import BLEU, CHRF


class CorpusScores:
    """sacrebleu's BLEU and chrF as fairseq validation metrics ``bleu`` and ``chrf``."""

    def __init__(self):
        self.metrics = {"bleu": BLEU(), "chrf": CHRF()}

    def statistics(self, hypotheses: list[str], references: list[str]) -> dict[str, float]:
        """Entries of a logging output; their sums over batches are the statistics of all batches together."""
        entries = {}
        for name, metric in self.metrics.items():
            rows = metric._extract_corpus_statistics(hypotheses, [references])
            entries.update((f"_{name}_{i}", value) for i, value in enumerate(np.sum(rows, axis=0).tolist()))
        return entries

    def log(self, logging_outputs: list[dict]) -> None:
        """Log the scores of the logging outputs that have statistics."""
        for name, metric in self.metrics.items():
            keys = [key for key in (logging_outputs or [{}])[0] if key.startswith(f"_{name}_")]
            if not keys:
                continue
            sums = [sum(float(output.get(key, 0)) for output in logging_outputs) for key in keys]
            metrics.log_scalar(f"_{name}", np.array(sums))

            def score(meters, name=name, metric=metric):
                counts = [round(value) for value in meters[f"_{name}"].sum.tolist()]
                return round(metric._aggregate_and_compute([counts]).score, 2)

            metrics.log_derived(name, score)
