"""Translating waveforms with a checkpoint alone."""

import pytest
import torch
from fairseq.dataclass.configs import FairseqConfig
from omegaconf import OmegaConf, open_dict
from small_speech_model import make_config
from torch.ao.nn.quantized.dynamic import Linear as DynamicLinear

from fairseq_prune.checkpoints.loading import load_checkpoint_file
from fairseq_prune.inference.translation import Translator
from fairseq_prune.tasks.speech_translation import SpeechTranslationConfig, SpeechTranslationTask

FIRST_FRAME, FRAME = 400, 320  # samples that the first frame needs, and every further one


def save(path, data, ctc_text="source", update=50, **options):
    """A checkpoint of a random model, laid out as by fairseq's trainer."""
    torch.manual_seed(0)
    cfg = OmegaConf.structured(FairseqConfig())
    with open_dict(cfg):
        cfg.task = OmegaConf.structured(SpeechTranslationConfig(data=str(data), ctc_text=ctc_text))
        cfg.model = make_config(**options)
        with open_dict(cfg.task), open_dict(cfg.model):
            cfg.task._name, cfg.model._name = "speech_translation", "hubert_deltalm_tiny"
    task = SpeechTranslationTask.setup_task(cfg.task)
    model = task.build_model(cfg.model)
    with torch.no_grad():
        # so that translations depend on the audio
        for name, parameter in model.named_parameters():
            parameter.add_(torch.randn_like(parameter) * (0.5 if "encoder_attn" in name else 0.1))
    history = {"optimizer_name": "Adam", "lr_scheduler_state": {}, "num_updates": update}
    state = {
        "cfg": OmegaConf.to_container(cfg, resolve=True, enum_to_str=True),
        "model": model.state_dict(),
        "optimizer_history": [history],
        "extra_state": {"train_iterator": {"epoch": 1}, "val_loss": 1.0},
        "task_state": task.state_dict(),
    }
    torch.save({"args": None, **state}, path)
    return str(path)


@pytest.fixture(scope="module")
def checkpoint(prepared_data, tmp_path_factory):
    return save(tmp_path_factory.mktemp("model") / "checkpoint.pt", prepared_data, token_keep_ratio=0.8)


@pytest.fixture(scope="module")
def translator(checkpoint):
    return Translator(checkpoint, beam=2, max_tokens=12)


@pytest.fixture(scope="module")
def waveforms():
    generator = torch.Generator().manual_seed(1)
    return [0.1 * torch.randn(n, generator=generator) for n in (16000, 8000, 20000, FIRST_FRAME, 12000)]


def test_weights_of_8_bits_hardly_change_a_text(checkpoint, translator, waveforms):
    small = Translator(checkpoint, beam=2, max_tokens=12, int8=True)
    layers = [type(module) for module in small.model.decoder.modules()]
    assert layers.count(DynamicLinear) == len(small.model.decoder.layers) * 8 + 1
    found, expected = small.translate(waveforms), translator.translate(waveforms)
    assert sum(a == b for a, b in zip(found, expected)) > len(waveforms) / 2


@pytest.mark.parametrize("texts_of", ["translate", "recognize"])
def test_texts_are_in_the_order_of_the_waveforms_whatever_the_batch_size(texts_of, translator, waveforms):
    method = getattr(translator, texts_of)
    alone = [method([waveform])[0] for waveform in waveforms]
    assert len(set(alone)) > 2
    for batch_size in (1, 2, 8):
        assert method(waveforms, batch_size) == alone


@pytest.mark.parametrize("texts_of", ["translate", "recognize"])
def test_digital_silence_has_no_text(texts_of, translator, waveforms):
    method = getattr(translator, texts_of)
    spoken = method(waveforms[:1])[0]
    assert method([torch.zeros(16000), waveforms[0], torch.full((16000,), 0.5)]) == ["", spoken, ""]


@pytest.mark.parametrize("texts_of", ["translate", "recognize"])
def test_waveforms_without_a_frame_have_no_text(texts_of, translator, waveforms):
    method = getattr(translator, texts_of)
    scraps = [torch.zeros(0), torch.zeros(FIRST_FRAME - 1)]
    assert method(scraps) == ["", ""]
    assert method([scraps[0], waveforms[0], scraps[1]]) == ["", method(waveforms[:1])[0], ""]


def test_transcripts_are_the_best_path_without_repetitions_and_blanks(translator, waveforms):
    encoder, expected = translator.model.encoder, []
    for waveform in waveforms:
        with torch.inference_mode():
            logits = encoder.ctc_logits(encoder(**translator.batch([waveform])["net_input"]))
        path = logits[:, 0].argmax(-1).tolist()
        tokens = [token for token, before in zip(path, [None, *path]) if token != before and token != 0]
        expected.append(translator.task.ctc_vocabulary.decode(tokens))
    assert translator.recognize(waveforms) == expected and any(expected)


def test_a_model_without_ctc_does_not_transcribe(prepared_data, waveforms, tmp_path):
    translator = Translator(save(tmp_path / "checkpoint.pt", prepared_data, ctc_text="none"))
    with pytest.raises(ValueError, match="no CTC head"):
        translator.recognize(waveforms)


def test_kept_frames_become_fewer_from_layer_to_layer(translator):
    waveform = 0.1 * torch.randn(FIRST_FRAME + 49 * FRAME, generator=torch.Generator().manual_seed(2))
    first, second = (set(places.tolist()) for places in translator.kept_frames(waveform))
    assert second < first < set(range(50))
    assert [len(first), len(second)] == [40, 32]
    with pytest.raises(ValueError, match="399 samples is too short for a frame"):
        translator.kept_frames(waveform[: FIRST_FRAME - 1])


def test_overrides_change_the_pruning_and_nothing_else(checkpoint, translator):
    other = Translator(checkpoint, {"token_keep_ratio": 0.5, "token_keep_criterion": "uniform"})
    assert other.hubert.pruning.keep_ratios == [0.5, 0.5] and other.hubert.pruning.criterion == "uniform"
    assert translator.hubert.pruning.keep_ratios == [0.8, 0.8]
    weights = translator.model.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in other.model.state_dict().items())


@pytest.mark.parametrize("update, frames", [(0, [50, 50, 50]), (50, [50, 38, 29]), (200, [50, 25, 13])])
def test_pruning_is_where_its_warm_up_was_when_the_checkpoint_was_saved(
    update, frames, prepared_data, tmp_path
):
    path = save(
        tmp_path / "checkpoint.pt",
        prepared_data,
        update=update,
        token_keep_ratio=0.5,
        token_keep_warmup_updates=100,
    )
    assert Translator(path).hubert.frame_counts(FIRST_FRAME + 49 * FRAME) == frames


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(overrides={"keep": 1}), "has no option 'keep'"),
        (dict(overrides={"token_keep_ratio": 0.0}), r"found 0\.0, expected a share of frames to keep"),
        (dict(overrides={"deltalm_decoder_layers": 3}), r"do not fit .* missing: decoder\.layers\.2\."),
        (dict(device="abacus"), "device 'abacus' cannot be used"),
        (dict(half=True), "float16 needs a GPU"),
    ],
)
def test_options_that_cannot_be_met_are_refused(options, message, checkpoint):
    with pytest.raises(ValueError, match=message):
        Translator(checkpoint, **options)


def test_files_that_are_no_checkpoint_of_the_task_are_refused(checkpoint, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.pt: no such checkpoint"):
        Translator(str(tmp_path / "none.pt"))
    text = tmp_path / "text.pt"
    text.write_text("not a checkpoint")
    with pytest.raises(ValueError, match=r"text\.pt: no checkpoint, or a broken one"):
        Translator(str(text))
    state = load_checkpoint_file(checkpoint)
    state["cfg"]["task"] = {"_name": "translation"}
    torch.save(state, tmp_path / "other.pt")
    with pytest.raises(
        ValueError, match=r"other\.pt: a checkpoint of task translation, expected speech_translation"
    ):
        Translator(str(tmp_path / "other.pt"))
