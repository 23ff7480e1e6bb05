"""BLEU and chrF summed over batches are those of the whole corpus."""

import pytest
import torch
from fairseq.logging import metrics
from sacrebleu import corpus_bleu, corpus_chrf

from fairseq_prune.evaluation.corpus_scores import CorpusScores

HYPOTHESES = ["the cat sat on the mat", "a dog", "there is nothing here to see", "one two three four five"]
REFERENCES = ["the cat sat on a mat", "the dog", "there is something here to see", "one two three four six"]


def logged(outputs):
    with metrics.aggregate(new_root=True) as aggregator:
        CorpusScores().log(outputs)
        return aggregator.get_smoothed_values()


@pytest.mark.parametrize("batches", [[0, 4], [0, 1, 4], [0, 1, 2, 3, 4]])
def test_scores_do_not_depend_on_the_batches(batches):
    scores = CorpusScores()
    outputs = [
        scores.statistics(HYPOTHESES[start:end], REFERENCES[start:end])
        for start, end in zip(batches, batches[1:])
    ]
    found = logged(outputs)
    assert found["bleu"] == pytest.approx(corpus_bleu(HYPOTHESES, [REFERENCES]).score, abs=0.005)
    assert found["chrf"] == pytest.approx(corpus_chrf(HYPOTHESES, [REFERENCES]).score, abs=0.005)
    assert 20 < found["bleu"] < 90


def test_statistics_summed_by_workers_as_tensors_are_taken():
    output = CorpusScores().statistics(HYPOTHESES, REFERENCES)
    reduced = {key: torch.tensor(value, dtype=torch.double) for key, value in output.items()}
    assert logged([reduced]) == logged([output])


def test_batches_over_several_calls_add_up():
    """As in validation, where each batch is logged by itself."""
    scores = CorpusScores()
    with metrics.aggregate(new_root=True) as aggregator:
        for hypothesis, reference in zip(HYPOTHESES, REFERENCES):
            scores.log([scores.statistics([hypothesis], [reference])])
        found = aggregator.get_smoothed_values()
    assert found["bleu"] == pytest.approx(corpus_bleu(HYPOTHESES, [REFERENCES]).score, abs=0.005)


def test_training_outputs_without_statistics_log_nothing():
    assert logged([{"loss": 1.0}]) == {}
    assert logged([]) == {}
