"""What all pipelines share: batches by length, silence, precision."""

import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fairseq_prune.inference.base import Pipeline, batches_by_length, is_silent
from fairseq_prune.inference.recognition import Recognizer
from fairseq_prune.inference.translation import Translator
from fairseq_prune.inference.understanding import Understander

PIPELINES = (Recognizer, Translator, Understander)


@given(
    lengths=st.lists(st.integers(0, 50), max_size=30),
    most=st.none() | st.integers(1, 5),
    max_samples=st.none() | st.integers(1, 120),
    shortest=st.integers(1, 10),
)
def test_batches_hold_each_waveform_once_within_the_limits(lengths, most, max_samples, shortest):
    batches = batches_by_length(lengths, most, max_samples, shortest)
    flat = [i for batch in batches for i in batch]
    assert sorted(flat) == [i for i, length in enumerate(lengths) if length >= shortest]
    assert [lengths[i] for i in flat] == sorted((lengths[i] for i in flat), reverse=True)
    for batch, following in zip(batches, [*batches[1:], None]):
        longest = lengths[batch[0]]
        assert most is None or len(batch) <= most
        assert max_samples is None or len(batch) == 1 or len(batch) * longest <= max_samples
        full = len(batch) == most or (max_samples is not None and (len(batch) + 1) * longest > max_samples)
        assert full or following is None  # no batch is smaller than it must be


@pytest.mark.parametrize(
    "waveform, silent",
    [
        (torch.zeros(0), True),
        (torch.zeros(800), True),
        (torch.full((800,), 0.25), True),
        (torch.tensor([0.0, 2**-15] * 400), False),  # the least that 16-bit audio tells apart
        (torch.full((800,), float("nan")), False),
    ],
)
def test_digital_silence_is_a_constant(waveform, silent):
    assert is_silent(waveform) is silent


@pytest.mark.parametrize("kind", PIPELINES)
def test_every_pipeline_refuses_half_precision_on_the_processor(kind):
    assert issubclass(kind, Pipeline)
    with pytest.raises(ValueError, match="float16 needs a GPU, found device cpu"):
        kind("none.pt", half=True)


def test_a_pipeline_alone_registers_the_models_that_checkpoints_name():
    code = (
        "from fairseq_prune.inference.base import Pipeline\n"
        "from fairseq import models, tasks\n"
        "assert {'speech_translation', 'spoken_language_understanding'} <= set(tasks.TASK_REGISTRY)\n"
        "assert {'whisper', 'hubert_deltalm'} <= set(models.MODEL_REGISTRY)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
