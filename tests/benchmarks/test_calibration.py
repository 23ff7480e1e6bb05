"""Attention received and costs of frames, against the encoder that drops them."""

from dataclasses import replace

import pytest
import torch
from hubert_models import SAMPLES, make_hubert

from fairseq_prune.benchmarks.calibration import attention_received, encoder_macs, keeping, layer_costs

SHARES = torch.tensor([0.5, 0.75, 1.0], dtype=torch.float64)


def test_received_attention_is_that_by_which_the_first_layer_drops_frames():
    hubert = make_hubert(ratios=[0.5, 1.0, 1.0, 1.0])
    waveform = torch.randn(SAMPLES)
    received = attention_received(hubert, waveform)
    assert [len(scores) for scores in received] == [49] * 4
    assert float(received[0].sum()) == pytest.approx(49, rel=1e-3)  # a row of the softmax sums to 1
    kept = hubert(waveform.unsqueeze(0), [SAMPLES]).positions[0]  # and the encoder prunes again as before
    assert torch.equal(kept, received[0].topk(25).indices.sort().values)


def test_ratios_that_are_tried_out_ignore_a_warm_up_and_are_taken_back():
    hubert = make_hubert(criterion="uniform", ratios=[0.9] * 4)
    before = hubert.pruning = replace(hubert.pruning, warmup_updates=10)
    hubert.set_num_updates(0)
    assert hubert.frame_counts(SAMPLES)[-1] == 49
    with keeping(hubert, [0.5, 1.0, 1.0, 1.0]):
        assert hubert.frame_counts(SAMPLES)[-1] == 25 and hubert.pruning.criterion == "received"
    assert hubert.pruning is before


def test_costs_of_layers_are_differences_of_the_encoders_macs():
    hubert = make_hubert()
    costs = layer_costs(hubert, [SAMPLES * 10], SHARES)
    dense = encoder_macs(hubert, [SAMPLES * 10], [1.0] * 4)
    pruned = encoder_macs(hubert, [SAMPLES * 10], [1.0, 0.75, 2 / 3, 1.0])
    expected = costs[1, 2, 1] + costs[2, 1, 0] + costs[3, 0, 0] - 3 * costs[0, 2, 2]
    assert float(expected) == pytest.approx(pruned - dense, rel=0.02)  # counts of frames are rounded
