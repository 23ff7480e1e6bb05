"""Steps of training: what they compute, and that those which are compared compute the same."""

import pytest
import torch

from fairseq_prune.benchmarks.plain_dphubert import PlainDPHubert
from fairseq_prune.benchmarks.specs import TINY, Spec
from fairseq_prune.benchmarks.training import measure_steps, training_table
from fairseq_prune.benchmarks.training_kinds import TRAININGS, Batch, build_steps, torchaudios_sizes

BATCH = Batch(seconds=1.0, batch=2, tokens=5)


def steps_of(*texts):
    specs = [Spec.parse(text) for text in texts]
    return [step for group in build_steps(specs, BATCH, torch.device("cpu"), TINY) for step in group]


@pytest.mark.parametrize("name", TRAININGS)
def test_updates_bring_the_loss_down(name):
    (step,) = steps_of(name)
    torch.manual_seed(0)
    losses = [float(step.run()) for _ in range(30)]
    assert all(loss == loss for loss in losses)
    assert sum(losses[-5:]) < sum(losses[:5])


def test_fairseqs_own_passes_give_the_same_loss():
    ours, theirs = (steps_of(name)[0].run() for name in ("st", "st_fairseq"))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_pruning_leaves_fewer_operations_and_does_not_stay():
    dense, pruned, again = steps_of("st", "st,keep=0.5,start=1", "st")
    assert pruned.macs < dense.macs == again.macs
    assert float(pruned.run()) != float(steps_of("st")[0].run())


def test_steps_are_timed_in_turns(monkeypatch):
    moments = iter([0, 1, 1, 3, 10, 14, 20, 22])  # a round that does not count, then 4 and 2 seconds
    monkeypatch.setattr("fairseq_prune.benchmarks.training.clock", lambda *args: next(moments))
    specs = [Spec.parse("st"), Spec.parse("st,keep=0.5,start=1")]
    ((dense, pruned),) = measure_steps(specs, BATCH, torch.device("cpu"), rounds=1, sizes=TINY)
    assert (dense.median, pruned.median, pruned.speedup) == (4, 2, 2)
    assert pruned.ideal == pytest.approx(dense.macs / pruned.macs)
    assert "| st, keep=0.5, start=1 | 2.000 |" in training_table([[dense, pruned]])


def test_the_plain_restatement_with_open_gates_is_torchaudios_model():
    plain = PlainDPHubert("0|1,2", **torchaudios_sizes(TINY)).eval()
    waveforms = BATCH.waveforms(torch.device("cpu"))
    with torch.no_grad():
        plain._values = [torch.ones(len(gate.log_alpha)) for gate in plain.gates]
        expected, _ = plain.student.extract_features(waveforms)
        found = plain._states(plain.student, waveforms)[1:]
        torch.testing.assert_close(found, expected)
        plain._values = [torch.zeros(len(gate.log_alpha)) for gate in plain.gates]
        closed = plain._states(plain.student, waveforms)
    assert closed[0].std(1).max() < 1e-6  # no channel tells frames apart


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="training: found 'hubert_base', expected some of st, "):
        steps_of("hubert_base")
    for text in ("st,dtype=bfloat16", "st_fairseq,keep=0.8"):
        with pytest.raises(ValueError, match="training takes label=, and of st keep="):
            steps_of(text)
