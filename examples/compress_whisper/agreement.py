#!/usr/bin/env python
"""How a Whisper continues the text of the whole one: share of tokens that it would choose, and the divergence.

    python examples/compress_whisper/agreement.py --teacher tiny.en.pt --data data out/merged/checkpoint_last.pt

Error rates of a model that falls into loops say little about the model; here each token follows the teacher's own ones.
"""

from pathlib import Path

import torch
from fairseq import checkpoint_utils
from omegaconf import OmegaConf

from fairseq_prune.checkpoints.loading import load_fairseq_state
from fairseq_prune.command_line import PlainParser, finish
from fairseq_prune.criterions.whisper_distillation import (
    WhisperDistillationConfig,
    WhisperDistillationCriterion,
)

HEARING = {"audio_context": "30s", "silence_stride": 8}  # as in score.py


@torch.no_grad()
def agreement(path, teacher, data, split):
    """Share of the teacher's tokens that a model would choose, and the divergence in nats a token, over a split."""
    state = load_fairseq_state(path)
    [model], _, task = checkpoint_utils.load_model_ensemble_and_task([str(path)], HEARING, state=state)
    task.cfg.data, task.cfg.suppress_tokens = str(data), "non_speech"
    layers = list(range(1, len(model.decoder.layers) + 1))  # of no effect, as hidden states are not asked for
    options = {"teacher_path": str(teacher), "layer_map": layers, "hidden_weight": 0.0, "encoder_weight": 0.0}
    cfg = OmegaConf.merge(WhisperDistillationConfig(), options)
    criterion = WhisperDistillationCriterion.build_criterion(cfg, task).eval()
    task.load_dataset(split)
    batches = task.get_batch_iterator(task.dataset(split), max_sentences=8).next_epoch_itr(shuffle=False)
    logs = [criterion(model.eval(), batch)[2] for batch in batches]
    agreed, divergence, size = (
        float(sum(log[name] for log in logs)) for name in ("n_agreed", "kl_loss", "sample_size")
    )
    return agreed / size, divergence / size


def main(args):
    torch.set_num_threads(1)
    print("| model | tokens agreed % | divergence, nats a token |\n| --- | --- | --- |")
    for path in args.checkpoints:
        agreed, divergence = agreement(path, args.teacher, args.data, args.split)
        print(f"| {path} | {100 * agreed:.1f} | {divergence:.2f} |", flush=True)


if __name__ == "__main__":
    parser = PlainParser(__doc__)
    add = parser.add_argument
    add("checkpoints", nargs="+", type=Path, help="Whispers of this package, of the teacher's vocabulary")
    add("--teacher", type=Path, required=True, help="the whole Whisper")
    add("--data", type=Path, required=True, help="folder of manifests")
    add("--split", choices=("choose", "report"), default="choose", help="which clips (default: choose)")
    raise SystemExit(finish(main, parser.parse_args()))
