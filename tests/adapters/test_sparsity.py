"""Sparse weights in transformers, at once and under its Trainer."""

import pytest
import torch

pytest.importorskip("transformers", minversion="5.24")
pytest.importorskip("accelerate")

from small_models import whisper_model
from transformers import Trainer, TrainerCallback, TrainingArguments

from fairseq_prune.adapters.transformers import ParpCallback, PruningPlan, load, sparsify, zero_share

PLAN = PruningPlan("parp", 0.5, interval=2, end=6)


class Sentences(torch.utils.data.Dataset):
    def __len__(self):
        return 32

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        return {
            "input_features": torch.randn(8, 120, generator=generator),
            "labels": torch.randint(3, 40, (4,), generator=generator),
        }


class Watch(TrainerCallback):
    """Notes the share of zeros in and after each update."""

    def __init__(self):
        self.during, self.after = [], []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.during.append(zero_share(model))

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.after.append(zero_share(model))


def train(folder, steps, resume=None):
    model, watch = whisper_model(), Watch()
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=2,
        learning_rate=1e-2,
        lr_scheduler_type="constant",
        save_steps=3,
        save_total_limit=3,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        seed=1,
    )
    callbacks = [ParpCallback(PLAN), watch]
    trainer = Trainer(model, arguments, train_dataset=Sentences(), callbacks=callbacks)
    trainer.train(resume_from_checkpoint=resume)
    return model, watch


@pytest.mark.parametrize("score", ["magnitude", "random"])
def test_a_share_of_the_weights_becomes_zero(score, tmp_path):
    model = whisper_model()
    embedding = model.get_input_embeddings().weight.clone()
    sparsify(model, 0.4, score)
    assert model.config.sparsity["share"] == pytest.approx(0.4, abs=1e-3)
    assert zero_share(model) >= 0.399  # new biases are zero too
    assert torch.equal(model.get_input_embeddings().weight, embedding)
    model.save_pretrained(tmp_path)
    assert load(tmp_path).config.sparsity["score"] == score


def test_the_model_is_sparse_after_each_update_and_grows_within_it(tmp_path):
    _, watch = train(tmp_path, 8)
    assert watch.after == pytest.approx([0.5] * 8, abs=1e-3)
    assert watch.during[1] < 0.4 and watch.during[-1] == pytest.approx(
        0.5, abs=1e-3
    )  # fixed from update 6 on
    assert zero_share(load(tmp_path / "checkpoint-3")) == pytest.approx(0.5, abs=1e-3)


def test_a_resumed_run_goes_on_as_if_it_had_not_stopped(tmp_path):
    whole, _ = train(tmp_path / "whole", 6)
    train(tmp_path / "parts", 3)
    resumed, _ = train(tmp_path / "parts", 6, resume=str(tmp_path / "parts" / "checkpoint-3"))
    for expected, found in zip(whole.parameters(), resumed.parameters()):
        torch.testing.assert_close(found, expected)


def test_a_checkpoint_without_masks_is_refused(tmp_path):
    train(tmp_path, 3)
    (tmp_path / "checkpoint-3" / "magnitude_pruning.safetensors").unlink()
    with pytest.raises(ValueError, match="has no magnitude_pruning"):
        train(tmp_path, 6, resume=str(tmp_path / "checkpoint-3"))


def test_an_unknown_score_is_refused():
    with pytest.raises(ValueError, match="found 'best', expected one of magnitude"):
        sparsify(whisper_model(), 0.5, score="best")
