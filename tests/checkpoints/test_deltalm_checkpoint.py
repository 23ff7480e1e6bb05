"""DeltaLM's published files, and those of our model deltalm.

Over 300 lines: each layout and each damage of the published files has a test.
"""

import logging
import os
import subprocess
import sys
import textwrap

import pytest
import torch
from deltalm_files import PIECES, build, dictionary, published_weights

from fairseq_prune.checkpoints.deltalm import PUBLISHED_EXTRA_ROWS, load_deltalm


@pytest.fixture
def published(tmp_path):
    """Writes a checkpoint in the published layout; returns its path and weights, changed by `edit`."""

    def write(rows=44, edit=None, **sizes):
        torch.manual_seed(11)
        weights = published_weights(rows, **sizes)
        if edit is not None:
            edit(weights)
        torch.save({"weights": weights}, tmp_path / "deltalm.pt")
        return str(tmp_path / "deltalm.pt"), weights

    return write


@pytest.fixture
def fairseq_file(tmp_path):
    """Writes what fairseq's trainer saves of a model `deltalm`, as far as loading reads it."""

    def write(encoder, decoder, attention_heads=2):
        state = {f"encoder.{key}": value for key, value in encoder.state_dict().items()}
        state.update({f"decoder.{key}": value for key, value in decoder.state_dict().items()})
        cfg = {"model": {"_name": "deltalm", "attention_heads": attention_heads}}
        torch.save({"model": state, "cfg": cfg, "args": None}, tmp_path / "checkpoint.pt")
        return str(tmp_path / "checkpoint.pt")

    return write


def assert_same_weights(found, expected):
    found, expected = found.state_dict(), expected.state_dict()
    assert found.keys() == expected.keys()
    for key in found:
        torch.testing.assert_close(found[key], expected[key], rtol=0, atol=0, msg=key)


def test_published_names_reach_the_modules_they_mean(published):
    path, weights = published()
    encoder, decoder = build()
    load_deltalm(path, encoder, decoder)
    for found, name in [
        (encoder.embed_tokens.weight, "src_embedding.embed_tokens.weight"),
        (encoder.embed_positions.weight, "src_embedding.embed_positions.weight"),
        (encoder.layernorm_embedding.bias, "src_embedding.emb_layer_norm.bias"),
        (encoder.layers[2].fc1.weight, "encoder.layers.2.ffn.fc1.weight"),
        (encoder.layers[1].self_attn.out_proj.bias, "encoder.layers.1.self_attn.out_proj.bias"),
        (decoder.embed_positions.weight, "tgt_embedding.embed_positions.weight"),
        (decoder.layernorm_embedding.weight, "tgt_embedding.emb_layer_norm.weight"),
        (decoder.layers[1].fc3.weight, "decoder.layers.1.ffn_1.fc1.weight"),
        (decoder.layers[1].fc4.bias, "decoder.layers.1.ffn_1.fc2.bias"),
        (decoder.layers[0].fc1.bias, "decoder.layers.0.ffn_2.fc1.bias"),
        (decoder.layers[0].fc2.weight, "decoder.layers.0.ffn_2.fc2.weight"),
        (decoder.layers[0].ffn_layer_norm.weight, "decoder.layers.0.ffn_layer_norm.weight"),
        (decoder.layers[0].encoder_attn.k_proj.weight, "decoder.layers.0.encoder_attn.k_proj.weight"),
    ]:
        assert torch.equal(found, weights[name]), name


def without_norms(weights):
    """As deltalm-large.pt."""
    for name in [name for name in weights if ".emb_layer_norm." in name]:
        del weights[name]


@pytest.mark.parametrize("edit", [None, without_norms], ids=["base", "large"])
@pytest.mark.parametrize("no_layernorm_embedding", [False, True])
def test_every_tensor_of_a_published_file_is_used(published, edit, no_layernorm_embedding):
    path, weights = published(edit=edit)
    encoder, decoder = build(no_layernorm_embedding=no_layernorm_embedding)
    for parameter in [*encoder.parameters(), *decoder.parameters()]:
        torch.nn.init.constant_(parameter, 1e6)
    load_deltalm(path, encoder, decoder)
    parameters = {id(parameter): parameter for parameter in [*encoder.parameters(), *decoder.parameters()]}
    assert len(parameters) == len(weights)
    assert all(parameter.abs().max() < 1e3 for parameter in parameters.values())


def test_embeddings_without_a_norm_are_left_as_they_are(published):
    encoder, decoder = build()
    load_deltalm(published(edit=without_norms)[0], encoder, decoder)
    tokens = torch.tensor([[7, 8, 9]])
    positions = encoder.embed_positions(tokens)
    embedded, _ = encoder.forward_embedding(tokens)
    assert torch.equal(embedded, encoder.embed_tokens(tokens) + positions)
    assert decoder.layernorm_embedding is None


def test_a_norm_in_one_of_the_two_sides_is_refused(published):
    path, _ = published(edit=lambda weights: weights.pop("src_embedding.emb_layer_norm.weight"))
    with pytest.raises(ValueError, match="has layernorm_embedding in one of encoder and decoder"):
        load_deltalm(path, *build())


def test_sentinel_rows_after_the_dictionary_are_left_out(published):
    path, weights = published(rows=44 + PUBLISHED_EXTRA_ROWS)
    encoder, decoder = build()
    load_deltalm(path, encoder, decoder)
    assert torch.equal(decoder.embed_tokens.weight, weights["tgt_embedding.embed_tokens.weight"][:44])
    assert decoder.output_projection.weight is decoder.embed_tokens.weight


@pytest.mark.parametrize("rows", [43, 44 + PUBLISHED_EXTRA_ROWS + 1])
def test_rows_that_do_not_fit_the_dictionary_are_refused(published, rows):
    path, _ = published(rows=rows)
    with pytest.raises(
        ValueError, match=rf"has {rows} embeddings.* dictionary of 44 symbols.*--deltalm-dict"
    ):
        load_deltalm(path, *build())


def test_embeddings_follow_their_symbols_into_another_dictionary(published, tmp_path):
    path, weights = published()
    dictionary().save(str(tmp_path / "dict.txt"))
    wanted = ["piece7", "new", "piece3"]
    encoder, decoder = build(dictionary(wanted))
    load_deltalm(path, encoder, decoder, str(tmp_path / "dict.txt"))
    table = weights["tgt_embedding.embed_tokens.weight"]
    for module in (encoder, decoder):
        rows = module.embed_tokens.weight
        assert torch.equal(rows[[0, 1, 2, 3, 4, 6]], table[[0, 1, 2, 3, 4 + 7, 4 + 3]])
        distance = (rows[5] - table.mean(0)).norm()
        assert 0 < distance < 0.5 * (table - table.mean(0)).norm(dim=1).mean()


def test_matched_symbols_are_counted_in_the_log(published, caplog):
    path, _ = published()
    with caplog.at_level(logging.INFO):
        load_deltalm(path, None, build(dictionary(["piece7", "new", "piece3"]))[1], dictionary())
    assert "6 of 7 symbols have an embedding" in caplog.text


def test_dictionary_without_a_common_symbol_is_refused(published):
    path, _ = published()
    with pytest.raises(ValueError, match="dictionary of 44 symbols has none of the 6"):
        load_deltalm(path, *build(dictionary(["x", "y"])), dictionary())


def test_dictionary_that_is_none_is_refused(published, tmp_path):
    path, _ = published()
    with pytest.raises(FileNotFoundError, match=r"dict\.txt: no such dictionary"):
        load_deltalm(path, *build(), str(tmp_path / "dict.txt"))
    (tmp_path / "dict.txt").write_text("no numbers here\n")
    with pytest.raises(ValueError, match=r"dict\.txt, line 1: expected a symbol"):
        load_deltalm(path, *build(), str(tmp_path / "dict.txt"))


def test_untied_output_projection_starts_as_the_published_embedding(published):
    path, weights = published()
    decoder = build(share_embeddings="none")[1]
    load_deltalm(path, None, decoder)
    assert torch.equal(decoder.output_projection.weight, weights["tgt_embedding.embed_tokens.weight"])
    assert decoder.output_projection.weight.data_ptr() != decoder.embed_tokens.weight.data_ptr()


def test_one_table_for_both_sides_loads_from_a_file_with_two(published, caplog):
    path, weights = published()
    load_deltalm(path, *build(share=True))
    assert "embedding table for each side" not in caplog.text
    path, weights = published(
        edit=lambda weights: weights.update({"src_embedding.embed_tokens.weight": torch.randn(44, 8)})
    )
    encoder, decoder = build(share=True)
    load_deltalm(path, encoder, decoder)
    assert torch.equal(encoder.embed_tokens.weight, weights["tgt_embedding.embed_tokens.weight"])
    assert "embedding table for each side" in caplog.text


def test_fewer_positions_are_the_first_ones(published):
    path, weights = published()
    encoder, decoder = build(max_source_positions=6, max_target_positions=5)
    load_deltalm(path, encoder, decoder)
    assert torch.equal(
        encoder.embed_positions.weight, weights["src_embedding.embed_positions.weight"][: 6 + 2]
    )
    assert torch.equal(
        decoder.embed_positions.weight, weights["tgt_embedding.embed_positions.weight"][: 5 + 2]
    )


def test_more_positions_than_the_file_has_are_refused(published):
    path, _ = published()
    with pytest.raises(ValueError, match="has 20 positions, but the model asks for 24"):
        load_deltalm(path, *build(max_target_positions=24))


def test_decoder_alone_takes_only_its_side(published):
    path, weights = published(edit=lambda weights: weights.pop("encoder.layers.0.ffn.fc1.bias"))
    _, decoder = build()
    load_deltalm(path, decoder=decoder)
    assert torch.equal(decoder.layers[0].fc3.weight, weights["decoder.layers.0.ffn_1.fc1.weight"])


def test_kept_layers_take_the_upper_layers_of_the_file(published):
    path, weights = published(rows=500)  # whatever its vocabulary, the kept layers do not read it
    encoder, _ = build()
    encoder.keep_layers(2)
    load_deltalm(path, encoder)
    assert torch.equal(encoder.layers[0].fc1.weight, weights["encoder.layers.2.ffn.fc1.weight"])


def test_missing_unknown_and_misshapen_keys_are_all_listed(published):
    def edit(weights):
        del weights["decoder.layers.0.ffn_1.fc1.bias"]
        weights["decoder.layers.1.adapter.weight"] = torch.zeros(2)
        weights["decoder.layers.1.ffn_2.fc2.weight"] = torch.zeros(8, 13)

    path, _ = published(edit=edit)
    with pytest.raises(ValueError) as error:
        load_deltalm(path, *build())
    for part in ("layers.0.fc3.bias", "layers.1.adapter.weight", "layers.1.fc2.weight", "(8, 13)", path):
        assert part in str(error.value)


def test_number_of_layers_is_named_when_it_differs(published):
    path, _ = published()
    with pytest.raises(ValueError, match=r"\(encoder\) has 3 layers, but the model asks for 12"):
        load_deltalm(path, *build(encoder_layers=12))
    with pytest.raises(ValueError, match=r"\(decoder\) has 2 layers, but the model asks for 1"):
        load_deltalm(path, *build(decoder_layers=1))


@pytest.mark.parametrize("content", [{"weights": {"bert.pooler.weight": torch.zeros(1)}}, {"state": 1}])
def test_other_checkpoints_are_refused(tmp_path, content):
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"other\.pt is not a DeltaLM checkpoint"):
        load_deltalm(str(tmp_path / "other.pt"), *build())


@pytest.mark.parametrize("share_embeddings", ["none", "decoder"])
@pytest.mark.parametrize("normalize_before", [False, True])
def test_checkpoint_of_our_own_model_loads_exactly(fairseq_file, share_embeddings, normalize_before):
    changes = {"share_embeddings": share_embeddings, "normalize_before": normalize_before}
    saved, loaded = build(**changes), build(**changes)
    load_deltalm(fairseq_file(*saved), *loaded)
    for found, expected in zip(loaded, saved):
        assert_same_weights(found, expected)


def test_own_checkpoint_of_other_symbols_needs_its_dictionary(fairseq_file):
    saved, (encoder, decoder) = build(), build(dictionary(PIECES[::-1]))
    path = fairseq_file(*saved)
    with pytest.raises(ValueError, match=r"trained with other symbols.*--deltalm-dict"):
        load_deltalm(path, encoder, decoder)
    with pytest.raises(ValueError, match=r"trained with other symbols.*--deltalm-dict"):
        load_deltalm(path, encoder, decoder, dictionary([*PIECES[1:], "piece0"]))
    load_deltalm(path, encoder, decoder, dictionary())
    assert torch.equal(decoder.embed_tokens.weight[4:], saved[1].embed_tokens.weight[4:].flip(0))


def test_own_checkpoint_with_an_output_projection_is_not_squeezed_into_one_table(fairseq_file):
    path = fairseq_file(*build(share_embeddings="none"))
    with pytest.raises(ValueError, match="output projection beside its embedding"):
        load_deltalm(path, *build())


def test_own_checkpoint_with_other_attention_heads_is_refused(fairseq_file):
    path = fairseq_file(*build())
    with pytest.raises(ValueError, match="has 2 attention heads, but the model asks for 4"):
        load_deltalm(path, *build(attention_heads=4))


@pytest.mark.parametrize("saved, found", [(True, "pre-norm"), (False, "post-norm")])
def test_own_checkpoint_with_layer_norm_elsewhere_is_refused(fairseq_file, saved, found):
    path = fairseq_file(*build(normalize_before=saved))
    with pytest.raises(ValueError, match=f"is {found}, but the model asks for .*--normalize-before"):
        load_deltalm(path, *build(normalize_before=not saved))


REAL_SIZE = """
    import resource, sys
    import torch
    from fairseq.data import Dictionary
    from fairseq_prune.checkpoints.deltalm import load_deltalm
    from fairseq_prune.modules.deltalm.model import DeltaLMDecoder, DeltaLMEncoder
    from fairseq_prune.modules.deltalm.settings import DeltaLMSettings
    from deltalm_files import published_weights

    path, task = sys.argv[1:]
    if task == "write":
        make = lambda *shape: torch.empty(*shape).uniform_(-0.05, 0.05)
        weights = published_weights(250104, 768, 3072, 12, 6, 512, make)
        assert len(weights) == 392
        torch.save({"weights": weights}, path)
        sys.exit()
    symbols = Dictionary()
    for index in range(249997):
        symbols.add_symbol(f"piece{index}")
    settings = DeltaLMSettings(share_embeddings="all")
    decoder = DeltaLMDecoder.build(settings, symbols)
    encoder = DeltaLMEncoder.build(settings, symbols, decoder.embed_tokens)
    load_deltalm(path, encoder, decoder)
    model = torch.nn.ModuleDict({"encoder": encoder, "decoder": decoder}).eval()
    source = torch.randint(4, 250001, (2, 30))
    with torch.no_grad():
        logits, _ = decoder(source[:, :10], encoder_out=encoder(source))
    assert logits.shape == (2, 10, 250001) and logits.isfinite().all()
    print(sum(parameter.numel() for parameter in model.parameters()))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


@pytest.mark.slow
def test_deltalm_base_in_its_real_size_loads_within_memory(tmp_path):
    """250,104 x 768 embeddings, 12 and 6 layers, as in deltalm-base.pt; its README says 360M parameters."""
    path, environment = tmp_path / "deltalm-base.pt", {**os.environ, "PYTHONPATH": os.path.dirname(__file__)}
    for task in ("write", "load"):
        command = [sys.executable, "-c", textwrap.dedent(REAL_SIZE), str(path), task]
        done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    parameters, memory = map(int, done.stdout.split())
    print(f"DeltaLM-base: {parameters:,} parameters, peak memory {memory / 2**30:.1f} GiB")
    assert 355e6 < parameters < 365e6
    assert memory < 20 * 2**30
