#!/usr/bin/env python
"""Drop or merge layers of a checkpoint, those named or those that a scan finds to matter least, and make them narrower.

    python scripts/prune_layers.py --checkpoint whisper.pt --decoder 3,4 --out student.pt
    python scripts/prune_layers.py --checkpoint whisper.pt --decoder 1+2,3+4 --out merged.pt
    python scripts/prune_layers.py --checkpoint teacher.pt --keep-decoder 2 --by loss --data data --out student.pt
    python scripts/prune_layers.py --checkpoint teacher.pt --decoder 3,4 --units 768 --heads 4 --out student.pt
    python scripts/prune_layers.py --checkpoint whisper.pt --units 1152 --rank activation --refit --out cut.pt talk.wav
    python scripts/prune_layers.py --checkpoint whisper.pt --decoder 1,3,4 --refit --minutes 10 --out fast.pt talk.wav

Layers count from 1; 1+2 is one layer in place of two, with the means of their weights. Of a Whisper and a DeltaLM,
layers of encoder and decoder can go, of a hubert_deltalm those of the decoder (compress_hubert.py makes its HuBERT
smaller). The checkpoint that was being trained loses its optimizer: go on with --whisper-path, or with
--finetune-from-model.

--units and --heads cut feed-forward units and attention heads of each layer of a Whisper; of the exports, onnx alone
holds fewer heads. --rank says which: those with the smallest weights (norm), those that add the least to the residual
on some minutes of speech (activation), or those without which the loss changes least, on the text that the model itself
writes (taylor, fisher). With --refit, all matrices make up for the units, heads and layers that are gone: one after the
other, least squares bring the output of each, or the sum that it is added to, near to the whole model's on the speech.
Give it ten minutes or more (--minutes).
"""

import itertools
import json
from functools import partial
from pathlib import Path

from _cli import PlainParser, complete, positive, run

import torch
from _calibration import add_speech_options, calibration_clips, read_recordings
from fairseq import checkpoint_utils
from omegaconf import open_dict

from fairseq_prune.benchmarks.weight_calibration import (
    RANKS,
    after_structure,
    structure_moments,
    structure_scores,
)
from fairseq_prune.benchmarks.weight_fitting import refitted_all, whole_name
from fairseq_prune.checkpoints.loading import load_checkpoint_file, load_fairseq_state
from fairseq_prune.checkpoints.saving import save
from fairseq_prune.checkpoints.whisper.foreign import is_whisper
from fairseq_prune.cuts.base import count_weights
from fairseq_prune.cuts.families import family_of
from fairseq_prune.cuts.fewer_layers import with_fewer_layers
from fairseq_prune.cuts.narrower_layers import with_narrower_layers
from fairseq_prune.inference.whisper.loading import WhisperPipeline
from fairseq_prune.pruning.layers import BlockInfluence, drop_by_loss, most_influential

SIDES = ("encoder", "decoder")


def parse_layers(text, count, option):
    """Groups of layers from 0, each to become one, of a list that counts from 1, such as 1-2,4 or 1+2,3+4.

    Raises:
        ValueError: no such list, or a layer that is not there.
    """
    groups = []
    for part in text.split(","):
        joined = part.split("+")
        first, _, last = part.strip().partition("-")
        if len(joined) > 1 and all(number.strip().isdecimal() for number in joined):
            groups.append([int(number) for number in joined])
        elif first.isdecimal() and (last or first).isdecimal():
            groups += [[layer] for layer in range(int(first), int(last or first) + 1)]
        else:
            raise ValueError(f"{option}: found {text!r}, expected layers such as 1-2,4 or 1+2,3+4")
    layers = [layer for group in groups for layer in group]
    wrong = [layer for layer in layers if not 1 <= layer <= count]
    if wrong or not layers or sorted(set(layers)) != layers:
        found = f"layer {wrong[0]}" if wrong else repr(text)
        raise ValueError(f"{option}: found {found}, expected different layers from 1 to {count}, ascending")
    return [[layer - 1 for layer in group] for group in groups]


class Calibration:
    """The model, and batches of a split of its task.

    Raises:
        ValueError: the split has no utterance.
    """

    def __init__(self, args):
        state = load_fairseq_state(args.checkpoint)
        with open_dict(state["cfg"].task) as task:
            task.data = args.data
        [self.model], _, self.task = checkpoint_utils.load_model_ensemble_and_task(
            [str(args.checkpoint)], state=state
        )
        self.model.eval()
        self.task.load_dataset(args.split, task_cfg=state["cfg"].task)
        batches = self.task.get_batch_iterator(
            self.task.dataset(args.split), max_sentences=args.batch_size
        ).next_epoch_itr(shuffle=False)
        self.samples = list(itertools.islice(batches, -(-args.utterances // args.batch_size)))
        if not self.samples:
            raise ValueError(f"{args.data}: split {args.split} has no utterance")
        self.pad = self.task.target_dictionary.pad()

    def layers(self, stack):
        """The stack's layers in the model."""
        module = self.model
        for name in stack.prefix.strip(".").split("."):
            module = getattr(module, name)
        return module

    @torch.inference_mode()
    def loss(self):
        """Cross-entropy of the targets, in nats a token."""
        total = tokens = 0
        for sample in self.samples:
            output = self.model(**sample["net_input"])
            log_probs = self.model.get_normalized_probs(output, log_probs=True, sample=sample)
            valid = sample["target"] != self.pad
            total -= log_probs[valid].gather(1, sample["target"][valid][:, None]).double().sum().item()
            tokens += int(valid.sum())
        return total / tokens

    @torch.inference_mode()
    def influence(self, side, stack):
        """Block influence of each layer of a side, over positions that are no padding."""
        with BlockInfluence(self.layers(stack)) as influence:
            for sample in self.samples:
                self.model(**sample["net_input"])
                valid = self._valid(side, sample["net_input"], influence.shape())
                influence.add(valid if stack.batch_first else valid.T)
        return influence.values()

    def _valid(self, side, inputs, shape):
        """True on what is no padding; in Whisper's encoder on the audio, not on the silence up to 30 s."""
        if side == "decoder":
            return inputs["prev_output_tokens"] != self.pad
        lengths = inputs["src_lengths"]
        if inputs["src_tokens"].dim() == 3:  # spectrograms, whose frames the encoder halves
            return torch.arange(shape[1]) < (lengths[:, None] + 1) // 2
        return inputs["src_tokens"] != self.task.source_dictionary.pad()


def choose(args, calibration, side, stack, count):
    """Layers to keep of a side by the scan that is asked for, which is printed; and the scan."""
    keep = getattr(args, f"keep_{side}")
    if args.by == "influence":
        influences = calibration.influence(side, stack)
        kept = most_influential(influences, keep)
        print(f"| {side} layer | block influence | |\n|---|---|---|")
        for layer, value in enumerate(influences):
            print(f"| {layer + 1} | {value:.4f} | {'kept' if layer in kept else 'dropped'} |")
        return kept, influences
    whole = calibration.loss()
    kept, steps = drop_by_loss(calibration.layers(stack), keep, calibration.loss)
    names = range(1, count + 1)
    print(f"| {side}, loss {whole:.4f} | " + " | ".join(f"without {name}" for name in names) + " | dropped |")
    print("|---" * (count + 2) + "|")
    for number, losses in enumerate(steps, start=1):
        cells = [f"{losses[name - 1]:.4f}" if name - 1 in losses else "" for name in names]
        print(f"| step {number} | {' | '.join(cells)} | {min(losses, key=losses.get) + 1} |")
    return kept, {"loss": whole, "steps": [{name + 1: loss for name, loss in step.items()} for step in steps]}


def check_speech(args):
    """Raise ValueError where --rank and --refit do not go with the other options."""
    if args.rank == "norm" and not args.refit:
        if args.audio or args.manifest:
            raise ValueError("--rank norm needs no speech, found some")
        return
    if not is_whisper(args.checkpoint):
        raise ValueError(f"{args.checkpoint}: no Whisper, expected one for --rank and --refit")
    if args.rank != "norm" and args.units is None and args.heads is None:
        raise ValueError(f"--rank {args.rank}: nothing to rank, expected --units or --heads")
    for side in SIDES:
        if "+" in (getattr(args, side) or ""):
            raise ValueError(
                f"--{side}: merged layers cannot be fitted to one; expected layers to keep with --rank or --refit"
            )


def evidence(args, kept, smaller, aside):
    """Importances of units and heads, and what fits weights to a cut, as --rank and --refit ask; None for neither.

    Args:
        kept: groups of layers by side, of a single layer each.
        smaller: the checkpoint with these layers alone.
        aside: where it can be written to be loaded.
    """
    if args.rank == "norm" and not args.refit:
        return None, None
    recordings = read_recordings(args)
    pipeline = WhisperPipeline(args.checkpoint, args.model_overrides)
    clips = calibration_clips(pipeline, recordings, args)
    layers = {side: [layer for [layer] in groups] for side, groups in kept.items()}
    model = pipeline.model
    if layers:
        save(smaller, aside)
        model = WhisperPipeline(aside, args.model_overrides).model
    importances = None
    if args.rank != "norm":
        moments = structure_moments(pipeline.model, clips, "activations")
        found = structure_scores(args.rank, pipeline.model, clips, moments, args.rank)
        importances = {name: found[whole_name(name, layers)] for name in after_structure(model)[0]}
    fit = partial(refitted_all, pipeline.model, clips, smaller=model, kept=layers)
    return importances, fit if args.refit else None


def main(args):
    with complete(args.out, args.overwrite) as out:
        check_speech(args)
        checkpoint = load_checkpoint_file(args.checkpoint, mmap=True)
        model = (checkpoint.get("cfg") or {}).get("model") or {}
        name = str(model.get("_name"))
        stacks, kept, scans, calibration = family_of(checkpoint, args.checkpoint).stacks, {}, {}, None
        for side in SIDES:
            listed, keep = getattr(args, side), getattr(args, f"keep_{side}")
            option = f"--{side}" if listed else f"--keep-{side}"
            if listed is None and keep is None:
                continue
            if listed and keep:
                raise ValueError(f"--{side} and --keep-{side}: expected one of the two")
            if side not in stacks:
                raise ValueError(f"{option}: the {side} of a model {name} cannot be cut here")
            count = model[stacks[side].option]
            if listed:
                kept[side] = parse_layers(listed, count, option)
            elif keep > count:
                raise ValueError(f"{option}: found {keep}, expected at most its {count} layers")
            elif args.data is None:
                raise ValueError(f"{option} needs --data, to choose the layers on")
            else:
                calibration = calibration or Calibration(args)
                layers, scans[side] = choose(args, calibration, side, stacks[side], count)
                kept[side] = [[layer] for layer in layers]
        narrower = args.units is not None or args.heads is not None
        if not kept and not narrower:
            raise ValueError(
                "expected --encoder, --decoder, --keep-encoder, --keep-decoder, --units or --heads"
            )
        smaller = with_fewer_layers(checkpoint, kept, str(args.checkpoint))
        if narrower or args.refit:
            found = evidence(args, kept, smaller, out.with_name("fewer_layers.pt"))
            smaller = with_narrower_layers(smaller, args.units, args.heads, str(args.checkpoint), *found)
        save(smaller, out)
        loaded = load_fairseq_state(out)
        if loaded.get("task_state"):  # without it, the task needs its data folder to build a model
            checkpoint_utils.load_model_ensemble_and_task([str(out)], state=loaded)
    if args.report:
        args.report.write_text(json.dumps(scans, indent=1), encoding="utf-8")
    for side, groups in kept.items():
        names = ("+".join(str(layer + 1) for layer in group) for group in groups)
        print(f"{side}: layers {', '.join(names)} of {model[stacks[side].option]}")
    parameters, _ = count_weights(load_checkpoint_file(args.out, mmap=True)["model"])
    print(f"{args.out}: {parameters:,} parameters")


if __name__ == "__main__":
    parser = PlainParser(__doc__)
    add = parser.add_argument
    add("--checkpoint", type=Path, required=True, help="whisper, deltalm or hubert_deltalm")
    for side in SIDES:
        add(
            f"--{side}",
            metavar="LAYERS",
            help=f"{side} layers to keep, such as 3,4 or 1-2,4, or to merge: 1+2",
        )
        add(
            f"--keep-{side}", type=positive(int), metavar="N", help=f"keep this many {side} layers, by a scan"
        )
    add_speech_options(parser)
    add("--rank", choices=RANKS, default="norm", help="what units and heads are ranked by (default: norm)")
    add("--refit", action="store_true", help="least squares: what stays makes up for what is gone")
    add("--units", type=positive(int), metavar="N", help="feed-forward units that each layer keeps (Whisper)")
    add("--heads", type=positive(int), metavar="N", help="heads that each attention block keeps (Whisper)")
    add(
        "--by",
        choices=("influence", "loss"),
        default="influence",
        help="influence: 1 - cosine of a layer's input and output (default); loss: without it, one by one",
    )
    add("--data", help="data folder of the checkpoint's task, for the scan")
    add("--split", default="dev", help="split to scan on (default: dev)")
    add("--utterances", type=positive(int), default=64, help="of it (default: 64)")
    add("--batch-size", type=positive(int), default=8, help="utterances at a time (default: 8)")
    add("--report", type=Path, help="write the scan as JSON too")
    add("--out", type=Path, required=True, help="checkpoint to write")
    add("--overwrite", action="store_true", help="replace what is there")
    run(main, parser)
