"""Checkpoints that can be read, and that describe what cannot be built: one line that names the file."""

from pathlib import Path

import pytest
import torch
from fairseq import checkpoint_utils

from fairseq_prune.checkpoints.loading import load_checkpoint_file, load_fairseq_state
from fairseq_prune.checkpoints.sparse import weights_of
from fairseq_prune.inference.recognition import Recognizer
from fairseq_prune.inference.understanding import Understander

FOLDER = Path(__file__).parent / "of_5d3c2e6"


@pytest.fixture
def changed(tmp_path):
    """Writes a checkpoint of `FOLDER` with a part of it changed."""

    def write(name, *keys, value):
        checkpoint = part = load_checkpoint_file(FOLDER / name)
        for key in keys[:-1]:
            part = part[key]
        part[keys[-1]] = value
        torch.save(checkpoint, tmp_path / name)
        return str(tmp_path / name)

    return write


@pytest.mark.parametrize("value", [7, [], "text", None])
def test_the_state_of_the_task(value, changed):
    path = changed("recognition.pt", "task_state", "target_dictionary", value=value)
    with pytest.raises(ValueError, match=r"^.*recognition\.pt: .*") as told:
        Recognizer(path)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("section", ["model", "task"])
@pytest.mark.parametrize("value", [7, [], {}, None])
def test_the_name_of_the_model_or_the_task(value, section, changed):
    path = changed("understanding.pt", "cfg", section, "_name", value=value)
    for read in (load_fairseq_state, load_checkpoint_file):
        with pytest.raises(ValueError, match=rf"understanding\.pt: .*cfg\.{section}\._name"):
            read(path)


@pytest.mark.parametrize("section", ["model", "task"])
@pytest.mark.parametrize("value", [7, [1], "text"])
def test_a_section_that_is_none(value, section, changed):
    with pytest.raises(ValueError, match=rf"recognition\.pt: .*cfg\.{section}: found"):
        load_checkpoint_file(changed("recognition.pt", "cfg", section, value=value))


def test_a_task_that_is_not_registered(changed):
    path = changed("understanding.pt", "cfg", "task", "_name", value="unheard_of")
    with pytest.raises(ValueError, match=r"understanding\.pt: .*unheard_of"):
        checkpoint_utils.load_model_ensemble_and_task([path])


@pytest.mark.parametrize("option", ["embed_dim", "encoder_layers", "max_source_positions"])
def test_an_option_of_the_model(option, changed):
    with pytest.raises(ValueError, match=r"understanding\.pt: "):
        Understander(changed("understanding.pt", "cfg", "model", option, value="text"))


@pytest.mark.parametrize("model", [{}, {"weight": "text"}])
def test_a_model_without_weights(model):
    with pytest.raises(
        ValueError, match=r"a\.pt: expected tensors under 'model', found (nothing|weight: str)"
    ):
        weights_of({"model": model}, "a.pt")


def test_text_for_a_tensor(changed):
    with pytest.raises(ValueError, match=r"encoder\.layers\.0\.fc1\.weight: found str, expected a tensor"):
        Understander(changed("understanding.pt", "model", "encoder.layers.0.fc1.weight", value="text"))
