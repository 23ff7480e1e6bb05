"""Checkpoints that commit 5d3c2e6 wrote, before the package got its rooms, give the outputs that they gave there.

The folder `of_5d3c2e6` holds one of each task, without its optimizer, and what that commit made of the waveforms here.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from fairseq.tasks.audio_finetuning import AudioFinetuningConfig
from mustc_corpus import WORDS, tone

from fairseq_prune.checkpoints.hubert.own import materialise, read_student
from fairseq_prune.inference.recognition import Recognizer
from fairseq_prune.inference.translation import Translator
from fairseq_prune.inference.understanding import Understander

FOLDER = Path(__file__).parent / "of_5d3c2e6"


@pytest.fixture(scope="module")
def expected():
    return json.loads((FOLDER / "expected.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def waveforms():
    """Five strings of tones at 16 kHz; each sample of 8 kHz comes twice."""
    rng = np.random.default_rng(3)
    words = [rng.choice(list(WORDS), count) for count in (2, 3, 4, 5, 3)]
    return [
        torch.from_numpy(np.concatenate([tone(word) for word in text]).astype(np.float32).repeat(2))
        for text in words
    ]


def test_a_translator_translates_as_before(waveforms, expected):
    translator = Translator(str(FOLDER / "translation.pt"), beam=3, max_tokens=20)
    assert translator.translate(waveforms) == expected["translation"]
    assert translator.recognize(waveforms) == expected["ctc"]


@pytest.mark.skipif(
    not hasattr(AudioFinetuningConfig, "multi_corpus_keys"),
    reason="fairseq-fixed wrote the file, with options that fairseq 0.12.2 does not have",
)
def test_a_sparse_recogniser_recognises_as_before(waveforms, expected):
    recognizer = Recognizer(str(FOLDER / "recognition.pt"))
    found = recognizer.recognize([len(waveform) for waveform in waveforms], waveforms.__getitem__)
    assert found == expected["recognition"]


def test_a_whisper_understands_as_before(waveforms, expected):
    assert Understander(str(FOLDER / "understanding.pt")).texts(waveforms) == expected["understanding"]


def test_a_student_with_gates_is_cut_as_before(waveforms, expected):
    encoder = materialise(read_student(str(FOLDER / "distillation.pt")))[0].eval()
    with torch.no_grad():
        states, _ = encoder.layer_outputs(waveforms[3][None], [len(waveforms[3])])
    found = [[float(state.mean()), float(state.std())] for state in states]
    np.testing.assert_allclose(found, expected["distillation"], atol=2e-5)
