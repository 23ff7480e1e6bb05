"""Which frames are dropped goes to transformers in config.json, and comes back with the import commands."""

from pathlib import Path

import pytest
import torch
from fairseq.tasks.audio_finetuning import AudioFinetuningConfig
from omegaconf import OmegaConf
from small_speech_model import SAMPLES, make_model, speech
from small_whisper import clips, huggingface_whisper, our_names, small_tokenizer, small_whisper

from fairseq_prune.checkpoints.formats import formats_of
from fairseq_prune.checkpoints.huggingface_folder import pruning_options
from fairseq_prune.checkpoints.whisper.foreign import import_whole
from fairseq_prune.inference.recognition import Recognizer
from fairseq_prune.models.options import with_younger_options
from fairseq_prune.models.token_pruning import token_pruning
from fairseq_prune.modules.frames import TokenPruning
from fairseq_prune.modules.hubert.convolution import normalize_waveform

transformers = pytest.importorskip("transformers", minversion="5.24")
adapters = pytest.importorskip("fairseq_prune.adapters.transformers")

RECOGNITION = str(Path(__file__).parent / "of_5d3c2e6" / "recognition.pt")
OPTIONS = {"token_keep_ratios": "0.5,0.8", "token_keep_criterion": "norm", "token_keep_min": 2}


def frames_of(model):
    """What the encoder of a translator of ours makes of an utterance."""
    source = speech(SAMPLES)
    with torch.no_grad():
        return model.encoder.hubert(source["src_tokens"], [SAMPLES])


@pytest.mark.parametrize("form", ["base", "large"])
def test_the_encoder_of_a_translator_goes_to_transformers_and_back(form, tmp_path):
    model = make_model(hubert_form=form, **OPTIONS)
    expected = frames_of(model)
    formats_of("hubert_deltalm_tiny")["hf"].write(model, None, tmp_path / "hf", None)
    there, source = adapters.load(tmp_path / "hf"), speech(SAMPLES)["src_tokens"]
    with torch.no_grad():
        source = normalize_waveform(source, [SAMPLES]) if form == "large" else source
        found = there(source).last_hidden_state
    torch.testing.assert_close(found, expected.x, rtol=1e-3, atol=1e-4)
    assert adapters.kept_frames(there).lengths == expected.lengths
    back = make_model(hubert_path=str(tmp_path / "hf"))
    assert back.encoder.hubert.pruning == model.encoder.hubert.pruning
    torch.testing.assert_close(frames_of(back).x, expected.x, rtol=1e-4, atol=1e-5)


def test_options_that_are_given_are_stronger_than_the_folder(tmp_path):
    formats_of("hubert_deltalm_tiny")["hf"].write(make_model(**OPTIONS), None, tmp_path / "hf", None)
    back = make_model(hubert_path=str(tmp_path / "hf"), token_keep_ratios="1,1")
    assert back.encoder.hubert.pruning == TokenPruning([1.0, 1.0])


@pytest.mark.skipif(
    not hasattr(AudioFinetuningConfig, "multi_corpus_keys"), reason="the file is of fairseq-fixed"
)
def test_a_recogniser_is_pruned_in_transformers_and_its_encoder_comes_back(tmp_path):
    recognizer = Recognizer(RECOGNITION)
    formats_of("wav2vec_ctc_parp")["hf"].write(recognizer.model, recognizer.task, tmp_path / "hf", None)
    there = adapters.prune_tokens(adapters.load(tmp_path / "hf"), keep_ratio=0.6, start_layer=2)
    there.save_pretrained(tmp_path / "pruned")
    back = make_model(hubert_path=str(tmp_path / "pruned"))
    assert back.encoder.hubert.pruning == TokenPruning([1.0, 0.6])
    with torch.no_grad():
        expected = there.wav2vec2(speech(SAMPLES)["src_tokens"]).last_hidden_state
    torch.testing.assert_close(frames_of(back).x, expected, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_a_whisper_goes_to_transformers_and_back(tmp_path):
    tokenizer, sizes = small_tokenizer(), {"max_source_positions": 100}
    model = small_whisper(our_names(huggingface_whisper(tokenizer, end=0, **sizes)), tokenizer, **sizes)
    layers = len(model.encoder.layers)
    model.encoder.pruning = TokenPruning([0.5] * layers, "uniform", 3)
    cfg = OmegaConf.create({"language": None, "spoken_task": "transcribe", "suppress_tokens": "none"})
    task = type("Task", (), {"tokenizer": tokenizer, "prefix": tokenizer.prefix(None), "cfg": cfg})
    formats_of("whisper")["hf"].write(model, task, tmp_path / "hf", None)
    features, lengths = clips(200)
    expected = model.encoder(features, lengths)["encoder_out"][0]
    found = adapters.load(tmp_path / "hf").model.encoder(features.transpose(1, 2)).last_hidden_state
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    options = with_younger_options(import_whole(tmp_path / "hf")[0].to_fairseq())["cfg"]["model"]
    assert token_pruning(OmegaConf.create(options), layers) == model.encoder.pruning


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ([0.5], r"token_pruning: found \[0\.5\]"),
        ({"keep_ratios": [0.5]}, "found 1, expected 2, one a layer"),
        ({"keep_ratios": [0.5, 1.5]}, r"keep ratio of layer 2: found 1\.5"),
        ({"keep_ratios": [0.5, 1], "criterion": "luck"}, "found 'luck', expected one of received"),
        ({"keep_ratios": [0.5, 1], "minimum": "two"}, "token_pruning: found"),
    ],
)
def test_an_entry_that_is_none_is_refused(entry, message):
    with pytest.raises(ValueError, match=message) as caught:
        pruning_options({"token_pruning": entry}, 2, Path("x/config.json"))
    assert str(caught.value).startswith("x/config.json: token_pruning: found")
