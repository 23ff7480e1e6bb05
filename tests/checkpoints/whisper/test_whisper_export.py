"""The writers compare with the other library themselves; here it is asked once more, from outside."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from small_whisper import clips, huggingface_whisper, our_names, small_tokenizer, small_whisper

from fairseq_prune.checkpoints.onnx_quantization import quantize
from fairseq_prune.checkpoints.runtime import whisper as runtime
from fairseq_prune.checkpoints.whisper import export, onnx
from fairseq_prune.data.log_mel import log_mel
from fairseq_prune.modules.whisper.generation import WhisperGenerator, suppressed_tokens

POSITIONS = 100  # 2 s, as transformers' features are of whole seconds
LABELS = ["[IN:GET_WEATHER", "[SL:DATE"]


@pytest.fixture(scope="module")
def tokenizer():
    return small_tokenizer().with_tokens(LABELS)


def build(tokenizer, audio_context="30s", **sizes):
    """Our model of random weights."""
    sizes["max_source_positions"] = POSITIONS
    weights = our_names(huggingface_whisper(tokenizer, end=0, **sizes))
    return small_whisper(weights, tokenizer, audio_context=audio_context, **sizes)


def task_of(tokenizer, language=None, suppress_tokens="none"):
    """What the writers ask of the task."""
    cfg = SimpleNamespace(language=language, spoken_task="transcribe", suppress_tokens=suppress_tokens)
    return SimpleNamespace(tokenizer=tokenizer, prefix=tokenizer.prefix(language), cfg=cfg)


def waveform(samples=24_000, seed=0):
    return np.random.default_rng(seed).normal(size=samples).astype(np.float32) * 0.1


def generate(model, task, features, max_tokens=20):
    """Greedy token ids without the end."""
    never, first = suppressed_tokens(task.tokenizer) if task.cfg.suppress_tokens == "non_speech" else ([], [])
    options = dict(beam_size=1, max_len_b=max_tokens, min_len=0)
    generator = WhisperGenerator([model], task.tokenizer.dictionary, task.prefix, never, first, **options)
    sample = {"net_input": {"src_tokens": features[None], "src_lengths": torch.tensor([len(features)])}}
    tokens = generator.generate([model], sample)[0][0]["tokens"].tolist()
    return tokens[:-1][:max_tokens]


@pytest.mark.parametrize(("language", "suppress"), [(None, "none"), ("de", "non_speech")])
def test_transformers_generates_the_same_from_the_folder(tmp_path, tokenizer, language, suppress):
    model, task = build(tokenizer), task_of(tokenizer, language, suppress)
    export.export_huggingface(model, task, tmp_path / "hf")
    theirs = transformers.WhisperForConditionalGeneration.from_pretrained(tmp_path / "hf").eval()
    processor = transformers.WhisperProcessor.from_pretrained(tmp_path / "hf")
    features = processor(waveform(), sampling_rate=16000, return_tensors="pt").input_features
    found = theirs.generate(features, num_beams=1, max_new_tokens=20)
    words = generate(model, task, log_mel(waveform()))
    assert words
    text = processor.batch_decode(found, skip_special_tokens=True)[0]
    assert text.startswith(tokenizer.decode(words)[:-1]) or text == tokenizer.decode(words)


def test_transformers_tokenizer_is_ours(tmp_path, tokenizer):
    task = task_of(tokenizer)
    export.export_huggingface(build(tokenizer), task, tmp_path / "hf")
    theirs = transformers.WhisperProcessor.from_pretrained(tmp_path / "hf").tokenizer
    text = "[IN:GET_WEATHER what is the weather [SL:DATE tomorrow ] ] é 日"
    ids = tokenizer.encode(text)
    assert theirs(text, add_special_tokens=False).input_ids == ids
    assert theirs(text).input_ids == [*task.prefix, *ids, tokenizer.dictionary.eos()]
    assert theirs.decode([*task.prefix, *ids, tokenizer.dictionary.eos()], skip_special_tokens=True) == text


@pytest.mark.parametrize("int8", [False, True])
def test_ctranslate2_generates_the_same_from_the_folder(tmp_path, tokenizer, int8):
    ctranslate2 = pytest.importorskip("ctranslate2", reason="in the test extra of the current stack")
    model, task = build(tokenizer), task_of(tokenizer)
    export.export_ctranslate2(model, task, tmp_path / "ct2", SimpleNamespace(int8=int8))
    theirs = ctranslate2.models.Whisper(str(tmp_path / "ct2"), compute_type="int8" if int8 else "float32")
    features, _ = clips(2 * POSITIONS)
    storage = ctranslate2.StorageView.from_array(features.transpose(1, 2).contiguous().numpy())
    found = theirs.generate(
        storage, [task.prefix], beam_size=1, max_length=40, suppress_tokens=None, suppress_blank=False
    )
    words = generate(model, task, features[0])[:5]
    assert int8 or found[0].sequences_ids[0][: len(words)] == words
    assert (tmp_path / "ct2/tokenizer.json").is_file()


@pytest.fixture(scope="module")
def exported(tmp_path_factory, tokenizer):
    """Model, task and their folder for ONNX Runtime."""
    for library in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(library, reason="in the test extra of the current stack")
    model, task = build(tokenizer, encoder_layers=1, decoder_layers=2), task_of(tokenizer, "en", "non_speech")
    out = tmp_path_factory.mktemp("onnx") / "exported"
    onnx.export_onnx(model, task, out, SimpleNamespace(int8=False))
    return model, task, out


def test_onnx_generates_the_same(exported, engine):
    model, task, folder = exported
    runner = runtime.OnnxWhisper(folder, engine=engine)
    for samples, seed in ((24_000, 0), (3_000, 1), (31_000, 2)):
        clip = waveform(samples, seed)
        words = generate(model, task, log_mel(clip))
        assert runner.generate(runner.features(clip), 20) == words
        assert runner.text(clip, 20) == task.tokenizer.decode(words)


@pytest.fixture
def short(exported, tmp_path, monkeypatch):
    """The same model with the context of the clip, and its folder, which differs in that word alone."""
    model, _, folder = exported
    shutil.copytree(folder, tmp_path / "short")
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "short/config.json").write_text(json.dumps({**config, "audio_context": "clip"}))
    monkeypatch.setattr(model.encoder, "audio_context", "clip")
    return model, tmp_path / "short"


def logits_of(runner, features, tokens):
    """Logits (tokens, vocabulary) of the exported model."""
    memory, cache, found = runner.encode(features.numpy()), runner.start(), []
    assert memory["memory_keys"].shape[3] == (len(features) + 1) // 2
    for token in tokens:
        logits, cache = runner.step(token, memory, cache)
        found.append(logits.copy())
    return np.stack(found)


@pytest.mark.parametrize(
    ("context", "heard"),
    [("30s", 3000), ("clip", 500), ("clip+1.5", 650), ("clip+4", 900), ("clip+40", 3000)],
)
def test_what_the_encoder_hears_of_a_clip_of_5_seconds(context, heard):
    assert runtime.frames_heard(context, 500, 3000) == heard


def test_onnx_hears_the_silence_of_the_context(exported, tmp_path):
    """The context's 0.3 s of silence, and as much silence in the clip's own features, are the same."""
    _, _, folder = exported
    shutil.copytree(folder, tmp_path / "short")
    content = json.loads((folder / "config.json").read_text())
    clip = log_mel(waveform(16_000)).numpy()
    longer = np.pad(clip, ((0, 30), (0, 0)), constant_values=max(clip.max() - 2.0, -1.5))
    found = {}
    for context, features in {"clip+0.3": clip, "clip": longer}.items():
        (tmp_path / "short/config.json").write_text(json.dumps({**content, "audio_context": context}))
        found[context] = runtime.OnnxWhisper(tmp_path / "short").encode(features)["memory_keys"]
    np.testing.assert_array_equal(found["clip+0.3"], found["clip"])


@torch.no_grad()
@pytest.mark.parametrize(("int8", "tolerance"), [(False, 1e-4), (True, 0.1)])
def test_onnx_at_the_clips_length_gives_the_models_logits(short, exported, int8, tolerance, engine):
    model, folder = short
    if int8:
        before = folder_size(folder)
        for name, operators in onnx.QUANTIZED.items():
            quantize(folder / name, folder / name, operators)
        assert folder_size(folder) < before
    features, tokens = log_mel(waveform()), [*exported[1].prefix, 7, 9]
    encoded = model.encoder(features[None], torch.tensor([len(features)]))
    expected = model.decoder(torch.tensor([tokens]), encoded)[0][0].numpy()
    found = logits_of(runtime.OnnxWhisper(folder, engine=engine), features, tokens)
    assert np.abs(found - expected).max() < tolerance * np.abs(expected).max()


def folder_size(folder):
    return sum(path.stat().st_size for path in folder.iterdir())


@pytest.mark.parametrize("samples", [1, 3_000, 24_000, 31_000])
def test_features_on_the_device_are_those_of_training(exported, samples):
    runner = runtime.OnnxWhisper(exported[2])
    np.testing.assert_allclose(
        runner.features(waveform(samples)), log_mel(waveform(samples)).numpy(), rtol=0, atol=1e-4
    )


def test_on_the_device_a_clip_beyond_the_context_is_refused(exported):
    runner = runtime.OnnxWhisper(exported[2])
    with pytest.raises(ValueError, match=r"found 2\.00 s of audio, expected at most 2\.00 s"):
        runner.features(waveform(32_001))


def test_a_folder_that_is_no_export_is_refused(tmp_path):
    pytest.importorskip("onnxruntime", reason="in the test extra of the current stack")
    with pytest.raises(
        FileNotFoundError, match=r"config.json: no such file, expected a folder of scripts/export.py"
    ):
        runtime.OnnxWhisper(tmp_path)


def test_a_library_that_computes_otherwise_is_an_error(tmp_path, tokenizer, monkeypatch):
    """Of weights that do not arrive."""
    model, task = build(tokenizer), task_of(tokenizer)
    kept = transformers.WhisperForConditionalGeneration.save_pretrained

    def spoil(self, folder):
        with torch.no_grad():
            self.model.encoder.layers[0].fc1.weight.mul_(2)
        kept(self, folder)

    monkeypatch.setattr(transformers.WhisperForConditionalGeneration, "save_pretrained", spoil)
    with pytest.raises(ValueError, match="transformers' logits differ from the model's"):
        export.export_huggingface(model, task, tmp_path / "hf")


def test_that_other_libraries_hear_more_than_the_clip_is_told(tmp_path, tokenizer, caplog):
    export.export_huggingface(build(tokenizer, audio_context="clip"), task_of(tokenizer), tmp_path / "hf")
    assert "with silence to 30 s" in caplog.text and "hears what the model hears" in caplog.text


def undecided(tokenizer, **options):
    """A model for which the tokens 5 and 6 are always equally likely, and likelier than all others."""
    model = build(tokenizer, encoder_layers=1, decoder_layers=1, **options)
    with torch.no_grad():
        model.decoder.layer_norm.bias.fill_(1.0)
        model.decoder.embed_tokens.weight[5:7] = 2.0
    return model


def test_equally_likely_tokens_may_come_in_any_order(tokenizer):
    """Which of them is first is rounding, of which other libraries have their own."""
    model, task = undecided(tokenizer, audio_context="clip"), task_of(tokenizer)
    features, _ = clips(2 * POSITIONS)
    for text in ([5, 6] * 5, [6, 6, 5, 5] * 3, [*task.prefix, *[6] * 12]):
        export._require_same_text(text, model, task, features, "a library")
    for text in ([5, 6, 7, *[5] * 7], [5, 6], []):  # another token, and texts that end too early
        with pytest.raises(ValueError, match="a library generates the token .* or --format onnx"):
            export._require_same_text(text, model, task, features, "a library")


def test_ctranslate2_takes_a_model_that_hears_the_clip_alone(tmp_path, tokenizer):
    pytest.importorskip("ctranslate2", reason="in the test extra of the current stack")
    model = undecided(tokenizer, audio_context="clip")
    export.export_ctranslate2(model, task_of(tokenizer), tmp_path / "ct2", SimpleNamespace(int8=False))
    assert (tmp_path / "ct2/model.bin").is_file()


def pruned(tokenizer, **options):
    model = build(tokenizer, **options)
    model.encoder.pruning = replace(
        model.encoder.pruning, keep_ratios=[0.5] * len(model.encoder.layers), warmup_updates=0
    )
    return model


def test_the_weights_of_a_model_that_drops_frames_are_written_and_that_is_told(tmp_path, tokenizer, caplog):
    model = pruned(tokenizer, audio_context="clip+0.2", encoder_layers=2)
    export.export_huggingface(model, task_of(tokenizer), tmp_path / "hf")
    assert "the model drops frames" in caplog.text and "--audio-context clip+0.2" in caplog.text
    assert model.encoder.pruning.keep_ratios == [0.5] * 2
