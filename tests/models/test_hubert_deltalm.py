"""The speech translation model: built from options and dictionaries, run as fairseq runs it."""

import pytest
import torch
from fairseq.modules import MultiheadAttention
from fairseq.sequence_generator import SequenceGenerator
from small_speech_model import SAMPLES, make_model, make_task, speech

from fairseq_prune.benchmarks.converting import convert_
from fairseq_prune.modules.deltalm.generation import GenerationCrossAttention
from fairseq_prune.modules.speech_encoder import SpeechEncoder

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


def repeat(encoder, out, order):
    """The memory of each hypothesis by itself, as most encoders of fairseq reorder it."""
    return {
        name: [value.index_select(1 if name == "encoder_out" else 0, order) for value in values]
        for name, values in out.items()
        if not name.startswith("ctc_")
    }


@pytest.mark.parametrize("beam", [1, 3])
@pytest.mark.parametrize("ctc", [False, True])
def test_beams_share_their_sentences_keys_and_the_hypotheses_stay(beam, ctc, monkeypatch):
    model = make_model(ctc, token_keep_ratio=0.8, adaptor_kernels="3")
    torch.manual_seed(0)
    for weight in model.decoder.parameters():  # so that sentences of a batch end at different steps
        weight.data *= 3 if weight.dim() == 2 else 1
    model.decoder.output_projection.weight.data[2] *= 2
    generator = SequenceGenerator([model], make_task(ctc).target_dictionary, beam_size=beam, max_len_b=15)
    batch = speech(12000, SAMPLES, 4000, 11000)
    keys = []
    projection = model.decoder.layers[0].encoder_attn.k_proj
    projection.register_forward_hook(lambda module, args, output: keys.append(output.shape[1]))
    shared = generator.generate([model], {"net_input": batch})
    assert keys == [4]  # projected once, for each sentence
    assert len({max(len(h["tokens"]) for h in found) for found in shared}) > 1
    monkeypatch.setattr(SpeechEncoder, "reorder_encoder_out", repeat)
    monkeypatch.setattr(MultiheadAttention, "set_beam_size", lambda self, size: None)
    for layer in model.decoder.layers:
        layer.encoder_attn.beam_size = 1
    expected = generator.generate([model], {"net_input": batch})
    assert keys == [4, 4 * beam]
    for found, reference in zip(shared, expected):
        assert [h["tokens"].tolist() for h in found] == [h["tokens"].tolist() for h in reference]


@pytest.mark.parametrize("beam", [1, 3])
@pytest.mark.parametrize("form", ["convolution", "text layers", "post-norm"])
def test_a_model_made_fast_finds_the_same_hypotheses(form, beam):
    model = make_model(**FORMS[form])
    torch.manual_seed(0)
    for weight in model.decoder.parameters():  # so that sentences of a batch end at different steps
        weight.data *= 3 if weight.dim() == 2 else 1
    model.decoder.output_projection.weight.data[2] *= 2
    generator = SequenceGenerator([model], make_task().target_dictionary, beam_size=beam, max_len_b=15)
    batch = {"net_input": speech(12000, SAMPLES, 4000, 11000)}
    expected = generator.generate([model], batch)
    model.make_generation_fast_()
    assert any(isinstance(module, GenerationCrossAttention) for module in model.decoder.modules())
    for found, reference in zip(generator.generate([model], batch), expected):
        assert [h["tokens"].tolist() for h in found] == [h["tokens"].tolist() for h in reference]
        for name in ("score", "attention"):
            for hypothesis, other in zip(found, reference):
                torch.testing.assert_close(hypothesis[name], other[name], rtol=1e-3, atol=1e-4)


def test_training_after_a_beam_search_is_as_before_it():
    model, batch = make_model(), speech(12000, SAMPLES, 4000)
    previous = torch.randint(4, 20, (3, 5))
    before, _ = model(**batch, prev_output_tokens=previous)
    generator = SequenceGenerator([model], make_task().target_dictionary, beam_size=3, max_len_b=5)
    generator.generate([model], {"net_input": batch})
    after, _ = model(**batch, prev_output_tokens=previous)
    assert torch.equal(before, after)


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


def test_only_upper_text_layers_stay_when_text_is_not_translated():
    model = make_model(deltalm_encoder_layers=1)
    assert len(model.encoder.text_encoder.layers) == 1 and model.text_encoder is None
    assert not any("encoder.text_encoder.embed" in name for name, _ in model.named_parameters())


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


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
@pytest.mark.parametrize("form", ["convolution", "text layers"])
def test_other_types_of_numbers_give_nearly_the_same_memory(form, dtype):
    batch = speech(SAMPLES, 4000)
    with torch.no_grad():
        model = make_model(**FORMS[form])
        exact = model.encoder(**batch)["encoder_out"][0]
        convert_(model, dtype)
        found = model.encoder(**batch)["encoder_out"][0]
    assert 0 < (found.float() - exact).norm() / exact.norm() < 0.1
