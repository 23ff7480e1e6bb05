"""Sizes that no model has are refused before memory is asked for."""

import pytest

from fairseq_prune.checkpoints.sizes import check_sizes

REAL = {
    "_name": "hubert",
    "encoder_layers": 48,
    "encoder_embed_dim": 1280,
    "conv_pos": 128,
    "conv_dim": [512] * 7,
    "max_source_positions": 6_000_000,
    "vocab_size": 300_000,
    "max_tokens": 10**9,
    "w2v_args": {"model": {"encoder_ffn_embed_dim": 5120, "seed": 2**40}},
    "layers": "all",
    "dim": None,
}


def test_real_models_pass():
    check_sizes(REAL, "a.pt")


@pytest.mark.parametrize(
    "options",
    [
        {"encoder_layers": 10**7},
        {"num_hidden_layers": 1e7},
        {"n_audio_layer": 10**7},
        {"encoder_embed_dim": 2**24},
        {"hidden_size": 2**24},
        {"conv_dim": [512, 2**24]},
        {"conv_layers": [[512, 3, 2]] * 10**6},
        {"w2v_args": {"model": {"decoder_layers": 2**31}}},
        {"encoder_embed_dim": float("inf")},
    ],
    ids=range(9),
)
def test_what_no_model_has_is_refused_by_name(options):
    name = "decoder_layers" if "w2v_args" in options else next(iter(options))
    with pytest.raises(ValueError, match=rf"^a\.pt: {name}: found .*, expected [\d,]+ at most$"):
        check_sizes(options, "a.pt")


def test_options_that_hold_themselves_are_refused():
    options = {}
    options["model"] = options
    with pytest.raises(ValueError, match="more than 30 deep"):
        check_sizes(options, "a.pt")
