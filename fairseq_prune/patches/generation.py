"""Generation from audio with fairseq's programs: several models of different pruning, and alignments.

fairseq averages the attention of an ensemble, which needs memories of one length, and takes the source for words when
it says which of them a token came from.
"""

import functools
import math
import sys
from pathlib import Path

import torch
from fairseq import sequence_generator, tasks
from fairseq.search import DiverseBeamSearch
from fairseq.sequence_generator import EnsembleModel, SequenceGeneratorWithAlignment
from fairseq.tasks import TASK_REGISTRY
from torch import Tensor

INSTEAD = "give them to scripts/translate.py --checkpoint CHECKPOINT (Whisper: scripts/transcribe.py, understand.py)"


def install() -> None:
    """Change fairseq's generators where the source is audio; safe to call again."""
    if not hasattr(EnsembleModel.forward_decoder, "of_any_length"):
        EnsembleModel.forward_decoder = _of_any_length(EnsembleModel.forward_decoder)
        SequenceGeneratorWithAlignment.generate = _to_frames(SequenceGeneratorWithAlignment.generate)
        tasks.setup_task = _refuse_to_interact(tasks.setup_task)
        DiverseBeamSearch.step = _by_row(DiverseBeamSearch.step)
    for name in ("fairseq_cli.generate", "__main__"):
        program = sys.modules.get(name)
        if hasattr(program, "get_symbols_to_strip_from_output") and not hasattr(program._main, "shards"):
            program._main = _in_shards(program._main)


def _of_any_length(forward_decoder):
    @functools.wraps(forward_decoder)
    def forward(self, tokens, encoder_outs, incremental_states, temperature=1.0):
        """Log probabilities (rows, vocabulary) of the next token, and (rows, memory) attention or None."""
        lengths = {out["encoder_out"][0].shape[0] for out in encoder_outs if out and out.get("encoder_out")}
        if len(lengths) < 2:
            return forward_decoder(self, tokens, encoder_outs, incremental_states, temperature)
        scores = []
        for model, encoder_out, state in zip(self.models, encoder_outs, incremental_states):
            states = {"incremental_state": state} if self.has_incremental_states() else {}
            logits = model.decoder.forward(tokens, encoder_out=encoder_out, **states)[0][:, -1:] / temperature
            scores.append(model.get_normalized_probs((logits, None), log_probs=True, sample=None)[:, -1])
        return torch.logsumexp(torch.stack(scores), dim=0) - math.log(len(scores)), None

    forward.of_any_length = True
    return forward


def _to_frames(generate):
    @functools.wraps(generate)
    def align(self, models, sample, **options):
        net_input = sample["net_input"]
        if not torch.is_floating_point(net_input["src_tokens"]):
            return generate(self, models, sample, **options)
        found = self._generate(sample, **options)
        memory = self.model.models[0].encoder(net_input["src_tokens"], net_input["src_lengths"])
        if "positions" not in memory:
            raise ValueError(
                "--print-alignment: this model's encoder does not say which frames its memory is of"
            )
        hard = self.extract_alignment is sequence_generator.utils.extract_hard_alignment
        for positions, hypotheses in zip(memory["positions"][0], found):
            for hypothesis in hypotheses:
                attention = hypothesis["attention"]
                if attention is None or not attention.numel():
                    raise ValueError(
                        "--print-alignment: models whose memories differ in length have no attention in common"
                    )
                tokens = hypothesis["tokens"] != self.eos
                hypothesis["alignment"] = frames_of(attention.t()[tokens], positions, hard)
        return found

    return align


def frames_of(attention: Tensor, positions: Tensor, hard: bool) -> list:
    """An alignment of tokens with the frames (20 ms) of the utterance as they were before pruning.

    Args:
        attention: (tokens, memory) weights.
        positions: (memory,) frame that each place of the memory was.
        hard: the frame with the largest weight; or the weights of all frames, 0 for those that are gone.

    Returns:
        [(frame, token)], as fairseq's hard alignment; or the weights as text by token, as its soft alignment.
    """
    positions = positions[: attention.shape[1]]
    if hard:
        frames = positions[attention.argmax(1)].tolist()
        return [(frame, token) for token, frame in enumerate(frames)]
    weights = attention.new_zeros(len(attention), int(positions.max()) + 1)
    weights.index_add_(1, positions, attention)
    return [[f"{weight:.6f}" for weight in row] for row in weights.tolist()]


def _refuse_to_interact(setup_task):
    @functools.wraps(setup_task)
    def setup(cfg, *others, **options):
        task = setup_task(cfg, *others, **options)
        if "interactive" in Path(sys.argv[0]).name and _is_ours(type(task)):
            raise ValueError(f"fairseq-interactive reads text, and this task audio files: {INSTEAD}")
        return task

    return setup


def _by_row(step_of_search):
    """fairseq finds the overlap of groups by the ids of sentences in the data, and it has a row a sentence."""

    @functools.wraps(step_of_search)
    def search(self, step, lprobs, scores, prev_output_tokens=None, original_batch_idxs=None):
        if original_batch_idxs is not None:
            if step == 0:
                self.first_ids = original_batch_idxs
            same = self.first_ids.unsqueeze(0) == original_batch_idxs.unsqueeze(1)
            original_batch_idxs = same.int().argmax(1)
        return step_of_search(self, step, lprobs, scores, prev_output_tokens, original_batch_idxs)

    return search


def _in_shards(main):
    """fairseq-generate has --num-shards and --shard-id, and looks at other options instead.

    --replace-unk puts words of the source in the place of unknown ones, and audio has none.
    """

    @functools.wraps(main)
    def generate(cfg, output_file):
        if cfg.generation.replace_unk is not None and _is_ours(TASK_REGISTRY.get(cfg.task._name)):
            raise ValueError(
                "--replace-unk: the source is audio, it has no words to put in the place of <unk>"
            )
        if cfg.dataset.num_shards > 1:
            cfg.distributed_training.distributed_world_size = cfg.dataset.num_shards
            cfg.distributed_training.distributed_rank = cfg.dataset.shard_id
        return main(cfg, output_file)

    generate.shards = True
    return generate


def _is_ours(task_class) -> bool:
    return getattr(task_class, "__module__", "").startswith(__name__.partition(".")[0])
