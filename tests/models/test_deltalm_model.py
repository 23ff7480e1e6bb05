from argparse import Namespace
from pathlib import Path

import pytest
import torch
from fairseq import options
from fairseq.data import Dictionary
from fairseq.dataclass.initialize import add_defaults
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.models import ARCH_MODEL_REGISTRY, MODEL_REGISTRY, build_model
from fairseq.search import BeamSearch
from fairseq.sequence_generator import SequenceGenerator
from omegaconf import OmegaConf

import fairseq_prune

PACKAGE = str(Path(fairseq_prune.__file__).parent)
ARCHITECTURES = ("deltalm", "deltalm_base", "deltalm_large", "deltalm_tiny")


def dictionary(size=30):
    symbols = Dictionary()
    for index in range(size):
        symbols.add_symbol(f"piece{index}")
    return symbols


def make_task(source=None, target=None):
    """All that a model asks of fairseq's translation task."""
    return Namespace(source_dictionary=source or dictionary(), target_dictionary=target or dictionary())


def config(arch="deltalm_tiny", **options):
    """The configuration that fairseq-hydra-train makes of `model: {_name: ..., ...}`."""
    cfg = OmegaConf.create({"model": {"_name": arch, **options}})
    add_defaults(cfg)
    return cfg


def command_line(*arguments):
    """The configuration that fairseq-train makes of its arguments."""
    required = ["data", "--user-dir", PACKAGE, "--task", "translation"]
    parser = options.get_training_parser()
    return convert_namespace_to_omegaconf(options.parse_args_and_arch(parser, [*required, *arguments]))


def sizes(model):
    return [
        model[name]
        for name in ("encoder_layers", "decoder_layers", "embed_dim", "ffn_embed_dim", "attention_heads")
    ]


EXPECTED = {
    "deltalm": [12, 6, 768, 3072, 12],
    "deltalm_base": [12, 6, 768, 3072, 12],
    "deltalm_large": [24, 12, 1024, 4096, 16],
    "deltalm_tiny": [2, 2, 128, 512, 4],
}


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_architecture_has_its_sizes_on_the_command_line(arch):
    model = command_line("--arch", arch).model
    assert (model._name, sizes(model), model.max_source_positions) == (arch, EXPECTED[arch], 512)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_architecture_has_its_sizes_in_hydra(arch):
    model = config(arch).model
    assert (model._name, sizes(model), model.max_target_positions) == (arch, EXPECTED[arch], 512)


def test_flags_override_the_architecture():
    flags = ["--decoder-layers", "3", "--normalize-before", "--share-embeddings", "none", "--dropout", "0.3"]
    model = command_line("--arch", "deltalm_tiny", *flags).model
    assert sizes(model) == [2, 3, 128, 512, 4]
    assert (model.normalize_before, model.share_embeddings, model.dropout) == (True, "none", 0.3)
    assert config(decoder_layers=3).model.decoder_layers == 3


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_architecture_builds_a_model_of_this_package(arch):
    assert (
        MODEL_REGISTRY[arch].__module__
        == ARCH_MODEL_REGISTRY[arch].__module__
        == "fairseq_prune.models.deltalm"
    )
    cfg = config(arch, embed_dim=16, ffn_embed_dim=16, attention_heads=2)
    model = build_model(cfg.model, make_task())
    assert type(model) is MODEL_REGISTRY[arch]
    assert [len(model.encoder.layers), len(model.decoder.layers)] == EXPECTED[arch][:2]


def test_embeddings_are_shared_as_asked():
    tables = {}
    for share in ("none", "decoder", "all"):
        model = build_model(config(share_embeddings=share).model, make_task())
        weights = (
            model.encoder.embed_tokens.weight,
            model.decoder.embed_tokens.weight,
            model.decoder.output_projection.weight,
        )
        tables[share] = len({weight.data_ptr() for weight in weights})
    assert tables == {"none": 3, "decoder": 2, "all": 1}


def test_sharing_all_embeddings_needs_one_dictionary():
    task = make_task(target=dictionary(31))
    with pytest.raises(ValueError, match=r"--share-embeddings all .* \(34 symbols\) .* \(35 symbols\)"):
        build_model(config(share_embeddings="all").model, task)


def test_pretrained_weights_are_read_once_and_forgotten_in_the_saved_configuration(tmp_path):
    torch.manual_seed(1)
    pretrained = build_model(config().model, make_task())
    path = tmp_path / "pretrained.pt"
    torch.save({"model": pretrained.state_dict(), "cfg": None}, path)
    cfg = config(deltalm_path=str(path))
    model = build_model(cfg.model, make_task())
    for key, value in model.state_dict().items():
        assert torch.equal(value, pretrained.state_dict()[key]), key
    path.unlink()
    assert cfg.model.deltalm_path is None
    build_model(cfg.model, make_task(), from_checkpoint=True)


def test_a_pretrained_file_says_whether_embeddings_have_a_norm(tmp_path):
    """deltalm-large.pt has none, which the saved configuration keeps."""
    path = tmp_path / "pretrained.pt"
    torch.save(
        {
            "model": build_model(config(no_layernorm_embedding=True).model, make_task()).state_dict(),
            "cfg": None,
        },
        path,
    )
    cfg = config(deltalm_path=str(path))
    weights = build_model(cfg.model, make_task()).state_dict()
    assert not [name for name in weights if "layernorm_embedding" in name]
    again = build_model(cfg.model, make_task(), from_checkpoint=True)
    again.load_state_dict(weights)


def test_missing_pretrained_file_stops_training():
    with pytest.raises(FileNotFoundError, match="nowhere.pt"):
        build_model(config(deltalm_path="nowhere.pt").model, make_task())


def test_weights_of_another_dictionary_of_the_same_size_are_refused():
    other = dictionary(0)
    for index in reversed(range(30)):
        other.add_symbol(f"piece{index}")
    model = build_model(config().model, make_task())
    state = build_model(config().model, make_task(source=other)).state_dict()
    with pytest.raises(ValueError, match=r"encoder: .* another dictionary"):
        model.load_state_dict(state)


def test_weights_saved_without_a_vocabulary_stamp_load():
    model = build_model(config().model, make_task())
    state = {key: value + 1 for key, value in model.state_dict().items() if "vocabulary_version" not in key}
    model.load_state_dict(state)
    for key, value in state.items():
        assert torch.equal(model.state_dict()[key], value), key


def test_beam_search_scores_are_those_of_the_full_decoder():
    """Beam search reorders the caches of every attention; a slip there changes the scores."""
    torch.manual_seed(2)
    model = build_model(config(max_target_positions=30).model, make_task()).eval()
    for name, parameter in model.named_parameters():  # random, but not so flat that all beams tie
        torch.nn.init.normal_(parameter, mean=float("norm.weight" in name), std=0.15)
    source = torch.randint(4, 34, (3, 8))
    source[1, 5:], source[2, 3:] = 1, 1
    symbols = dictionary()
    generator = SequenceGenerator(
        [model], symbols, beam_size=4, max_len_b=12, search_strategy=BeamSearch(symbols)
    )
    hypotheses = generator(
        {"net_input": {"src_tokens": source, "src_lengths": source.ne(1).sum(1)}, "id": torch.arange(3)}
    )
    reordered = 0
    for sentence, beams in zip(source, hypotheses):
        assert len(beams) == 4
        reordered += len({tuple(beam["tokens"][:2].tolist()) for beam in beams}) > 1
        for beam in beams:
            target = beam["tokens"]
            prefix = torch.cat([target.new_tensor([symbols.eos()]), target[:-1]])
            length = sentence.ne(1).sum()[None]
            logits, _ = model(sentence[None, : length[0]], length, prefix[None])
            scores = logits[0].log_softmax(-1).gather(1, target[:, None])[:, 0]
            torch.testing.assert_close(beam["positional_scores"], scores, atol=1e-4, rtol=1e-4)
    assert reordered


def test_base_has_the_published_number_of_parameters():
    """README of the published code: 360M; 250,001 symbols, one embedding table."""
    with torch.device("meta"):
        model = build_model(
            config("deltalm_base", share_embeddings="all").model, make_task(*[dictionary(249997)] * 2)
        )
    assert round(sum(parameter.numel() for parameter in model.parameters()) / 1e6) == 363
