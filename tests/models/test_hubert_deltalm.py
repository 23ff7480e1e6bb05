"""The speech translation model: built from options and dictionaries, run as fairseq runs it."""

from types import SimpleNamespace

import pytest
import torch
from fairseq import models
from fairseq.data import Dictionary
from fairseq.sequence_generator import SequenceGenerator
from omegaconf import OmegaConf

from fairseq_prune.models.hubert_deltalm import DECODER_PARTS, build_hubert, hubert_pruning
from fairseq_prune.models.hubert_deltalm_config import HubertDeltaLMConfig, HubertDeltaLMTinyConfig
from fairseq_prune.pruning.counting import transformer_layer_macs

SAMPLES = 8000
SMALL = dict(
    hubert_layers=2,
    hubert_embed_dim=32,
    hubert_ffn_embed_dim=48,
    hubert_conv_layers="[(16,10,5)] + [(16,3,2)] * 4 + [(16,2,2)] * 2",
    hubert_conv_pos_groups=4,
    deltalm_embed_dim=32,
    deltalm_ffn_embed_dim=48,
)


def dictionary(size, letter):
    words = Dictionary()
    for i in range(size):
        words.add_symbol(f"{letter}{i}")
    return words


def make_task(ctc=False, same_text=False):
    return SimpleNamespace(
        target_dictionary=dictionary(20, "t"),
        transcript_dictionary=dictionary(20, "t") if same_text else dictionary(12, "s"),
        ctc_dictionary=dictionary(6, "c") if ctc else None,
    )


def make_config(**options):
    return OmegaConf.create(
        {"model": OmegaConf.structured(HubertDeltaLMTinyConfig(**{**SMALL, **options}))}
    ).model


def make_model(ctc=False, same_text=False, **options):
    torch.manual_seed(0)
    cfg = make_config(**options)
    cfg._name = "hubert_deltalm_tiny"
    return models.build_model(cfg, make_task(ctc, same_text)).eval()


def speech(*lengths):
    torch.manual_seed(1)
    source = torch.zeros(len(lengths), max(lengths))
    for i, n in enumerate(lengths):
        source[i, :n] = torch.randn(n)
    return {"src_tokens": source, "src_lengths": torch.tensor(lengths)}


FORMS = {
    "linear": {},
    "convolution": dict(adaptor_kernels="3,5"),
    "text layers": dict(deltalm_encoder_layers=1),
    "post-norm": dict(deltalm_norm="post", hubert_form="base"),
    "pruned": dict(token_keep_ratio=0.7),
    "merged": dict(token_keep_ratio=0.7, token_keep_criterion="merge", adaptor_kernels="3"),
}


@pytest.mark.parametrize("form", FORMS)
def test_memory_is_the_same_alone_and_in_a_batch(form):
    model = make_model(**FORMS[form])
    batch = speech(12000, SAMPLES, 4000)
    alone = {"src_tokens": batch["src_tokens"][1:2, :SAMPLES], "src_lengths": torch.tensor([SAMPLES])}
    together, single = model.encoder(**batch), model.encoder(**alone)
    frames = single["encoder_out"][0].shape[0]
    torch.testing.assert_close(
        together["encoder_out"][0][:frames, 1], single["encoder_out"][0][:, 0], rtol=1e-4, atol=1e-4
    )
    assert together["encoder_padding_mask"][0][1].tolist() == [
        i >= frames for i in range(together["encoder_out"][0].shape[0])
    ]


def test_hypotheses_are_the_same_alone_and_in_a_batch():
    model = make_model(token_keep_ratio=0.8, adaptor_kernels="3")
    generator = SequenceGenerator([model], make_task().target_dictionary, beam_size=3, max_len_b=12)
    batch = speech(12000, SAMPLES, 4000)
    together = generator.generate([model], {"net_input": batch})
    for i, n in enumerate(batch["src_lengths"].tolist()):
        alone = {"src_tokens": batch["src_tokens"][i : i + 1, :n], "src_lengths": torch.tensor([n])}
        single = generator.generate([model], {"net_input": alone})[0]
        assert [hypo["tokens"].tolist() for hypo in single] == [
            hypo["tokens"].tolist() for hypo in together[i]
        ]


def test_incremental_decoding_equals_full_decoding():
    model = make_model(token_keep_ratio=0.8)
    encoder_out = model.encoder(**speech(12000, SAMPLES))
    tokens = torch.randint(4, 20, (2, 7))
    tokens[:, 0] = 2
    full, _ = model.decoder(tokens, encoder_out=encoder_out)
    state = {}
    for step in range(1, 8):
        last, _ = model.decoder(tokens[:, :step], encoder_out=encoder_out, incremental_state=state)
        torch.testing.assert_close(last[:, -1], full[:, step - 1], rtol=1e-4, atol=1e-4)


def test_positions_of_kept_frames_change_the_memory():
    with_positions = make_model(memory_positions="sinusoidal").encoder(**speech(SAMPLES))
    without = make_model(memory_positions="none").encoder(**speech(SAMPLES))
    assert not torch.allclose(with_positions["encoder_out"][0], without["encoder_out"][0])


def test_ctc_lengths_follow_the_pruned_frames():
    model = make_model(ctc=True, token_keep_ratio=0.5)
    net_output = model(**speech(12000, SAMPLES), prev_output_tokens=torch.tensor([[2, 5], [2, 6]]))
    log_probabilities, lengths = model.get_ctc_output(net_output, None)
    # 12,000 samples are 37 frames, 8,000 are 24; two layers halve them
    assert lengths.tolist() == [10, 6]
    assert log_probabilities.shape == (10, 2, 10)
    torch.testing.assert_close(log_probabilities.exp().sum(-1), torch.ones(10, 2))


def test_ctc_without_a_head_is_refused():
    model = make_model()
    net_output = model(**speech(SAMPLES), prev_output_tokens=torch.tensor([[2]]))
    with pytest.raises(ValueError, match="--ctc-text"):
        model.get_ctc_output(net_output, None)


def test_text_and_speech_share_the_decoder():
    model = make_model(text_encoder=True, deltalm_encoder_layers=1)
    transcript = torch.tensor([[5, 6, 7, 2], [8, 2, 1, 1]])
    previous = torch.tensor([[2, 5], [2, 6]])
    logits, _ = model.forward_text(transcript, torch.tensor([4, 2]), previous)
    logits.sum().backward()
    assert logits.shape == (2, 2, 24)
    assert model.decoder.layers[0].fc1.weight.grad is not None
    assert model.encoder.text_encoder is model.text_encoder


def test_text_without_a_text_encoder_is_refused():
    with pytest.raises(ValueError, match="--text-encoder"):
        make_model().forward_text(torch.tensor([[5, 2]]), torch.tensor([2]), torch.tensor([[2]]))


def test_a_transcript_of_more_tokens_than_positions_is_refused():
    model = make_model(text_encoder=True, max_source_positions=4)
    previous = torch.tensor([[2]])
    model.forward_text(torch.tensor([[5, 6, 7, 2]]), torch.tensor([4]), previous)
    with pytest.raises(ValueError, match="5 tokens, but the text encoder takes 4 .--max-source-positions"):
        model.forward_text(torch.tensor([[5, 6, 7, 8, 2]]), torch.tensor([5]), previous)


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


def test_only_upper_text_layers_stay_when_text_is_not_translated():
    model = make_model(deltalm_encoder_layers=1)
    assert len(model.encoder.text_encoder.layers) == 1 and model.text_encoder is None
    assert not any("encoder.text_encoder.embed" in name for name, _ in model.named_parameters())


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
        grads.append(model.encoder.hubert.encoder.layers[0].fc1.weight.grad is not None)
    assert grads == [False, True]


def test_spans_are_masked_in_training_only():
    model = make_model(
        mask_prob=0.6, mask_length=4, hubert_dropout=0.0, hubert_attention_dropout=0.0, dropout=0.0
    )
    batch = speech(SAMPLES)
    evaluated = [model.encoder(**batch)["encoder_out"][0] for _ in range(2)]
    trained = [model.train().encoder(**batch)["encoder_out"][0] for _ in range(2)]
    assert torch.equal(*evaluated) and not torch.allclose(*trained)


def test_half_precision_trains(half_dtype):
    model = make_model(ctc=True, token_keep_ratio=0.7, adaptor_kernels="3").to(half_dtype).train()
    logits, _ = model(**speech(12000, SAMPLES), prev_output_tokens=torch.tensor([[2, 5], [2, 6]]))
    logits.float().sum().backward()
    assert logits.dtype == half_dtype and logits.isfinite().all()
    assert model.encoder.hubert.encoder.layers[0].fc1.weight.grad.isfinite().all()


def test_warm_up_of_pruning_follows_the_updates():
    model = make_model(token_keep_ratio=0.5, token_keep_warmup_updates=100)
    frames = []
    for update in (0, 100):
        model.set_num_updates(update)
        frames.append(model.encoder(**speech(SAMPLES))["encoder_out"][0].shape[0])
    assert frames == [24, 6]


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
    hubert.pruning = hubert_pruning(HubertDeltaLMConfig(token_keep_ratio=0.9, token_keep_start_layer=4), 12)
    assert [frames, hubert.frame_counts(160000)[-1]] == [499, 197]
    layers = macs["attention"] + macs["feed_forward"]
    text_layers = [6 * sum(transformer_layer_macs(n, n, 768, 3072, 12).values()) for n in (250, 99)]
    figures = [layers, macs["total"] - hubert.macs(160000)["total"], *text_layers, macs["extractor"]]
    assert [round(figure / 1e9, 1) for figure in figures] == [47.0, 13.2, 11.2, 4.3, 24.5]
    assert round(tiny.macs(160000)["extractor"] / 1e9, 2) == 0.29
