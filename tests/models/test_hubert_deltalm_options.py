"""Options of the speech translation model: what they freeze, share and drop, and which are refused."""

import pytest
import torch
from small_speech_model import SAMPLES, make_model, speech

from fairseq_prune.models.hubert_deltalm import DECODER_PARTS, build_hubert
from fairseq_prune.models.hubert_deltalm_config import HubertDeltaLMConfig, HubertDeltaLMTinyConfig
from fairseq_prune.models.token_pruning import token_pruning
from fairseq_prune.pruning.counting import transformer_layer_macs


@pytest.mark.parametrize("share, tables", [("auto", 1), ("all", 1), ("decoder", 2), ("none", 3)])
def test_embeddings_of_one_vocabulary_are_shared_as_asked(share, tables):
    model = make_model(text_encoder=True, deltalm_share_embeddings=share, same_text=True)
    weights = (
        model.text_encoder.embed_tokens.weight,
        model.decoder.embed_tokens.weight,
        model.decoder.output_projection.weight,
    )
    assert len({weight.data_ptr() for weight in weights}) == tables


def test_recomputed_activations_give_the_same_gradients():
    grads = []
    for recompute in (False, True):
        model = make_model(
            deltalm_encoder_layers=1,
            deltalm_checkpoint_activations=recompute,
            dropout=0.0,
            hubert_dropout=0.0,
        ).train()
        logits, _ = model(**speech(12000, SAMPLES), prev_output_tokens=torch.tensor([[2, 5], [2, 6]]))
        logits.sum().backward()
        grads.append({name: p.grad for name, p in model.named_parameters()})
        assert hasattr(model.decoder.layers[0], "precheckpoint_forward") == recompute
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad, msg=name)


def test_activation_and_layer_drop_of_deltalm_are_options():
    model = make_model(deltalm_encoder_layers=1, deltalm_activation_fn="relu", deltalm_layerdrop=0.9)
    assert model.decoder.layers[0].activation_fn is torch.nn.functional.relu
    torch.manual_seed(0)
    assert sum(len(list(model.train().decoder.layers)) for _ in range(50)) < 50  # of 100
    assert len(list(model.eval().decoder.layers)) == 2


def test_freezing():
    frozen = make_model(freeze_hubert_updates=-1, freeze_decoder_except="cross")
    trained = {name for name, p in frozen.named_parameters() if p.requires_grad}
    assert not any(name.startswith("encoder.hubert.") for name in trained)
    in_decoder = [name for name in trained if name.startswith("decoder.")]
    assert in_decoder and all("encoder_attn" in name for name in in_decoder)


def test_every_decoder_parameter_belongs_to_a_part_that_can_be_trained():
    everything = make_model(freeze_decoder_except=",".join(DECODER_PARTS))
    assert all(p.requires_grad for p in everything.decoder.parameters())


@pytest.mark.parametrize("when, frozen", [("always", True), ("never", False)])
def test_the_extractor_is_frozen_as_asked(when, frozen):
    model = make_model(freeze_feature_extractor=when).train()
    model(**speech(SAMPLES), prev_output_tokens=torch.tensor([[2]]))[0].sum().backward()
    assert all((p.grad is None) == frozen for p in model.encoder.hubert.feature_extractor.parameters())
    assert model.encoder.hubert.post_extract_proj.weight.grad is not None


def test_the_extractor_is_frozen_by_default_but_in_the_tiny_model():
    sizes = (HubertDeltaLMConfig(), HubertDeltaLMTinyConfig())
    assert [size.freeze_feature_extractor for size in sizes] == ["always", "never"]


@pytest.mark.parametrize(
    "options",
    [
        {},
        dict(mask_prob=0.5),
        dict(deltalm_encoder_layers=1, token_keep_ratio=0.7, freeze_feature_extractor="always"),
        dict(freeze_hubert_updates=-1, adaptor_kernels="3"),
    ],
)
def test_what_is_trained_gets_a_gradient_as_pytorch_ddp_demands(options):
    model = make_model(**options).train()
    model(**speech(12000, SAMPLES), prev_output_tokens=torch.tensor([[2, 5], [2, 6]]))[0].sum().backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


def test_hubert_is_frozen_until_an_update():
    model = make_model(freeze_hubert_updates=10).train()
    grads = []
    for update in (9, 10):
        model.set_num_updates(update)
        model.zero_grad()
        model(**speech(SAMPLES), prev_output_tokens=torch.tensor([[2]]))[0].sum().backward()
        grads.append(bool(model.encoder.hubert.encoder.layers[0].fc1.weight.grad.any()))  # zeros while frozen
        assert bool(model.frozen_parameters()) == (update == 9)
    assert grads == [False, True]


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(token_keep_ratio=0.0), r"found 0.0, expected a share of frames to keep in \(0, 1\]"),
        (dict(token_keep_ratio=1.5), r"found 1.5, expected a share of frames to keep in \(0, 1\]"),
        (dict(token_keep_ratios="1,a"), "found '1,a', expected numbers"),
        (dict(token_keep_start_layer=3), "found 3, expected 1 to 2"),
        (dict(token_keep_ratios="1,0.5", token_keep_ratio=0.8), "--token-keep-ratios: .* one of the two"),
        (dict(token_keep_final_ratio=0.5), "--token-keep-final-ratio: found 0.5 with a constant schedule"),
        (dict(deltalm_encoder_layers=3), "--deltalm-encoder-layers: found 3, expected 0 to 2"),
        (dict(deltalm_encoder_layers=-1), "--deltalm-encoder-layers: found -1, expected 0 to 2"),
        (dict(deltalm_text_layers=-1), "--deltalm-text-layers: found -1, expected 0 or more$"),
        (
            dict(text_encoder=True, deltalm_text_layers=0),
            "--deltalm-text-layers: found 0, expected 1 or more with --text-encoder",
        ),
        (
            dict(text_encoder=True, deltalm_share_embeddings="all"),
            r"all needs one .* \(16 symbols\) .* \(24 ",
        ),
        (dict(freeze_decoder_except="crosses"), "found 'crosses', expected some of cross"),
        (dict(freeze_hubert_updates=-2), "--freeze-hubert-updates: found -2, expected -1 or more"),
        (dict(adaptor_kernels="4"), "--adaptor-kernels: found '4', expected odd sizes"),
        (dict(adaptor_kernels="3,x"), "--adaptor-kernels: found '3,x', expected odd sizes"),
        (dict(adaptor_stride=0), "--adaptor-stride: found 0, expected 1 or more"),
        (dict(adaptor_channels=0), "--adaptor-channels: found 0, expected 1 or more"),
        (dict(max_source_positions=0), "--max-source-positions: found 0, expected 1 or more"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make_model(**options)


def test_the_sizes_in_the_docstrings_hold():
    """In billions of multiply-accumulates for 10 s of speech."""
    hubert, tiny = (build_hubert(cfg)[0] for cfg in (HubertDeltaLMConfig(), HubertDeltaLMTinyConfig()))
    frames, macs = hubert.frame_counts(160000)[-1], hubert.macs(160000)
    hubert.pruning = token_pruning(HubertDeltaLMConfig(token_keep_ratio=0.9, token_keep_start_layer=4), 12)
    assert [frames, hubert.frame_counts(160000)[-1]] == [499, 197]
    layers = macs["attention"] + macs["feed_forward"]
    text_layers = [6 * sum(transformer_layer_macs(n, n, 768, 3072, 12).values()) for n in (250, 99)]
    figures = [layers, macs["total"] - hubert.macs(160000)["total"], *text_layers, macs["extractor"]]
    assert [round(figure / 1e9, 1) for figure in figures] == [47.0, 13.2, 11.2, 4.3, 24.5]
    assert round(tiny.macs(160000)["extractor"] / 1e9, 2) == 0.29
