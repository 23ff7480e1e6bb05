"""Sparse checkpoints, read back by fairseq alone and by transformers."""

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from pretrained_recogniser import SMALL, SMALL_WEIGHTS, save_hubert, save_wav2vec, write_corpus

from fairseq_prune import compat
from fairseq_prune.checkpoints.half_precision import halved
from fairseq_prune.checkpoints.loading import load_checkpoint_file
from fairseq_prune.checkpoints.sparse import compact, expanded, finalized, masks_of, with_masks


def recogniser(folder, kind="wav2vec", **options):
    """A model that the task of fine-tuning builds, with its configuration and its task."""
    from fairseq import models
    from fairseq.dataclass.configs import FairseqConfig
    from fairseq.tasks.audio_finetuning import AudioFinetuningConfig, AudioFinetuningTask

    write_corpus(folder / "data", utterances=1)
    save = save_wav2vec if kind == "wav2vec" else save_hubert
    arch = f"{kind}_ctc_parp"
    save(folder / "pretrained.pt")
    config = OmegaConf.structured(FairseqConfig())
    task_config = AudioFinetuningConfig(data=str(folder / "data"), labels="ltr")
    config.task = OmegaConf.merge(OmegaConf.structured(task_config), {"_name": "audio_finetuning"})
    config.optimization.max_update = 10
    dataclass = models.MODEL_DATACLASS_REGISTRY[arch]
    changes = {"_name": arch, "w2v_path": str(folder / "pretrained.pt"), **options}
    config.model = OmegaConf.merge(OmegaConf.structured(dataclass()), changes)
    task = AudioFinetuningTask.setup_task(config.task)
    return task.build_model(config.model), config, task


def checkpoint_of(model, config, task):
    return {
        "args": None,
        "cfg": OmegaConf.to_container(config, resolve=True, enum_to_str=True),
        "model": model.state_dict(),
        "criterion": None,
        "optimizer_history": [{"num_updates": 10, "lr_scheduler_state": {"best": None}}],
        "last_optimizer_state": {"state": {0: torch.zeros(100)}},
        "task_state": task.state_dict(),
        "extra_state": {"train_iterator": {"epoch": 1}},
    }


@pytest.fixture(scope="module", params=["wav2vec", "hubert"])
def pruned(request, tmp_path_factory):
    """A pruned checkpoint, its path, and what the model says of some audio: (checkpoint, path, audio, logits)."""
    folder = tmp_path_factory.mktemp(request.param)
    model, config, task = recogniser(folder, request.param, prune_sparsity=0.9)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model.pruner.after_update(0)
    audio = torch.randn(2, 8000, generator=torch.Generator().manual_seed(1))
    checkpoint = checkpoint_of(model, config, task)
    torch.save(checkpoint, folder / "pruned.pt")
    return checkpoint, folder / "pruned.pt", audio, logits_of(model, audio)


def logits_of(model, audio):
    padding_mask = torch.zeros(audio.shape, dtype=torch.bool)
    with torch.no_grad():
        out = model.eval()(source=audio, padding_mask=padding_mask)
    return out["encoder_out"]


WITHOUT_PLUGIN = """
import sys, torch
from fairseq import checkpoint_utils
[model], _, _ = checkpoint_utils.load_model_ensemble_and_task([sys.argv[1]])
audio = torch.load(sys.argv[2])
with torch.no_grad():
    out = model.eval()(source=audio, padding_mask=torch.zeros(audio.shape, dtype=torch.bool))["encoder_out"]
torch.save(out, sys.argv[3])
assert not [name for name in sys.modules if name.startswith("fairseq_prune")]
print(type(model).__name__)
"""


def test_fairseq_alone_loads_what_is_final(pruned, tmp_path):
    checkpoint, path, audio, logits = pruned
    kind = checkpoint["cfg"]["model"]["_name"].split("_")[0]
    if kind == "hubert" and not compat.LEGACY:
        pytest.skip("fairseq-fixed cannot build hubert_ctc; this package cures it")
    torch.save(finalized(checkpoint, path), tmp_path / "final.pt")
    torch.save(audio, tmp_path / "audio.pt")
    words = [tmp_path / "final.pt", tmp_path / "audio.pt", tmp_path / "logits.pt"]
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT_PLUGIN, *map(str, words)],
        cwd=tmp_path,
        # torch would refuse the dictionary that fairseq's own checkpoints have
        env={**os.environ, "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert run.stdout.strip().endswith({"wav2vec": "Wav2VecCtc", "hubert": "HubertCtc"}[kind])
    assert torch.equal(compat.load_weights_only(tmp_path / "logits.pt"), logits)


@pytest.mark.parametrize("form", ["final", "compact", "half", "pruned"])
def test_fairseq_with_this_package_loads_each_form(form, pruned, tmp_path):
    from fairseq import checkpoint_utils

    checkpoint, path, audio, logits = pruned
    (path.parent / "pretrained.pt").rename(path.parent / "moved.pt")  # it is not needed any more
    final = finalized(checkpoint, path)
    written = {"final": final, "compact": compact(final), "half": halved(final, path), "pruned": checkpoint}[
        form
    ]
    torch.save(written, tmp_path / "c.pt")
    try:
        [model], _, _ = checkpoint_utils.load_model_ensemble_and_task([str(tmp_path / "c.pt")])
    finally:
        (path.parent / "moved.pt").rename(path.parent / "pretrained.pt")
    if form == "half":
        torch.testing.assert_close(
            logits_of(model, audio), logits, rtol=0.02, atol=0.02 * float(logits.std())
        )
    else:
        assert torch.equal(logits_of(model, audio), logits)


def test_transformers_says_the_same_of_what_is_final(pruned, tmp_path):
    transformers = pytest.importorskip("transformers")
    checkpoint, path, audio, logits = pruned
    kind = checkpoint["cfg"]["model"]["_name"].split("_")[0]
    names = {"wav2vec": ("Wav2Vec2", "wav2vec2"), "hubert": ("Hubert", "hubert")}[kind]
    config = getattr(transformers, f"{names[0]}Config")(
        vocab_size=logits.shape[-1],
        hidden_size=SMALL["encoder_embed_dim"],
        num_hidden_layers=SMALL["encoder_layers"],
        num_attention_heads=SMALL["encoder_attention_heads"],
        intermediate_size=SMALL["encoder_ffn_embed_dim"],
        conv_dim=[16] * 4,
        conv_kernel=[10, 8, 8, 8],
        conv_stride=[5, 4, 4, 4],
        num_conv_pos_embeddings=SMALL["conv_pos"],
        num_conv_pos_embedding_groups=SMALL["conv_pos_groups"],
        feat_extract_norm="group",
        attn_implementation="eager",
    )
    model = getattr(transformers, f"{names[0]}ForCTC")(config).eval()
    own = set(model.state_dict())
    weights = {}
    for name, value in finalized(checkpoint, path)["model"].items():
        new = name.replace("w2v_encoder.w2v_model.", f"{names[1]}.").replace("w2v_encoder.proj", "lm_head")
        for old, replacement in KEYS.items():
            new = new.replace(old, replacement)
        if new == f"{names[1]}.mask_emb":
            new = f"{names[1]}.masked_spec_embed"
        if new not in own:
            new = new.replace(".weight_g", ".parametrizations.weight.original0")
            new = new.replace(".weight_v", ".parametrizations.weight.original1")
        if not new.endswith("label_embs_concat"):
            weights[new] = value
    model.load_state_dict(weights, strict=True)
    with torch.no_grad():
        found = model(audio).logits.transpose(0, 1)
    assert found.shape == logits.shape
    torch.testing.assert_close(found, logits, rtol=1e-4, atol=1e-4)


KEYS = {
    "w2v_model": "",
    "encoder.pos_conv.0": "encoder.pos_conv_embed.conv",
    "post_extract_proj": "feature_projection.projection",
    "self_attn_layer_norm": "attn_norm",
    "self_attn": "attention",
    "attn_norm": "layer_norm",
    "fc1": "feed_forward.intermediate_dense",
    "fc2": "feed_forward.output_dense",
    **{f"conv_layers.{i}.0": f"conv_layers.{i}.conv" for i in range(4)},
    "conv_layers.0.2": "conv_layers.0.layer_norm",
    "wav2vec2.layer_norm": "wav2vec2.feature_projection.layer_norm",
    "hubert.layer_norm": "hubert.feature_projection.layer_norm",
}


def test_a_final_checkpoint_has_no_trace_of_training(pruned):
    checkpoint, path, _, _ = pruned
    final = finalized(checkpoint, path)
    assert "last_optimizer_state" not in final and "magnitude_pruning" not in final["model"]
    assert final["cfg"]["model"]["_name"] in ("wav2vec_ctc", "hubert_ctc")
    assert not [key for key in final["cfg"]["model"] if key.startswith("prune_")]
    zeros = sum(int((~mask).sum()) for mask in masks_of(final, path).values())
    assert zeros == round(0.9 * SMALL_WEIGHTS)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.sampled_from([0.0, -0.0, 1.5, -2.0, float("inf"), 1e-45]), min_size=1, max_size=40),
    st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
)
def test_compact_weights_come_back_bit_for_bit(values, dtype):
    weights = {"a": torch.tensor(values, dtype=dtype), "b": torch.tensor([0, 3])}
    back = expanded(compact({"model": weights}))["model"]
    for name, weight in weights.items():
        assert back[name].dtype == weight.dtype
        assert torch.equal(back[name], weight)
        assert torch.equal(back[name].float().signbit(), weight.float().signbit())


def test_compact_weights_at_a_sparsity_of_90_percent_take_less_than_20_percent(tmp_path):
    weight = torch.randn(768, 3072, generator=torch.Generator().manual_seed(0))
    weight[weight.abs() < 1.645] = 0.0
    torch.save(compact({"model": {"fc1": weight}}), tmp_path / "c.pt")
    dense = weight.numel() * 4
    assert (tmp_path / "c.pt").stat().st_size < 0.135 * dense
    assert torch.equal(load_checkpoint_file(tmp_path / "c.pt")["model"]["fc1"], weight)


def test_masks_of_a_recogniser_fit_a_pretrained_encoder_and_back(pruned):
    checkpoint, path, _, _ = pruned
    masks = masks_of(checkpoint, path)
    pretrained = load_checkpoint_file(path.parent / "pretrained.pt")
    sparse = with_masks(pretrained, masks, "pretrained.pt", path)
    found = masks_of(sparse, "sparse.pt")
    for name, mask in masks.items():
        short = name.removeprefix("w2v_encoder.w2v_model.")
        weight = pretrained["model"][short]
        assert torch.equal(sparse["model"][short], weight * mask)
        assert not (found[short] & ~mask).any()
    back = with_masks(checkpoint, found, path, "sparse.pt")
    assert torch.equal(back["model"][name], checkpoint["model"][name] * found[short])


def test_what_does_not_fit_is_refused(pruned):
    checkpoint, path, _, _ = pruned
    with pytest.raises(ValueError, match=r"m.pt: has x, which the model has not"):
        with_masks(checkpoint, {"x": torch.ones(2, dtype=torch.bool)}, path, "m.pt")
    with pytest.raises(ValueError, match=r"m.pt: mask_emb has the shape \(2,\), expected \(32,\)"):
        with_masks(checkpoint, {"mask_emb": torch.ones(2, dtype=torch.bool)}, path, "m.pt")
    with pytest.raises(ValueError, match="has no moving average"):
        finalized(checkpoint, path, ema=True)
    with pytest.raises(
        ValueError, match="c.pt: not a checkpoint of fairseq: found \\['a'\\], expected 'model'"
    ):
        masks_of({"a": 1}, "c.pt")
