"""Steps of training: what they compute, and that those which are compared compute the same."""

import numpy as np
import pytest
import torch

from fairseq_prune.benchmarks.plain_dphubert import PlainDPHubert
from fairseq_prune.benchmarks.reading_speed import reading_seconds
from fairseq_prune.benchmarks.specs import TINY, Spec
from fairseq_prune.benchmarks.training import measure_steps, training_table
from fairseq_prune.benchmarks.training_kinds import TRAININGS, build_steps
from fairseq_prune.benchmarks.training_of_hubert import base_hubert, cut, torchaudios_sizes
from fairseq_prune.benchmarks.training_of_whisper import (
    plain_inputs,
    plain_prune_slu,
    student_and_criterion,
    whisper_sample,
)
from fairseq_prune.benchmarks.updates import Batch
from fairseq_prune.data.speech_translation_dataset import SpeechTranslationDataset
from fairseq_prune.modules.hubert.architecture import build_encoder

BATCH = Batch(seconds=1.0, batch=2, tokens=5)


def steps_of(*texts):
    if "slu_transformers" in texts:
        pytest.importorskip("transformers", reason="of the extra bench")
    specs = [Spec.parse(text) for text in texts]
    return [step for group in build_steps(specs, BATCH, torch.device("cpu"), TINY) for step in group]


@pytest.mark.parametrize("name", TRAININGS)
def test_updates_bring_the_loss_down(name):
    (step,) = steps_of(name)
    torch.manual_seed(0)
    part = 20 if "dphubert" in name else 5  # dropout makes losses scatter
    losses = [float(step.run()) for _ in range(4 * part)]
    assert np.isfinite(losses).all() and losses[0] != losses[1]
    assert sum(losses[-part:]) < sum(losses[:part])


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
    table = training_table([[dense, pruned]], reading=0.5)
    assert "| st, keep=0.5, start=1 | 2.000 | 2.000 to 2.000 | 0.5000 | 20.00 % |" in table
    assert "| quartiles | reading | share |" in table


def test_augmented_batches_are_read(monkeypatch):
    lengths = []

    class Dataset(SpeechTranslationDataset):
        def collater(self, samples):
            batch = super().collater(samples)
            assert batch["target"].shape[1] > BATCH.tokens
            lengths.extend(batch["net_input"]["src_lengths"].tolist())
            return batch

    monkeypatch.setattr("fairseq_prune.benchmarks.reading_speed.SpeechTranslationDataset", Dataset)
    assert 0 < reading_seconds(BATCH) < 1
    assert len(set(lengths)) > 5 and abs(np.mean(lengths) / BATCH.samples - 1) < 0.1


def test_the_second_stages_student_was_cut_and_has_no_gates():
    student = build_encoder(cut(base_hubert(None)))
    assert (student.shapes.heads, student.shapes.units) == ([6] * 12, [512] * 12)
    layers = [
        sum(p.numel() for p in hubert.encoder.layers.parameters()) for hubert in (student, base_hubert(None))
    ]
    assert 0.25 < layers[0] / layers[1] < 0.3


@torch.no_grad()
def test_whispers_have_the_same_losses_in_both_libraries():
    """The contrastive one looks at the last layer before its norm, and in transformers after it, if there is one."""
    pytest.importorskip("transformers", reason="of the extra bench")
    sample = whisper_sample(BATCH, TINY, torch.device("cpu"))
    model, criterion = student_and_criterion(TINY)
    plain = plain_prune_slu(TINY)
    for theirs, ours in ((plain.student, model), (plain.teacher, criterion._teacher[0])):
        weights = {f"model.{name}": value for name, value in ours.state_dict().items()}
        theirs.load_state_dict({**weights, "proj_out.weight": ours.decoder.embed_tokens.weight})
    assert len(model.encoder.layers) == 1 and len(criterion._teacher[0].encoder.layers) == 2
    loss, tokens, log = criterion(model, sample)
    plain.weights = (0.8, 1.0, 0.0)
    expected = (loss - log["contrastive_loss"]) / tokens
    torch.testing.assert_close(plain(*plain_inputs(sample)), expected, rtol=1e-4, atol=1e-5)
    plain.weights = (0.0, 0.0, 0.1)
    for model in (plain.student, plain.teacher):
        model.model.decoder.layer_norm = torch.nn.Identity()
    contrastive = log["contrastive_loss"] / tokens
    torch.testing.assert_close(plain(*plain_inputs(sample)), contrastive, rtol=1e-4, atol=1e-5)


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
