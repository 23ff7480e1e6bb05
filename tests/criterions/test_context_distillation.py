"""Distillation of the audio context: what the teacher says, and what the student is asked."""

from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf
from small_whisper import SIZES, clips, huggingface_whisper, our_names, small_whisper, tokenizer_json

from fairseq_prune.checkpoints.loading import load_fairseq_state
from fairseq_prune.checkpoints.whisper.own import WhisperCheckpoint
from fairseq_prune.criterions.context_distillation import (
    ContextDistillationConfig,
    ContextDistillationCriterion,
)
from fairseq_prune.criterions.teacher_text import greedy
from fairseq_prune.modules.frames import TokenPruning
from fairseq_prune.tasks.spoken_language_understanding import SpokenLanguageUnderstandingTask

WEIGHTS = our_names(huggingface_whisper())


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """The path of a checkpoint that hears the clip alone and drops frames, and its task."""
    path = tmp_path_factory.mktemp("teacher") / "whisper.pt"
    state = WhisperCheckpoint("here", SIZES, WEIGHTS, tokenizer_json()).to_fairseq()
    state["cfg"]["model"].update(audio_context="clip", token_keep_ratio=0.5)
    torch.save(state, path)
    state = load_fairseq_state(path)
    return path, SpokenLanguageUnderstandingTask.from_state(state["cfg"].task, state["task_state"])


def criterion_of(teacher, **options):
    path, task = teacher
    cfg = OmegaConf.merge(ContextDistillationConfig(), {"teacher_path": str(path), **options})
    return ContextDistillationCriterion.build_criterion(cfg, task)


def sample(*frames):
    features, lengths = clips(*frames)
    return {"id": torch.arange(len(frames)), "net_input": {"src_tokens": features, "src_lengths": lengths}}


@torch.no_grad()
def test_the_teacher_hears_30_s_and_drops_nothing_whatever_its_checkpoint_says(teacher):
    loss, size, log = criterion_of(teacher).eval()(small_whisper(WEIGHTS), sample(50, 31))
    assert float(loss) == pytest.approx(0, abs=1e-3) and log["n_agreed"] == size > 0


@torch.no_grad()
@pytest.mark.parametrize("weights", [(1, 0), (0, 1)])
def test_a_short_context_and_pruning_each_cost_something(teacher, weights):
    criterion = criterion_of(teacher, hidden_weight=weights[0], kl_weight=weights[1]).eval()
    short, pruned = small_whisper(WEIGHTS, audio_context="clip"), small_whisper(WEIGHTS)
    pruned.encoder.pruning = TokenPruning([0.6, 0.6])
    assert min(float(criterion(model, sample(50, 31))[0]) for model in (short, pruned)) > 0.01


@torch.no_grad()
def test_a_batch_costs_what_its_clips_cost_alone(teacher):
    criterion, model = criterion_of(teacher).eval(), small_whisper(WEIGHTS, audio_context="clip")
    together = criterion(model, sample(50, 31))
    batch, alone = sample(50, 31), []
    for row, length in enumerate((50, 31)):
        features = batch["net_input"]["src_tokens"][row : row + 1, :length]
        lengths = batch["net_input"]["src_lengths"][row : row + 1]
        net_input = {"src_tokens": features, "src_lengths": lengths}
        alone.append(criterion(model, {"id": batch["id"][row : row + 1], "net_input": net_input}))
    assert together[1] == sum(size for _, size, _ in alone)
    torch.testing.assert_close(together[0], sum(loss for loss, *_ in alone), rtol=1e-3, atol=1e-3)


def test_a_few_updates_bring_the_student_nearer(teacher):
    criterion, model = criterion_of(teacher, silence_max=0.1).train(), small_whisper(WEIGHTS).train()
    model.encoder.audio_context = "clip"
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    losses = []
    batch = sample(50, 31)
    for update in range(12):
        torch.manual_seed(update)
        loss, size, _ = criterion(model, batch)
        optimizer.zero_grad()
        (loss / size).backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2


def test_the_context_of_a_training_batch_is_drawn_and_follows_the_seed(teacher):
    criterion, model = (
        criterion_of(teacher, silence_max=0.3).train(),
        small_whisper(WEIGHTS, audio_context="clip"),
    )

    batch = sample(50, 31)

    def loss(seed):
        torch.manual_seed(seed)
        return criterion(model, batch)[0].item()

    assert loss(1) == loss(1) != loss(2)
    assert model.encoder.audio_context == "clip"


@torch.no_grad()
def test_greedy_texts_are_those_of_fairseqs_generator(teacher):
    _, task = teacher
    model, batch = small_whisper(WEIGHTS), sample(80, 33, 52)
    options = SimpleNamespace(beam=1, max_len_a=0, max_len_b=20)
    found = task.build_generator([model], options).generate([model], batch)
    end, prefix = task.target_dictionary.eos(), task.prefix
    texts = greedy(model.decoder, model.encoder(**batch["net_input"]), prefix, end, 21, never_first=[end])[
        :, len(prefix) :
    ]
    for text, [best, *_] in zip(texts.tolist(), found):
        expected = best["tokens"].tolist()
        assert text[: len(expected) - 1] == expected[:-1]  # the generator ends what is too long


@torch.no_grad()
def test_what_the_teacher_said_is_kept_where_asked_for(teacher):
    criterion, model = (
        criterion_of(teacher, cache_teacher=True).eval(),
        small_whisper(WEIGHTS, audio_context="clip"),
    )
    first = criterion(model, sample(50, 31))[0]
    criterion._teacher[0].encoder.forward = None  # a further call would fail
    torch.testing.assert_close(criterion(model, sample(50, 31))[0], first)
    with pytest.raises(TypeError):
        criterion(model, sample(50, 32))


def test_the_teacher_is_neither_trained_nor_saved(teacher):
    criterion = criterion_of(teacher)
    assert not list(criterion.parameters()) and not criterion.state_dict()


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(silence_min=2.0, silence_max=1.0), "--silence-min, --silence-max: found 2.0 and 1.0"),
        (dict(silence_max=31.0), "found 0.0 and 31.0, expected 0 to 30 s"),
        (dict(teacher_path=None), "--teacher-path: found none"),
    ],
)
def test_options_out_of_range_are_refused(teacher, options, message):
    with pytest.raises(ValueError, match=message):
        criterion_of(teacher, **options)
