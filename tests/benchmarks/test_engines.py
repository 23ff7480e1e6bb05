"""Encoders in other engines compute what the encoder does."""

import pytest
import torch

from fairseq_prune.benchmarks.entries import build_entry
from fairseq_prune.benchmarks.specs import Spec
from fairseq_prune.checkpoints.hubert.reading import read_hubert
from fairseq_prune.checkpoints.loading import load_state_dict_strictly
from fairseq_prune.modules.hubert.architecture import build_encoder

SMALL = {
    "extractor_mode": "default",
    "layer_norm_first": False,
    "normalize": False,
    "encoder_layers": 2,
    "encoder_embed_dim": 32,
    "encoder_ffn_embed_dim": 48,
    "encoder_attention_heads": 4,
    "conv_feature_layers": "[(16,10,5)] + [(16,3,2)] * 4 + [(16,2,2)] * 2",
    "conv_pos": 8,
    "conv_pos_groups": 4,
}


def test_our_export_in_onnx_runtime_gives_our_features():
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    from fairseq_prune.benchmarks.engines import onnx_module

    torch.manual_seed(0)
    encoder = build_encoder(SMALL).eval()
    waveforms = torch.randn(2, 9000)
    with torch.inference_mode():
        expected = encoder(waveforms, [9000, 9000]).x
        graph = onnx_module(encoder)
        torch.testing.assert_close(graph(waveforms), expected, rtol=1e-3, atol=1e-4)
        eight_bits = onnx_module(encoder, int8=True)
    assert 0 < eight_bits.bytes < graph.bytes
    assert (eight_bits(waveforms) - expected).norm() < 0.2 * expected.norm()


@pytest.mark.slow
def test_a_plain_export_of_transformers_gives_its_features():
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    transformers = pytest.importorskip("transformers")
    from fairseq_prune.benchmarks.engines import onnx_module

    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_hidden_layers": 2}
    sizes.update(num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=4, conv_dim=[16] * 7)
    model = transformers.HubertModel(transformers.HubertConfig(**sizes)).eval()
    waveforms = torch.randn(1, 9000)
    with torch.inference_mode():
        found = onnx_module(model)(waveforms)
        torch.testing.assert_close(found, model(waveforms).last_hidden_state, rtol=1e-3, atol=1e-4)


def test_our_export_in_openvino_gives_our_features():
    for library in ("onnxscript", "onnxruntime", "openvino", "nncf"):
        pytest.importorskip(library)
    from fairseq_prune.benchmarks.engines import openvino_module

    torch.manual_seed(0)
    encoder = build_encoder(SMALL).eval()
    waveforms = 0.1 * torch.randn(2, 9000)
    with torch.inference_mode():
        expected = encoder(waveforms, [9000, 9000]).x
        graph = openvino_module(encoder)
        torch.testing.assert_close(graph(waveforms), expected, rtol=1e-3, atol=1e-4)
        eight_bits = openvino_module(encoder, int8=True)
    assert 0 < eight_bits.bytes < graph.bytes
    # activations and convolutions have 8 bits, too: 0.05 of the norm in HuBERT base, much more in 32 dimensions
    assert 0 < (eight_bits(waveforms) - expected).norm() < 0.6 * expected.norm()


def test_wav2vec_in_ctranslate2_gives_the_features_of_our_encoder_with_the_same_weights(tmp_path):
    pytest.importorskip("ctranslate2")
    pytest.importorskip("transformers")
    from fairseq_prune.benchmarks.baselines import transformers_wav2vec2
    from fairseq_prune.benchmarks.engines import CTranslate2Module

    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_hidden_layers": 2}
    torch.manual_seed(0)
    model = transformers_wav2vec2({**sizes, "conv_dim": [16] * 7, "vocab_size": 8})
    model.save_pretrained(tmp_path)
    checkpoint = read_hubert(tmp_path)
    encoder = build_encoder(checkpoint.architecture).eval()
    load_state_dict_strictly(encoder, checkpoint.state_dict, tmp_path)
    waveforms = torch.randn(2, 9000)
    waveforms = torch.nn.functional.layer_norm(waveforms, waveforms.shape[1:])
    with torch.inference_mode():
        expected = encoder(waveforms, [9000, 9000]).x
    whole = CTranslate2Module(model)
    torch.testing.assert_close(whole(waveforms), expected, rtol=1e-3, atol=1e-4)
    eight_bits = CTranslate2Module(model, "int8")
    assert 0 < eight_bits.bytes < whole.bytes
    assert 0 < (eight_bits(waveforms) - expected).norm() < 0.2 * expected.norm()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_graph_in_half_precision_is_refused(dtype):
    with pytest.raises(ValueError, match="found dtype|does not run on cpu"):
        build_entry(Spec.parse(f"onnx,dtype={dtype}"), torch.device("cpu"))


@torch.no_grad()
def test_transformers_hubert_drops_frames_by_the_adapter():
    pytest.importorskip("transformers", minversion="5.24")
    dense, pruned = (
        build_entry(Spec.parse(f"transformers_sdpa{options}"), torch.device("cpu"), 1)
        for options in ("", ",keeps=0.5/1/1/1/1/1/1/1/1/1/1/1")
    )
    waveform = torch.randn(1, 8000)
    frames = [entry.encode(waveform).last_hidden_state.shape[1] for entry in (dense, pruned)]
    assert frames[1] == round(0.5 * frames[0])
    assert sum(pruned.macs(8000).values()) < sum(dense.macs(8000).values())
