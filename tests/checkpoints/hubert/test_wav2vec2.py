"""wav2vec 2.0 has HuBERT's encoder: its checkpoints give the features of the libraries that wrote them."""

import pytest
import torch
import transformers
from fairseq.models.wav2vec.wav2vec2 import Wav2Vec2Config, Wav2Vec2Model
from hubert_files import BASE, HF_BASE, HF_LARGE, random_weights, save
from test_huggingface_hubert import change_config
from test_reading import FineTuned

from fairseq_prune.checkpoints.hubert.reading import read_hubert
from fairseq_prune.checkpoints.loading import load_state_dict_strictly
from fairseq_prune.modules.hubert.architecture import build_encoder

FORMS = {
    "base": {},
    "large": {"extractor_mode": "layer_norm", "layer_norm_first": True, "conv_bias": True},
}
QUANTIZER = {"quantize_targets": True, "final_dim": 6, "latent_vars": 4, "latent_dim": 8}


def pretrained(form="base", **others):
    """fairseq's Wav2Vec2Model with quantizer and heads, and the options that its checkpoint holds."""
    config = Wav2Vec2Config(**{**BASE, **FORMS[form], **QUANTIZER, "target_glu": True, **others})
    return random_weights(Wav2Vec2Model(config)), {**vars(config), "_name": "wav2vec2"}


def written(model, options, path, normalize=False):
    return save(path, model, {"model": options, "task": {"normalize": normalize}})


@torch.no_grad()
def features_of(path, waveform):
    checkpoint = read_hubert(path)
    encoder = build_encoder({**checkpoint.architecture, "normalize": False}).eval()
    load_state_dict_strictly(encoder, checkpoint.state_dict, path)
    return encoder(waveform, [waveform.shape[1]] * len(waveform)).x


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("form", FORMS)
def test_a_pretrained_checkpoint_of_fairseq(tmp_path, form, depth):
    model, options = pretrained(form, quantizer_depth=depth)
    path = written(model, options, tmp_path / "a.pt", normalize=form == "large")
    checkpoint = read_hubert(path)
    dropped = {key.split(".")[0] for key in set(model.state_dict()) - set(checkpoint.state_dict)}
    assert dropped == {"quantizer", "project_q", "final_proj", "target_glu"}
    assert checkpoint.normalize is (form == "large")
    waveform = torch.randn(2, 4000)
    expected = model.extract_features(waveform, padding_mask=None)["x"].detach()
    torch.testing.assert_close(features_of(path, waveform), expected, rtol=1e-4, atol=1e-4)


def test_a_checkpoint_fine_tuned_with_ctc(tmp_path):
    model, options = pretrained("large")
    cfg = {
        "model": {"_name": "wav2vec_ctc", "w2v_path": "/gone.pt", "w2v_args": {"model": options, "task": {}}},
        "task": {"_name": "audio_finetuning", "normalize": True},
    }
    model.remove_pretraining_modules()
    fine_tuned = torch.nn.Module()
    fine_tuned.w2v_encoder = FineTuned(model)
    checkpoint = read_hubert(save(tmp_path / "a.pt", fine_tuned, cfg))
    assert checkpoint.normalize is True
    waveform = torch.randn(1, 4000)
    expected = model.extract_features(waveform, padding_mask=None)["x"].detach()
    torch.testing.assert_close(features_of(tmp_path / "a.pt", waveform), expected, rtol=1e-4, atol=1e-4)


def test_an_encoder_of_quantized_input_is_refused(tmp_path):
    model, options = pretrained(quantize_input=True, same_quantizer=True)
    with pytest.raises(ValueError, match="quantize_input is True, but fairseq's HuBERT has False"):
        read_hubert(written(model, options, tmp_path / "a.pt"))


@pytest.mark.parametrize("kind", ["Wav2Vec2Model", "Wav2Vec2ForCTC", "Wav2Vec2ForPreTraining"])
@pytest.mark.parametrize("options", [HF_BASE, HF_LARGE], ids=["base", "large"])
def test_a_folder_of_transformers(tmp_path, options, kind):
    config = transformers.Wav2Vec2Config(**options, codevector_dim=8, num_codevectors_per_group=4)
    model = random_weights(getattr(transformers, kind)(config))
    model.save_pretrained(tmp_path)
    waveform = torch.randn(2, 4000)
    expected = getattr(model, "wav2vec2", model)(waveform).last_hidden_state.detach()
    torch.testing.assert_close(features_of(tmp_path, waveform), expected, rtol=1e-4, atol=1e-4)


def test_an_adapter_after_the_encoder_is_refused(tmp_path):
    transformers.Wav2Vec2Model(transformers.Wav2Vec2Config(**HF_BASE)).save_pretrained(tmp_path)
    change_config(tmp_path, add_adapter=True)
    with pytest.raises(ValueError, match="add_adapter is True"):
        read_hubert(tmp_path)
