"""The compressed encoder as a model: in fairseq's CTC fine-tuning, and from other encoders."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from fairseq import models
from fairseq.data import Dictionary
from fairseq.sequence_generator import SequenceGenerator
from omegaconf import OmegaConf
from small_speech_model import SMALL, dictionary, make_task, speech

from fairseq_prune.checkpoints.hubert.own import materialise, save_pruned_hubert
from fairseq_prune.models.hubert_ctc_parp import HubertCtcParpConfig
from fairseq_prune.models.hubert_deltalm_config import HubertDeltaLMTinyConfig
from fairseq_prune.models.pruned_hubert import PrunedHubert, PrunedHubertConfig


@pytest.fixture
def compressed(tmp_path):
    from hubert_files import BASE, make_gated

    small, _ = materialise(make_gated(BASE))
    save_pruned_hubert(small, tmp_path / "pruned.pt")
    return small, str(tmp_path / "pruned.pt")


def ctc_model(path, **options):
    defaults = OmegaConf.to_container(
        OmegaConf.structured(HubertCtcParpConfig()), resolve=False, enum_to_str=True
    )
    dictionary = Dictionary()
    dictionary.add_symbol("a")
    task = SimpleNamespace(target_dictionary=dictionary, state_dict=dict, load_state_dict=lambda state: None)
    model = {
        **defaults,
        "_name": "hubert_ctc_parp",
        "w2v_path": path,
        "data": "",
        "normalize": False,
        **options,
    }
    # sections that options of the model refer to
    cfg = {"model": model, "task": {"data": "", "normalize": False}, "optimization": {"max_update": 10}}
    return models.build_model(OmegaConf.create({**cfg, "common": {"user_dir": None}}).model, task)


def test_fairseqs_ctc_fine_tuning_takes_a_compressed_encoder_and_sets_its_options(compressed):
    small, path = compressed
    model = ctc_model(path, apply_mask=True, mask_prob=0.5, dropout=0.0, attention_dropout=0.3, layerdrop=0.2)
    encoder = model.w2v_encoder.w2v_model
    assert type(encoder) is PrunedHubert and encoder.shapes == small.shapes
    dropouts = encoder.encoder.dropout, encoder.encoder.layers[0].self_attn.dropout_module.p
    assert (encoder.mask_prob, *dropouts, encoder.encoder.layerdrop) == (0.5, 0.0, 0.3, 0.2)
    source, padding = torch.randn(2, 8000), torch.zeros(2, 8000, dtype=torch.bool)
    padding[1, 5000:] = True
    out = model.train()(source=source, padding_mask=padding)
    assert out["encoder_out"].shape == (24, 2, 5) and (~out["padding_mask"]).sum(1).tolist() == [24, 15]
    out["encoder_out"].sum().backward()
    assert encoder.mask_emb.grad.abs().sum() > 0
    with torch.no_grad():
        features, _ = model.eval().w2v_encoder.w2v_model.extract_features(source, padding)
        torch.testing.assert_close(features, small(source, [8000, 5000]).x)


def test_a_translation_model_on_it_drops_frames_learns_and_translates(compressed):
    small, path = compressed
    decoder = {name: value for name, value in SMALL.items() if name.startswith("deltalm")}
    options = HubertDeltaLMTinyConfig(hubert_path=path, token_keep_ratio=0.7, **decoder)
    cfg = OmegaConf.create({"model": OmegaConf.structured(options)}).model
    cfg._name = "hubert_deltalm_tiny"
    model, batch = models.build_model(cfg, make_task()), speech(8000, 5000)
    hubert = model.encoder.hubert
    attends = [size > 0 for size in small.shapes.heads]
    assert hubert.shapes == small.shapes and hubert.frame_counts(8000)[-1] < 24 and any(attends)
    before, *after = hubert.frame_counts(8000)
    for count, drops in zip(after, attends):  # a layer without attention has nothing to choose frames by
        assert (count < before) == drops
        before = count
    logits, _ = model.train()(**batch, prev_output_tokens=torch.randint(4, 20, (2, 3)))
    logits.sum().backward()
    assert all(p.grad is not None for p in hubert.encoder.layers.parameters() if p.requires_grad)
    again = models.build_model(cfg, make_task())  # of the options that a checkpoint keeps
    again.load_state_dict(model.state_dict())
    found = [
        SequenceGenerator([m.eval()], dictionary(20, "t"), beam_size=2, max_len_b=5).generate(
            [m], {"net_input": batch}
        )
        for m in (model, again)
    ]
    assert [len(sentence) for sentence in found[0]] == [2, 2]
    for first, second in zip(*found):
        assert torch.equal(first[0]["tokens"], second[0]["tokens"])


def test_its_configuration_tells_all_that_the_next_start_needs(compressed, tmp_path):
    small, path = compressed
    cfg = OmegaConf.create({"model": OmegaConf.structured(PrunedHubertConfig(hubert_path=path))}).model
    first = PrunedHubert.build_model(cfg)
    Path(path).unlink()
    assert cfg.hubert_path is None and cfg.encoder_embed_dim == 24
    again = PrunedHubert.build_model(cfg)
    again.load_state_dict(first.state_dict())
    source = torch.randn(1, 8000)
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(source, [8000]).x, small(source, [8000]).x)


def test_without_path_and_architecture_there_is_nothing_to_build():
    cfg = OmegaConf.create({"model": OmegaConf.structured(PrunedHubertConfig())}).model
    with pytest.raises(ValueError, match="found neither --hubert-path nor --hubert-config"):
        PrunedHubert.build_model(cfg)
