"""What the criterion counts of the CTC loss."""

import pytest
import torch
from fairseq.logging import metrics
from torch.nn.functional import ctc_loss

from fairseq_prune.criterions.speech_translation import SpeechTranslationCriterion, infeasible


@pytest.mark.parametrize("seed", range(5))
def test_infeasible_utterances_are_those_of_infinite_ctc_loss(seed):
    torch.manual_seed(seed)
    target, lengths = torch.randint(1, 4, (40, 6)), torch.randint(0, 7, (40,))
    frames = torch.randint(1, 10, (40,))
    log_probs = torch.randn(10, 40, 4).log_softmax(-1)
    found = infeasible(target, lengths, frames)
    assert torch.equal(found, ctc_loss(log_probs, target, frames, lengths, reduction="none").isinf())
    assert 0 < found.sum() < 40


def test_share_of_infeasible_utterances_is_logged_over_all_batches():
    batches = [(torch.tensor(3), 8), (torch.tensor(0), 4), (0, 4)]
    logs = [
        dict(
            ctc_infeasible=count, nsentences=n, ntokens=9, sample_size=9, loss=1.0, nll_loss=1.0, ctc_loss=1.0
        )
        for count, n in batches
    ]
    with metrics.aggregate() as aggregator:
        SpeechTranslationCriterion.reduce_metrics(logs)
    assert aggregator.get_smoothed_value("ctc_infeasible") == round(3 / 16, 4)
