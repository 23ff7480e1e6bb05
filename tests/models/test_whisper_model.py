from argparse import Namespace

import pytest
import torch
import transformers
from fairseq import checkpoint_utils
from fairseq.dataclass.configs import FairseqConfig
from fairseq.models import build_model
from omegaconf import OmegaConf
from small_whisper import SIZES, clips, huggingface_whisper, our_names, small_tokenizer

from fairseq_prune.checkpoints.loading import load_state_dict_strictly
from fairseq_prune.checkpoints.whisper.own import WhisperCheckpoint, read_whisper
from fairseq_prune.cuts.base import count_weights
from fairseq_prune.cuts.fewer_layers import with_fewer_layers
from fairseq_prune.cuts.vocabulary import cut_checkpoint, plan_cut, vocabulary_in
from fairseq_prune.models.whisper import WhisperConfig

TOKENIZER = small_tokenizer()
TASK = Namespace(target_dictionary=TOKENIZER.dictionary)
# of OpenAI's model card: layers of encoder and of decoder, width, heads
PUBLISHED = {"tiny": (4, 384, 6), "base": (6, 512, 8), "small": (12, 768, 12)}


def build(name="whisper", meta=False, **options):
    """The model that a configuration asks for, and the configuration that a checkpoint would keep."""
    cfg = OmegaConf.create(
        OmegaConf.to_container(OmegaConf.structured(FairseqConfig), resolve=True, enum_to_str=True)
    )
    cfg.model = {"_name": name, **options}
    with torch.device("meta" if meta else "cpu"):
        return build_model(cfg.model, TASK), cfg.model


@pytest.fixture
def checkpoint(tmp_path):
    """A checkpoint of `SIZES` and its weights."""
    weights = our_names(huggingface_whisper())
    path = tmp_path / "whisper.pt"
    torch.save(WhisperCheckpoint("here", SIZES, weights, TOKENIZER.to_json()).to_fairseq(), path)
    return path, weights


@pytest.mark.parametrize("name", ["tiny", "tiny_en", "base", "base_en", "small", "small_en"])
def test_sizes_are_those_published(name):
    layers, width, heads = PUBLISHED[name.split("_")[0]]
    sides = {"layers": layers, "attention_heads": heads, "ffn_dim": 4 * width}
    options = {
        f"{side}_{option}": value for side in ("encoder", "decoder") for option, value in sides.items()
    }
    with torch.device("meta"):
        config = transformers.WhisperConfig(
            vocab_size=len(TOKENIZER), d_model=width, pad_token_id=0, **options
        )
        theirs = transformers.WhisperForConditionalGeneration(config)
    model, _ = build(f"whisper_{name}", meta=True)
    shapes = {key: value.shape for key, value in our_names(theirs).items()}
    assert {key: value.shape for key, value in model.state_dict().items()} == shapes
    assert model.encoder.layers[0].self_attn.num_heads == heads


def test_training_starts_from_a_checkpoint_whose_sizes_it_takes(checkpoint):
    path, weights = checkpoint
    model, kept = build(whisper_path=str(path), dropout=0.1, audio_context="clip")
    assert {name: kept[name] for name in SIZES} == SIZES
    assert kept.whisper_path is None
    assert model.encoder.audio_context == "clip" and model.decoder.layers[0].dropout == 0.1
    for name, value in model.state_dict().items():
        assert torch.equal(value, weights[name]), name


@torch.no_grad()
def test_8_bits_are_for_training_alone(checkpoint):
    """fairseq's trainer calls `prepare_training`; who loads what it saved, does not."""
    path, _ = checkpoint
    model, kept = build(whisper_path=str(path), int8_aware=True)
    features, lengths = clips(40)
    inputs = features, lengths, torch.tensor([[3, 5]])
    expected = model(*inputs)[0]
    model.prepare_training(OmegaConf.create({"model": {"int8_aware": True}}), None)
    assert not torch.allclose(model(*inputs)[0], expected, atol=1e-3)
    again, _ = build(**{name: value for name, value in kept.items() if name != "_name"})
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(*inputs)[0], expected)


def test_what_a_checkpoint_keeps_builds_the_model_again(checkpoint):
    path, weights = checkpoint
    _, kept = build(whisper_path=str(path))
    path.unlink()
    again, _ = build(**{name: value for name, value in kept.items() if name != "_name"})
    again.load_state_dict(weights)
    for name, value in weights.items():
        assert torch.equal(again.state_dict()[name], value), name


def test_a_checkpoint_of_another_vocabulary_is_refused(checkpoint):
    other = Namespace(target_dictionary=TOKENIZER.with_tokens(["[IN:A"]).dictionary)
    rows = len(TOKENIZER)
    with pytest.raises(
        ValueError, match=rf"has embeddings of {rows} tokens, but the tokenizer has {rows + 1} tokens"
    ):
        build_model(OmegaConf.create({"_name": "whisper", "whisper_path": str(checkpoint[0])}), other)


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    torch.save({"cfg": {"model": {"_name": "deltalm"}}, "model": {}}, tmp_path / "deltalm.pt")
    with pytest.raises(ValueError, match="expected a checkpoint of a model whisper .* found model 'deltalm'"):
        read_whisper(tmp_path / "deltalm.pt")


def test_magnitude_pruning_takes_every_layer_of_both_sides(checkpoint):
    model, _ = build(whisper_path=str(checkpoint[0]), prune_sparsity=0.5, prune_end_update=1)
    layers = SIZES["encoder_layers"] + SIZES["decoder_layers"]
    assert len(model.pruner.parameters) == layers * (2 * 6 - 1)  # weights and biases, but keys have no bias
    model.pruner.after_update(0)
    pruned = torch.cat([parameter.flatten() for parameter in model.pruner.parameters.values()])
    assert (pruned == 0).float().mean().item() == pytest.approx(0.5, abs=0.01)
    logits, _ = model(*clips(50, 31), torch.zeros(2, 3, dtype=torch.long))
    assert logits.isfinite().all()


@pytest.fixture
def sparse_checkpoint(checkpoint, tmp_path):
    """A checkpoint whose training has pruned the weights, as fairseq writes it; and the weights."""
    model, cfg = build(whisper_path=str(checkpoint[0]), prune_sparsity=0.5, prune_end_update=1)
    model.pruner.after_update(0)
    state = torch.load(checkpoint[0], weights_only=True)
    state["model"], state["cfg"]["model"] = model.state_dict(), OmegaConf.to_container(cfg)
    torch.save(state, tmp_path / "sparse.pt")
    return tmp_path / "sparse.pt", dict(model.named_parameters())


@pytest.mark.parametrize("sparsity", [0.0, 0.5])
def test_a_training_starts_from_sparse_weights(sparse_checkpoint, sparsity):
    path, weights = sparse_checkpoint
    model, _ = build(whisper_path=str(path), prune_sparsity=sparsity, prune_end_update=1)
    for name, value in model.named_parameters():
        assert torch.equal(value, weights[name]), name


def test_a_sparse_model_is_read_again_without_the_state_of_its_pruning(sparse_checkpoint):
    path, weights = sparse_checkpoint
    state = torch.load(path, weights_only=True)
    again, _ = build(**{name: value for name, value in state["cfg"]["model"].items() if name != "_name"})
    load_state_dict_strictly(again, state["model"], path)
    assert all(torch.equal(value, weights[name]) for name, value in again.named_parameters())


def test_a_sparse_model_loses_layers_and_tokens_and_the_state_of_its_pruning(sparse_checkpoint):
    path, weights = sparse_checkpoint
    state = torch.load(path, weights_only=True)
    small = with_fewer_layers(state, {"decoder": [[1], [2]]}, str(path))
    vocabulary = vocabulary_in(small, str(path))
    small = cut_checkpoint(small, vocabulary, plan_cut(vocabulary, ["wake me"]), str(path))
    assert "magnitude_pruning" not in small["model"] and small["cfg"]["model"]["prune_sparsity"] == 0
    assert torch.equal(small["model"]["decoder.layers.0.fc1.weight"], weights["decoder.layers.1.fc1.weight"])
    assert count_weights(state["model"])[0] == sum(weight.numel() for weight in weights.values())


def test_without_pruning_options_there_is_no_pruner():
    assert build(**SIZES)[0].pruner is None
    assert WhisperConfig().prune_sparsity == 0


@pytest.mark.parametrize("name", ["whisper", "whisper_tiny_en", "whisper_base", "whisper_small_en"])
def test_every_size_takes_the_options_of_token_pruning(name):
    model, _ = build(
        name, meta=True, token_keep_ratio=0.5, token_keep_start_layer=2, token_keep_criterion="norm"
    )
    pruning = model.encoder.pruning
    assert pruning.keep_ratios == [1.0] + [0.5] * (len(model.encoder.layers) - 1)
    assert pruning.criterion == "norm"


def test_token_pruning_and_context_are_in_the_checkpoint(checkpoint):
    options = dict(
        token_keep_ratios="1,0.5", audio_context="clip+0.3", silence_stride=2, token_keep_silence=True
    )
    _, kept = build(whisper_path=str(checkpoint[0]), **options)
    assert {name: kept[name] for name in options} == options
    again, _ = build(**{name: value for name, value in kept.items() if name != "_name"})
    assert again.encoder.pruning.keep_ratios == [1.0, 0.5]
    assert (again.encoder.audio_context, again.encoder.silence_stride) == ("clip+0.3", 2)


def test_a_checkpoint_without_these_options_takes_them_at_generation(checkpoint):
    """As those of before: --model-overrides sets what the file has never heard of."""
    path, weights = checkpoint
    state = torch.load(path, weights_only=True)
    state["cfg"]["model"] = {**SIZES, "_name": "whisper", "audio_context": "clip"}
    torch.save(state, path)
    overrides = {"token_keep_ratio": 0.5, "token_keep_criterion": "uniform", "audio_context": "clip+0.3"}
    [model], _, _ = checkpoint_utils.load_model_ensemble_and_task([str(path)], overrides)
    assert model.encoder.pruning.keep_ratios == [0.5, 0.5] and model.encoder.audio_context == "clip+0.3"
    assert torch.equal(model.encoder.conv1.weight, weights["encoder.conv1.weight"])


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(token_keep_ratio=0.0), "found 0.0, expected a share of frames to keep"),
        (dict(token_keep_ratios="0.5"), "found 1, expected 2, one a layer"),
        (dict(token_keep_start_layer=3), "found 3, expected 1 to 2"),
        (dict(token_keep_ratio=0.4, token_keep_criterion="merge"), "at most halve"),
        (dict(audio_context="clip+x"), "--audio-context: found 'clip.x', expected 30s, clip, or clip"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build(**SIZES, **options)


def test_magnitude_and_token_pruning_train_together(checkpoint):
    model, _ = build(
        whisper_path=str(checkpoint[0]), prune_sparsity=0.5, prune_end_update=1, token_keep_ratio=0.6
    )
    model.pruner.after_update(0)
    logits, _ = model.train()(*clips(50, 31), torch.zeros(2, 3, dtype=torch.long))
    logits.square().mean().backward()
    assert model.encoder.conv1.weight.grad.abs().sum() > 0
