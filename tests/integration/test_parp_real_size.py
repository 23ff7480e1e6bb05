"""wav2vec 2.0 base in its real size, random weights inside."""

import re
import time

import pytest
import torch
from command_lines import run_together
from pretrained_recogniser import save_wav2vec, write_corpus
from test_multi_process_cli import free_port
from test_parp_cli import pruned_weights, write_recipe

from fairseq_prune.checkpoints.loading import load_checkpoint_file
from fairseq_prune.checkpoints.sparse import compact, finalized

BASE = {
    "encoder_layers": 12,
    "encoder_embed_dim": 768,
    "encoder_ffn_embed_dim": 3072,
    "encoder_attention_heads": 12,
    "conv_feature_layers": "[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512, 2, 2)] + [(512, 2, 2)]",
    "conv_pos": 128,
    "conv_pos_groups": 16,
    "final_dim": 256,
    "quantize_targets": True,
}
PRUNED = 85_017_600  # weights and biases of the projections and feed-forward blocks


@pytest.mark.slow
def test_wav2vec_base_fine_tunes_with_masters_and_two_processes(tmp_path):
    write_corpus(tmp_path / "data")
    save_wav2vec(tmp_path / "w2v.pt", **BASE)
    model = {"_name": "wav2vec_ctc_parp", "w2v_path": str(tmp_path / "w2v.pt"), "prune_sparsity": 0.5}
    model |= {"prune_interval": 2}
    distributed = {
        "distributed_backend": "gloo",
        "distributed_world_size": 2,
        "ddp_backend": "legacy_ddp",
        "distributed_no_spawn": True,
        "distributed_init_method": f"tcp://localhost:{free_port()}",
    }
    sections = {"common": {"bf16": True, "log_interval": 1}, "dataset": {"max_tokens": 40000}}
    sections |= {"optimization": {"max_update": 3, "lr": [1e-2]}, "distributed_training": distributed}
    options = write_recipe(tmp_path, tmp_path, model, **sections)
    began = time.time()
    ranks = [[*options, f"distributed_training.distributed_rank={rank}"] for rank in range(2)]
    codes, outputs = run_together("fairseq-hydra-train", ranks, tmp_path, timeout=2400)
    assert codes == [0, 0], [output[-3000:] for output in outputs]
    print(f"{time.time() - began:.0f} s")
    prunings = re.findall(r"pruned after update (\d+): sparsity ([\d.]+), revived ([\d.]+)%", outputs[0])
    print(prunings)
    assert [(update, sparsity) for update, sparsity, _ in prunings] == [(str(i), "0.5000") for i in (0, 2, 3)]
    assert float(prunings[1][2]) > 0
    logged = re.findall(r"num_updates\W+(\d+)\W.*?sparsity\W+([\d.]+)", outputs[0])
    assert {sparsity for _, sparsity in logged} == {"0.5"}, logged
    path = tmp_path / "out" / "checkpoint_best.pt"
    checkpoint = load_checkpoint_file(path, mmap=True)
    pruned = pruned_weights(checkpoint["model"])
    assert sum(value.numel() for value in pruned.values()) == PRUNED
    zeros = sum(value.numel() - int(value.count_nonzero()) for value in pruned.values())
    # a kept weight can be zero by itself in bfloat16
    assert PRUNED // 2 <= zeros <= PRUNED // 2 + 100
    assert checkpoint["model"]["magnitude_pruning"]["sparsity"] == 0.5
    sizes = [path.stat().st_size]
    for name, written in (("final", finalized(checkpoint, path)), ("compact", None)):
        written = written or compact(finalized(checkpoint, path))
        torch.save(written, tmp_path / name)
        sizes.append((tmp_path / name).stat().st_size)
    print(f"{sizes} bytes")
    assert sizes[2] < 0.67 * sizes[1] < 0.67 * 0.4 * sizes[0]
