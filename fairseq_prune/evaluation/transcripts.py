"""Scores of transcripts and translations of a test set, with intervals."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from sacrebleu.metrics import BLEU, CHRF

from fairseq_prune.evaluation.bootstrap import interval, rate_interval, resample
from fairseq_prune.evaluation.error_rates import character_error_rate, error_rate, word_error_rate
from fairseq_prune.evaluation.normalizers import text_normalizer

RATES = {"WER": word_error_rate, "CER": character_error_rate}


def recognition_scores(
    references: Sequence[str], hypotheses: Sequence[str], normalizer: str
) -> dict[str, dict[str, Any]]:
    """WER and CER after one of `normalizers.NORMALIZERS`.

    Returns:
        for each "score", "interval" (95 %, over utterances), "errors" and "tokens" of the references.

    Raises:
        ValueError: the references are empty, or there are more of one than of the other.
    """
    normalize = text_normalizer(normalizer)
    references, hypotheses = (list(map(normalize, texts)) for texts in (references, hypotheses))
    error_rate(references, hypotheses)  # raises for lists of different lengths
    scores = {}
    for name, rate in RATES.items():
        each = [rate([gold], [text]) for gold, text in zip(references, hypotheses)]
        total = rate(references, hypotheses)
        low, high = rate_interval([one.errors for one in each], [one.tokens for one in each])
        scores[name] = {
            "score": round(total.percent, 2),
            "interval": [round(low, 2), round(high, 2)],
            "errors": total.errors,
            "tokens": total.tokens,
        }
    return scores


def translation_scores(references: Sequence[str], hypotheses: Sequence[str]) -> dict[str, dict[str, Any]]:
    """sacrebleu's BLEU and chrF, on texts as they are.

    Returns:
        for each "score", "interval" (95 %, over utterances) and sacrebleu's "signature".
    """
    scores = {}
    for name, metric in (("BLEU", BLEU()), ("chrF", CHRF())):
        found = metric.corpus_score(list(hypotheses), [list(references)])
        statistics = np.array(metric._extract_corpus_statistics(list(hypotheses), [list(references)]))
        drawn = [metric._compute_score_from_stats(row).score for row in resample(statistics).tolist()]
        scores[name] = {
            "score": round(found.score, 2),
            "interval": [round(bound, 2) for bound in interval(drawn)],
            "signature": str(metric.get_signature()),
        }
    return scores
