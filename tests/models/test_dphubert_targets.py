"""What the model dphubert learns beside its teacher's layers: gaps (ARMHuBERT) and means of groups (SKILL)."""

import pytest
import torch
from small_distillation import build, criterion, sample
from tones import write_hubert

from fairseq_prune.modules.masking import seeded_generator, span_mask

MASKED = {"mask_prob": 0.6, "mask_length": 4}
NO_DROPOUT = {"dropout": 0.0, "attention_dropout": 0.0, "input_dropout": 0.0}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return write_hubert(tmp_path_factory.mktemp("hubert") / "teacher.pt")


def test_a_masked_student_learns_gaps_from_the_whole_and_the_rest_from_what_it_hears(teacher):
    model = build(teacher, prune="none", distill_layers="0,1,2", **MASKED, **NO_DROPOUT)[0].train()
    inputs, hubert = sample()["net_input"], model._teacher[0]
    torch.manual_seed(2)
    out = model(**inputs)
    torch.manual_seed(2)
    mask = torch.from_numpy(span_mask([19, 12], 19, 0.6, 4, seeded_generator([19, 12])))
    assert 0 < mask.sum() < 31
    whole, padding = hubert.layer_outputs(**inputs, before_positions=True)
    # the same gaps, put in by hand where frames enter the transformer
    hook = hubert.dropout_input.register_forward_hook(
        lambda module, args, x: torch.where(mask[..., None], hubert.mask_emb, x)
    )
    heard, _ = hubert.layer_outputs(**inputs, before_positions=True)
    hook.remove()
    for layer, (mine, target) in enumerate(zip(out["student"], out["teacher"])):
        torch.testing.assert_close(
            mine[~padding], heard[layer][~padding]
        )  # it begins as a copy of the teacher
        torch.testing.assert_close(target[~mask & ~padding], heard[layer][~mask & ~padding])
        torch.testing.assert_close(target[mask], (whole if layer else heard)[layer][mask])
    # a copy is therefore at no distance where it hears, and all frames weigh the same
    gaps = [(whole[layer] - heard[layer])[mask].abs().mean(-1).sum() / 3 for layer in (1, 2)]
    torch.manual_seed(2)
    loss, frames, _ = criterion(cosine_weight=0.0)(model, {"net_input": inputs, "nsentences": 2})
    assert frames == 31
    torch.testing.assert_close(loss, sum(gaps))


def test_masks_are_for_training_alone_and_train_their_embedding(teacher):
    model = build(teacher, prune="none", **MASKED)[0]
    assert criterion()(model.eval(), sample())[0] < 1e-3
    assert not build(teacher)[0].student.mask_emb.requires_grad
    gated = build(teacher, **MASKED)[0].train()
    criterion()(gated, sample())[0].backward()
    trained = {name: p.grad for name, p in gated.named_parameters() if p.requires_grad}
    assert all(grad is not None for grad in trained.values()) and trained["student.mask_emb"].abs().max() > 0


def test_the_mean_of_a_group_of_layers_learns_the_teacher_s_mean(teacher):
    model = build(teacher, distill_by="groups")[0].train()
    out = model(**sample()["net_input"])
    states, _ = model._teacher[0].layer_outputs(**sample()["net_input"], before_positions=True)
    assert len(out["student"]) == len(out["teacher"]) == len(out["unmapped"]) == 2
    for target, expected in zip(out["teacher"], (states[0], 0.5 * states[1] + 0.5 * states[2])):
        torch.testing.assert_close(target[~out["padding_mask"]], expected[~out["padding_mask"]])
    criterion()(model, sample())[0].backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
