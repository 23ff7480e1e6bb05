"""WavLM against transformers, alone, pruned and cut."""

import json

import pytest
import torch
from omegaconf import OmegaConf
from transformers import WavLMConfig, WavLMModel

from fairseq_prune.checkpoints.hubert.reading import read_hubert
from fairseq_prune.models.pruned_hubert import PrunedHubertConfig
from fairseq_prune.models.wavlm import WavLM
from fairseq_prune.modules.frames import TokenPruning
from fairseq_prune.modules.hubert.architecture import architecture_of, build_encoder
from fairseq_prune.modules.hubert.cutting import cut_gates
from fairseq_prune.modules.hubert.gated import Gating

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "conv_dim": (16,) * 4,
    "conv_kernel": (10, 8, 4, 4),
    "conv_stride": (5, 4, 2, 2),
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "num_buckets": 32,
    "max_bucket_distance": 40,
}
LARGE_FORM = {"do_stable_layer_norm": True, "feat_extract_norm": "layer", "conv_bias": True}
SAMPLES = 16000


def build(folder, form=None):
    """A WavLM of transformers with weights far from their initial values, and the folder that it is saved in."""
    torch.manual_seed(1)
    model = WavLMModel(WavLMConfig(**SMALL, **(form or {}))).eval()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    return model


def load(folder, **options):
    """Our encoder with the weights of a folder."""
    checkpoint = read_hubert(folder)
    encoder = build_encoder(checkpoint.architecture, **options).eval()
    missing, unknown = encoder.load_state_dict(checkpoint.state_dict, strict=False)
    assert not unknown and all(name.startswith("gates.") for name in missing)
    return encoder


@pytest.fixture(scope="module", params=[None, LARGE_FORM], ids=["base", "large"])
def wavlm(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("wavlm")
    return build(folder, request.param), folder


@torch.no_grad()
def test_all_layers_equal_those_of_transformers(wavlm):
    theirs, folder = wavlm
    waveform = torch.randn(1, SAMPLES)
    ours = load(folder)
    ours.normalize = False
    states, _ = ours.layer_outputs(waveform, [SAMPLES])
    expected = theirs(waveform, output_hidden_states=True)
    for ours_of_layer, theirs_of_layer in zip(states[:-1], expected.hidden_states[:-1]):
        torch.testing.assert_close(ours_of_layer, theirs_of_layer, atol=1e-4, rtol=1e-4)
    output = ours(waveform, [SAMPLES]).x
    torch.testing.assert_close(output, expected.last_hidden_state, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_dropped_frames_leave_the_places_of_the_others(wavlm):
    """Scored attention and attention alone see the same bias: the frames kept are those of a look at the matrix."""
    _, folder = wavlm
    pruned = load(folder, pruning=TokenPruning([0.6, 0.7, 1.0]))
    waveforms = torch.randn(2, SAMPLES)
    waveforms[1, 9000:] = 0
    together = pruned(waveforms, [SAMPLES, 9000])
    alone = pruned(waveforms[1:, :9000], [9000])
    kept = alone.lengths[0]
    assert together.lengths == [pruned.frame_counts(SAMPLES)[-1], kept]
    assert torch.equal(together.positions[1, :kept], alone.positions[0])
    torch.testing.assert_close(together.x[1, :kept], alone.x[0], atol=1e-4, rtol=1e-4)
    offsets = alone.positions[:, None] - alone.positions[:, :, None]
    assert (offsets.diagonal(1, 1, 2) > 1).any()  # there are gaps, which the bias must know
    table = pruned.relative_position
    dense = table._bias(torch.arange(200).expand(2, -1))[0]
    places = alone.positions[0]
    torch.testing.assert_close(table._bias(alone.positions)[0], dense[:, places][:, :, places])


@torch.no_grad()
def test_cut_heads_keep_their_own_biases_and_are_counted(wavlm):
    _, folder = wavlm
    gated = load(folder, gating=Gating())
    for gate in gated.gate_parameters():
        gate.fill_(40.0)
    gated.gates["attention_heads"]["0"].log_alpha.copy_(torch.tensor([-40.0, 40.0, -40.0, 40.0]))
    gated.gates["attention_heads"]["1"].log_alpha[2] = -40.0
    gated.gates["attention_blocks"]["2"].log_alpha.fill_(-40.0)
    small = cut_gates(gated)
    assert list(small.shapes.heads) == [2, 3, 0]
    assert small.relative_position.layers["0"].heads.tolist() == [1, 3]
    waveform = torch.randn(1, SAMPLES)
    torch.testing.assert_close(
        small(waveform, [SAMPLES]).x, gated(waveform, [SAMPLES]).x, atol=1e-4, rtol=1e-4
    )
    assert int(gated.expected_parameters()) == sum(parameter.numel() for parameter in small.parameters())


@torch.no_grad()
def test_a_cut_wavlm_is_built_from_its_architecture(wavlm):
    _, folder = wavlm
    gated = load(folder, gating=Gating())
    gated.gates["attention_heads"]["0"].log_alpha.copy_(torch.tensor([-9.0, 9.0, 9.0, 9.0]))
    small = cut_gates(gated)
    built = build_encoder(architecture_of(small)).eval()
    built.load_state_dict(small.state_dict())
    waveform = torch.randn(1, SAMPLES)
    assert torch.equal(built(waveform, [SAMPLES]).x, small(waveform, [SAMPLES]).x)


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("num_attention_heads", 0, "config.json: encoder_attention_heads is 0, expected 1 or more"),
        ("num_hidden_layers", "3", "config.json: encoder_layers is '3', expected 1 or more"),
        ("num_buckets", -4, "relative_buckets is -4, expected 0 or a multiple of 4"),
    ],
)
def test_a_size_that_is_none_is_named(tmp_path, name, value, message):
    build(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, name: value}))
    with pytest.raises(ValueError, match=message):
        read_hubert(tmp_path)


@torch.no_grad()
def test_the_registered_model_keeps_its_architecture(wavlm):
    _, folder = wavlm
    cfg = OmegaConf.structured(PrunedHubertConfig(hubert_path=str(folder)))
    model = WavLM.build_model(cfg).eval()
    assert cfg.hubert_path is None
    again = WavLM.build_model(cfg).eval()
    again.load_state_dict(model.state_dict())
    waveform = torch.randn(1, SAMPLES)
    assert torch.equal(again.extract_features(waveform)[0], model.extract_features(waveform)[0])
    cfg.hubert_config = cfg.hubert_config.replace('"relative_buckets": 32', '"relative_buckets": 0')
    with pytest.raises(ValueError, match="expected a WavLM"):
        WavLM.build_model(cfg)
