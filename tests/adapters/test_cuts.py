"""Fewer tokens, layers, heads and units in transformers: what is left computes what it computed."""

import pytest
import torch

pytest.importorskip("transformers", minversion="5.24")

from bpe_tokenizer_file import TEXTS, bpe_tokenizer_json
from small_models import KINDS, waveform_model, waveforms, whisper_model
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from fairseq_prune.adapters.transformers import (
    cut_heads,
    cut_layers,
    cut_units,
    cut_vocabulary,
    load,
    prune_tokens,
)

FEATURES = torch.randn(2, 8, 120, generator=torch.Generator().manual_seed(0))
TOKENS = torch.tensor([[1, 3, 4], [1, 5, 6]])


def logits(model):
    if model.config.model_type == "whisper":
        return model(input_features=FEATURES, decoder_input_ids=TOKENS).logits
    values, mask = waveforms(1600, 1000)
    return model(values, attention_mask=mask).logits


def saved_and_loaded(model, folder):
    model.save_pretrained(folder)
    return load(folder)


CUTS = {
    "encoder layers": lambda model: cut_layers(model, [0, 2]),
    "decoder layers": lambda model: cut_layers(model, [1], "decoder"),
    "units": lambda model: cut_units(model, 10),
    "heads": lambda model: cut_heads(model, 1),
    "decoder heads": lambda model: cut_heads(model, 1, "decoder"),
    "all": lambda model: prune_tokens(cut_heads(cut_units(cut_layers(model, [1, 2]), 10), 1), 0.5, 1),
}


@pytest.mark.parametrize("kind", [*KINDS, "whisper"])
@pytest.mark.parametrize("cut", CUTS)
@torch.no_grad()
def test_a_cut_model_is_smaller_and_comes_back_from_its_folder(kind, cut, tmp_path):
    model = whisper_model() if kind == "whisper" else waveform_model(kind, "ForCTC")
    parameters = sum(p.numel() for p in model.parameters())
    if ("decoder" in cut and kind != "whisper") or (kind == "wavlm" and ("heads" in cut or cut == "all")):
        with pytest.raises(ValueError, match="expected one with the layers of an decoder|heads of a WavLM"):
            CUTS[cut](model)
        return
    CUTS[cut](model)
    expected = logits(model)
    assert sum(p.numel() for p in model.parameters()) < parameters
    torch.testing.assert_close(logits(saved_and_loaded(model, tmp_path)), expected)


@pytest.mark.parametrize("kind", [*KINDS, "whisper"])
@torch.no_grad()
def test_units_and_layers_that_do_nothing_are_those_that_go(kind):
    model = whisper_model() if kind == "whisper" else waveform_model(kind, "ForCTC")
    for name, parameter in model.named_parameters():
        if ".layers.0." in name and ("fc2.weight" in name or "output_dense.weight" in name):
            parameter[:, 4:] = 0
    expected = logits(model)
    for layer in model.base_model.encoder.layers[1:]:
        layer.requires_grad_(False)
    first = model.base_model.encoder.layers
    model.base_model.encoder.layers = torch.nn.ModuleList([first[0]])
    cut_units(model, 4)
    model.base_model.encoder.layers = first
    torch.testing.assert_close(logits(model), expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_vocabulary_is_cut_with_its_tokenizer_and_settings(tmp_path):
    backend = Tokenizer.from_str(bpe_tokenizer_json())
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>")
    ids = tokenizer.get_vocab()
    end, start = ids["<|endoftext|>"], ids["<|startoftranscript|>"]
    special = dict(eos_token_id=end, bos_token_id=end, pad_token_id=end, decoder_start_token_id=start)
    model = whisper_model(vocab_size=len(ids), **special)
    texts = [text for text in TEXTS if text][:2]
    model.generation_config.suppress_tokens = [ids["a"], ids["<|startoflm|>"]]
    model.generation_config.no_timestamps_token_id = ids["<|notimestamps|>"]
    prefix = [start, ids["<|notimestamps|>"]]
    written = [prefix + tokenizer(text, add_special_tokens=False).input_ids[:10] for text in texts]
    before = [
        model(input_features=FEATURES[:1], decoder_input_ids=torch.tensor([row])).logits for row in written
    ]
    model, cut = cut_vocabulary(model, tokenizer, texts)
    names = cut.convert_ids_to_tokens(range(len(cut)))
    assert len(cut) == model.config.vocab_size == model.get_output_embeddings().out_features < len(ids)
    for row, expected in zip(written, before):
        tokens = cut.convert_tokens_to_ids(tokenizer.convert_ids_to_tokens(row))
        assert tokens[2:] == cut(tokenizer.decode(row[2:]), add_special_tokens=False).input_ids
        found = model(input_features=FEATURES[:1], decoder_input_ids=torch.tensor([tokens])).logits
        torch.testing.assert_close(found, expected[..., [ids[name] for name in names]])
    settings = model.generation_config
    assert (
        names[settings.eos_token_id] == names[model.config.pad_token_id] == cut.eos_token == "<|endoftext|>"
    )
    assert [names[index] for index in settings.suppress_tokens] == ["a", "<|startoflm|>"]
    assert names[settings.decoder_start_token_id] == "<|startoftranscript|>"
    other = "bytes are always there: \u00fc"
    assert cut.decode(cut(other, add_special_tokens=False).input_ids) == other
    cut.save_pretrained(tmp_path)
    again = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    assert again.get_vocab() == cut.get_vocab()
    torch.testing.assert_close(logits(saved_and_loaded(model, tmp_path)), logits(model))


def test_layers_that_are_not_there_are_refused():
    with pytest.raises(ValueError, match=r"found \[4\], expected some of 0 to 3"):
        cut_layers(whisper_model(), [4])
    with pytest.raises(ValueError, match="restore_tokens first"):
        cut_layers(prune_tokens(whisper_model(), 0.5, 1), [0])
