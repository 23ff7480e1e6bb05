"""The preview of a decoder's output in a checkpoint."""

import pytest
import torch

from fairseq_prune.checkpoints.previews import KEY, preview_of, with_preview
from fairseq_prune.modules.previewed_output import OutputPreview

CHECKPOINT = {"model": {"decoder.embed_tokens.weight": torch.zeros(7, 4)}}


def test_it_is_read_as_it_was_put_there():
    preview = OutputPreview(torch.eye(4)[:, :2], 5)
    found = preview_of(with_preview(CHECKPOINT, preview), "file.pt")
    assert torch.equal(found.directions, preview.directions) and found.candidates == 5
    assert KEY not in CHECKPOINT


def test_a_checkpoint_without_one_has_none():
    assert preview_of(CHECKPOINT, "file.pt") is None


@pytest.mark.parametrize(
    "found",
    [
        {},
        [1],
        {"directions": torch.zeros(4, 2)},
        {"directions": torch.zeros(4, 2), "candidates": 0},
        {"directions": torch.zeros(4, 2), "candidates": 2.5},
        {"directions": torch.zeros(5, 2), "candidates": 3},
        {"directions": torch.zeros(4), "candidates": 3},
        {"directions": torch.zeros(4, 2).double(), "candidates": 3},
        {"directions": [[0.0]], "candidates": 3},
    ],
)
def test_one_that_does_not_fit_is_one_line_with_the_path(found):
    with pytest.raises(ValueError, match=r"^file\.pt: output_preview: found directions") as error:
        preview_of({**CHECKPOINT, KEY: found}, "file.pt")
    assert "\n" not in str(error.value)


def test_one_of_a_model_without_a_decoder_fits_nothing():
    with pytest.raises(ValueError, match=r"^file\.pt: output_preview: found directions"):
        preview_of(with_preview({"model": {}}, OutputPreview(torch.eye(4), 5)), "file.pt")
